"""Keys that stand equal: the rows say what sorting all of them would say."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.clock import FakeClock
from proxy.state import MemoryState
from proxy.upstream.keys import Key, KeyRing
from proxy.upstream.keys.key import Life
from proxy.upstream.keys.liking import stickiness
from proxy.upstream.keys.peers import Peers

STRATEGIES = [
    ["priority"], ["round_robin"], ["weighted"], ["least_loaded"], ["fastest"], ["sticky"], ["least_loaded", "cheapest"],
    ["weighted", "fastest"], ["least_loaded", "sticky"], ["fastest", "task", "round_robin"],
]  # fmt: skip


def ring_of(strategies, count, clock, **options):
    keys = [Key(f"k{n}", "s", weight=1 + n % 3, cost_per_token=n % 2, **options) for n in range(count)]
    return KeyRing("pool", keys, strategies, MemoryState(clock), clock)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(STRATEGIES), st.integers(2, 9), st.integers(0, 2**32), st.booleans())
def test_the_best_is_the_first_of_all_sorted(strategies, count, seed, limited):
    dice = random.Random(seed)
    clock = FakeClock()
    ring = ring_of(strategies, count, clock, **({"max_rpm": 500, "max_concurrent": 500} if limited else {}))
    leases = []
    for _ in range(120):
        clock.advance(dice.random() * 0.2)
        what = dice.random()
        if what < 0.6:
            sticky = f"s{dice.randint(0, 5)}" if "sticky" in strategies else None
            (peers,) = ring.tiers.of("t", "m")
            now = clock.monotonic()
            if now >= ring.tiers.look_at:
                ring.tiers.look(now)
            expected = peers.ordered(sticky, now)[0]
            lease = ring.try_choose("t", "m", 5, sticky)
            if lease:
                assert lease.key is expected
                leases.append(lease)
        elif leases:
            ring.end(leases.pop(dice.randrange(len(leases))), sent=1, status=200, first_byte=dice.random())


def test_sticky_is_rendezvous_hashing():
    keys = [Key(f"k{n}", "s") for n in range(7)]
    everybody, without = Peers(keys, ["sticky"]), Peers(keys[:3] + keys[4:], ["sticky"])
    for number in range(500):
        name = f"conversation-{number}"
        home = everybody.best(name, 0.0)
        order = everybody.ordered(name, 0.0)
        assert order[0] is home and len(order) == 7
        if home is not keys[3]:
            assert without.best(name, 0.0) is home  # a key that goes moves nobody else
        else:
            assert without.best(name, 0.0) is order[1]
    assert stickiness(5, keys[0]) == stickiness(5, Key("k0", "other secret"))


def test_weighted_is_exact_over_a_round_and_a_key_that_comes_back_does_not_flood():
    clock = FakeClock()
    keys = [Key("a", "s", weight=5), Key("b", "s", weight=3), Key("c", "s", weight=1)]
    ring = KeyRing("pool", keys, ["weighted"], MemoryState(clock), clock)

    def use(count):
        return "".join(ring.try_choose(None, None, 0).key.id for _ in range(count))

    for _ in range(5):
        used = use(9)
        assert [used.count(name) for name in "abc"] == [5, 3, 1]
        assert "bb" not in used and "aaa" not in used
    ring.state.cool("key:a", 100)
    assert set(use(400)) == {"b", "c"}
    clock.advance(101)
    used = use(18)
    assert 9 <= used.count("a") <= 11


def test_turns_go_on_after_a_reload():
    lives: dict[str, Life] = {}
    clock = FakeClock()
    state = MemoryState(clock)
    before = KeyRing("pool", [Key("a", "s"), Key("b", "s")], ["round_robin"], state, clock, lives=lives)
    for _ in range(100):
        before.try_choose(None, None, 0)
    after = KeyRing("pool", [Key("a", "s"), Key("b", "s")], ["round_robin"], state, clock, lives=lives)
    assert [after.try_choose(None, None, 0).key.id for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_key_that_is_out_rests_and_comes_back_in_time():
    clock = FakeClock()
    ring = ring_of(["round_robin"], 3, clock)
    ring.state.cool("key:k1", 10)
    assert {ring.try_choose(None, None, 0).key.id for _ in range(9)} == {"k0", "k2"}
    clock.advance(9.9)
    assert {ring.try_choose(None, None, 0).key.id for _ in range(9)} == {"k0", "k2"}
    clock.advance(0.1)
    assert ring.try_choose(None, None, 0).key.id == "k1"
    ring.switch("k0", on=False)
    assert {ring.try_choose(None, None, 0).key.id for _ in range(9)} == {"k1", "k2"}
    ring.switch("k0", on=True)
    assert ring.try_choose(None, None, 0).key.id == "k0"


def test_peers_that_nobody_asks_are_told_no_more():
    clock = FakeClock()
    keys = [Key("x", "s", task_types=["t"]), Key("y", "s", task_types=["t", "u"]), Key("z", "s", task_types=["u"])]
    ring = KeyRing("pool", keys, ["task", "least_loaded"], MemoryState(clock), clock)
    ring.end(ring.try_choose("u", None, 0), sent=1, status=200)
    assert len(keys[1].seats) == 1
    for _ in range(4):
        clock.advance(0.25)
        ring.end(ring.try_choose("t", None, 0), sent=1, status=200)
    assert [seat.peers.keys for seat in keys[1].seats] == [(keys[0], keys[1])]
    assert keys[2].seats == ()
    assert ring.try_choose("u", None, 0).key.id in ("y", "z")
    assert len(keys[1].seats) == 2


@pytest.mark.parametrize("strategies", STRATEGIES)
def test_fifty_keys_cost_hardly_more_than_two(strategies):
    def cost(count):
        ring = ring_of(strategies, count, FakeClock())
        best = float("inf")
        for _ in range(5):
            began = time.thread_time()
            for number in range(1000):
                ring.end(ring.try_choose(None, None, 0, f"s{number % 10}"), sent=1, status=200, first_byte=0.1)
            best = min(best, time.thread_time() - began)
        return best

    assert cost(50) < 2.5 * cost(2)
