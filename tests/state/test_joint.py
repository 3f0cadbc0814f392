"""Limits that are always taken together: what is taken this way is what everybody else sees."""

import gc

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.clock import FakeClock
from proxy.state import Bucket, MemoryState, Share, Slots, Window
from proxy.state.joint import Joint


def test_all_or_nothing_whichever_refuses():
    clock = FakeClock()
    state = MemoryState(clock)
    rpm, bucket, slots, tpm = Window("rpm", 3), Bucket("b", 1, 3), Slots("s", 2), Window("tpm", 100)
    joint = Joint(state, rates=(rpm, bucket), slots=(slots,), weighed=(tpm,))
    now = clock.monotonic()
    assert joint.take(60, now)
    assert not joint.take(60, now)  # tokens
    assert joint.take(10, now)
    assert not joint.take(10, now)  # places
    assert [state.usage(one).used for one in (rpm, bucket, tpm)] == [2, 2, 70]
    assert state.usage(slots).held == 2
    joint.settle(1, 60, 20, now, now)
    joint.settle(0, 10, 0, now, now)
    assert [state.usage(one).used for one in (rpm, bucket, tpm)] == [1, 1, 20]
    assert state.usage(slots).held == 0
    assert "rpm" in repr(joint)


def test_a_worker_takes_its_share():
    state = MemoryState(FakeClock(), Share(0, 2))
    joint = Joint(state, rates=(Window("rpm", 6),), slots=(Slots("s", 20),))
    assert [joint.take(0, 0.0) for _ in range(4)] == [True, True, True, False]


def test_what_is_kept_is_swept_when_its_keeper_is_gone():
    clock = FakeClock()
    state = MemoryState(clock)
    slow, quick = Bucket("slow", 0.1, 10), Bucket("quick", 100, 100)
    joint = Joint(state, rates=(slow, quick))
    joint.take(0, clock.monotonic())
    clock.advance(5)
    state.sweep(1000)
    assert set(state.meters) == {"slow", "quick"}
    del joint
    gc.collect()
    assert set(state.meters) == {"slow"}  # the other was full again
    clock.advance(100)
    state.sweep(1000)
    assert (state.meters, len(state.sweeper)) == ({}, 0)


def test_what_a_closed_one_still_owes_is_charged():
    clock = FakeClock()
    state = MemoryState(clock)
    rpm, tpm = Bucket("rpm", 10, 10), Bucket("tpm", 10, 100)
    joint = Joint(state, rates=(rpm,), weighed=(tpm,))
    stamp = clock.monotonic()
    joint.take(10, stamp)
    clock.advance(100)
    joint.close()
    joint.close()
    assert state.meters == {}
    joint.settle(1, 10, 60, stamp, clock.monotonic())
    assert (state.usage(tpm).used, state.usage(rpm).used) == (50, 0)
    clock.advance(100)
    state.sweep(1000)
    assert (state.meters, len(state.sweeper)) == ({}, 0)


def test_two_keepers_share_one_meter():
    clock = FakeClock()
    state = MemoryState(clock)
    bucket = Bucket("b", 0.1, 2)
    before, after = Joint(state, rates=(bucket,)), Joint(state, rates=(Bucket("b", 0.1, 2),))
    assert before.take(0, clock.monotonic()) and after.take(0, clock.monotonic())
    del before
    clock.advance(100)
    state.sweep(1000)
    assert after.take(0, clock.monotonic())
    assert state.usage(bucket).used == 1


def test_a_table_of_ones_own_is_tended():
    clock = FakeClock()
    state = MemoryState(clock)
    table = {"a": Joint(state, rates=(Bucket("a", 1, 60),)), "b": Joint(state, slots=(Slots("b", 1),))}
    for key, joint in table.items():
        joint.take(0, clock.monotonic())
        state.tend(table, key)
    del joint
    clock.advance(200)
    state.sweep(1000)
    assert set(table) == {"b"}  # a place is still held
    table["b"].settle(1, 0, 0, clock.monotonic(), clock.monotonic())
    clock.advance(200)
    state.sweep(1000)
    assert (table, state.meters, len(state.sweeper)) == ({}, {}, 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "end", "pass"]), st.integers(0, 40)), max_size=60))
def test_the_short_way_decides_like_the_long_one(steps):
    """The same calls by `Joint` and by `try_reserve`, in two states: the same answers and the same figures."""
    clock = FakeClock(monotonic=17.3)
    short, long = MemoryState(clock), MemoryState(clock)
    rpm, slots, tpm = Window("rpm", 5), Slots("s", 3), Window("tpm", 100)
    joint = Joint(short, rates=(rpm,), slots=(slots,), weighed=(tpm,))
    open_calls = []
    for what, number in steps:
        now = clock.monotonic()
        if what == "pass":
            clock.advance(number)
        elif what == "take":
            grant = long.try_reserve((((rpm, 1), (slots, 1), (tpm, number)),))
            assert joint.take(number, now) == bool(grant)
            if grant:
                open_calls.append((grant, number, now))
        elif open_calls:
            grant, tokens, stamp = open_calls.pop(number % len(open_calls))
            long.settle(grant, (1, 0, number))
            joint.settle(1, tokens, number, stamp, now)
        if number % 3 == 0:  # looking brings the meters' own bookkeeping up to date, so not every time
            for one in (rpm, slots, tpm):
                assert repr(short.usage(one)) == repr(long.usage(one))


def test_what_is_kept_counts_from_the_first_moment_however_late_the_sweeper_is():
    clock = FakeClock(monotonic=1.3)
    state = MemoryState(clock)
    table: dict[str, Joint] = {}
    for pause in (0.0, 3.8, 60.1, 300.0):
        clock.advance(pause)
        name = f"rpm {pause}"
        table[name] = Joint(state, rates=(Window(name, 5),))
        state.tend(table, name)
        assert table[name].take(0, clock.monotonic())
        clock.advance(1)
        state.tend(table, "nobody")
        assert table[name].take(0, clock.monotonic())
        assert state.usage(Window(name, 5)).used == 2
