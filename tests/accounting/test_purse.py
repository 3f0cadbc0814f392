"""Counters in hand: what is taken this way is what everybody else sees, and nothing is kept longer than needed."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.purse import Purse
from proxy.state import Counter, MemoryState, Share
from proxy.state.limits import Grant
from proxy.testing import FakeClock

DAY = 86_400.0


def counters(usd=1_000, tokens=300, calls=5, span=0.0):
    limits = {"usd": usd, "tokens": tokens, "calls": calls}
    return [
        (place, Counter(name, limit, span or DAY, span=span))
        for place, (name, limit) in enumerate(limits.items())
        if limit is not None
    ]


def figures(state, pairs):
    usage = [state.usage(counter) for _, counter in pairs]
    return [(entry.used, entry.held) for entry in usage]


def test_all_or_nothing_whichever_refuses():
    state, pairs = MemoryState(FakeClock()), counters()
    purse = Purse(state, pairs)
    assert purse.take((600, 100, 1))
    assert not purse.take((600, 100, 1))  # money
    assert not purse.take((100, 250, 1))  # tokens
    assert figures(state, pairs) == [(0, 600), (0, 100), (0, 1)]
    purse.settle((600, 100, 1), (50, 20, 1))
    assert figures(state, pairs) == [(50, 0), (20, 0), (1, 0)]
    assert "tokens" in repr(purse)


def test_a_mark_is_said_to_be_reached():
    purse = Purse(MemoryState(FakeClock()), counters())
    purse.pockets[1].mark = 50
    purse.take((1, 60, 1))
    assert not purse.settle((1, 60, 1), (1, 49, 1))
    purse.take((1, 60, 1))
    assert purse.settle((1, 60, 1), (1, 1, 1))


def test_what_is_spent_outlives_the_purse_and_no_longer_than_its_window():
    clock = FakeClock()
    state, pairs = MemoryState(clock), counters()
    purse = Purse(state, pairs)
    purse.take((10, 10, 1))
    clock.advance(2 * DAY)
    state.sweep(1_000)
    assert len(state.meters) == 3  # kept
    purse.settle((10, 10, 1), (10, 10, 1))
    del purse
    gc.collect()
    assert state.meters == {}
    purse = Purse(state, pairs)
    purse.take((10, 10, 1))
    purse.settle((10, 10, 1), (7, 10, 1))
    del purse
    gc.collect()
    assert figures(state, pairs)[0] == (7, 0)
    clock.advance(DAY + 1)
    state.sweep(1_000)
    assert (state.meters, len(state.sweeper)) == ({}, 0)


def test_what_is_settled_after_its_counter_was_forgotten_counts_for_a_window_more():
    clock = FakeClock()
    state, pairs = MemoryState(clock), counters()
    purse = Purse(state, pairs)
    purse.take((10, 10, 1))
    clock.advance(DAY + 1)
    assert figures(state, pairs)[0] == (0, 10)  # whoever asks finds the window over
    purse.settle((10, 10, 1), (7, 10, 1))
    del purse
    gc.collect()
    assert figures(state, pairs)[0] == (7, 0)


def test_a_worker_takes_its_share():
    purse = Purse(MemoryState(FakeClock(), Share(0, 2)), counters(calls=6))
    assert [purse.take((1, 1, 1)) for _ in range(4)] == [True, True, True, False]


AMOUNTS = st.tuples(st.integers(0, 700), st.integers(0, 200), st.integers(0, 2))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), AMOUNTS, st.booleans()),
        st.tuples(st.just("settle"), AMOUNTS, st.integers(0, 9)),
        st.tuples(st.just("wait"), st.integers(0, 30)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("kept", [("usd", "tokens", "calls"), ("tokens",)])
@pytest.mark.parametrize(("span", "workers"), [(0.0, 1), (0.0, 2), (60.0, 1)])
@given(steps=STEPS)
def test_it_says_and_counts_what_the_state_itself_would(span, workers, kept, steps):
    clock = FakeClock()
    pairs = [pair for pair in counters(span=span) if pair[1].name in kept]
    state, reference = [MemoryState(clock, Share(0, workers)) for _ in range(2)]
    purse = Purse(state, pairs)
    held: list[tuple[Grant | None, tuple[int, int, int], Grant]] = []
    for name, *rest in steps:
        if name == "take":
            amounts, by_name = rest
            claims = tuple((counter, amounts[place]) for place, counter in pairs)
            said = reference.try_reserve((claims,))
            if by_name:  # others reach the same meters by their names
                own = state.try_reserve((claims,))
                assert bool(own) == bool(said)
            else:
                own = None
                assert purse.take(amounts) == bool(said)
            if isinstance(said, Grant):
                held.append((own if isinstance(own, Grant) else None, amounts, said))
        elif name == "settle" and held:
            used, which = rest
            own, amounts, receipt = held.pop(which % len(held))
            reference.settle(receipt, [used[place] for place, _ in pairs])
            if own is None:
                purse.settle(amounts, used)
            else:
                state.settle(own, [used[place] for place, _ in pairs])
        elif name == "wait":
            clock.advance(rest[0])
        assert figures(state, pairs) == figures(reference, pairs)
        if workers > 1 or span:  # else nobody asks
            assert [state.meters[c.name].away for _, c in pairs] == [reference.meter(c).away for _, c in pairs]
    assert purse.claims((1, 2, 3)) == tuple((counter, place + 1) for place, counter in pairs)
