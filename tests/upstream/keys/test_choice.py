"""The quick way to choose a key decides like a slow one that looks at every key for every call."""

import random
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.clock import FakeClock
from proxy.state import MemoryState
from proxy.upstream.keys import STRATEGIES, Key, KeyRing
from proxy.upstream.keys.liking import stickiness
from proxy.upstream.keys.strategies import STATIC, split, standing, tiers

TASKS = (None, "t", "u")


class Slowly:
    """Says which key a ring has to choose. Keeps nothing of its own but what `weighted` owes, tier by tier."""

    def __init__(self, ring):
        self.ring = ring
        self.leading, self.others = split(ring.strategies)
        self.weights = {}

    def choose(self, task, tokens, sticky, excluded):
        for tier in tiers(self.ring.keys, self.leading, task, None, lambda _: None):
            places = {word: standing(tier, word, task, None, lambda _: None) for word in self.others if word in STATIC}
            peers = (tier, *places.values())
            passes, _ = self.weights.setdefault(peers, ({key: 0.5 / key.weight for key in tier}, [0.0]))
            for key in sorted(tier, key=self._order(tier, places, passes, sticky)):
                if key.id not in excluded and self._usable(key, tokens):
                    return peers, key
        return None, None

    def chosen(self, peers, key):
        passes, reached = self.weights[peers]
        reached[0] = max(reached[0], passes[key])
        passes[key] = reached[0] + 1 / key.weight

    def _order(self, tier, places, passes, sticky):
        slot = crc32(sticky.encode()) % 8192

        def row(key):
            life, figures = key.life, []
            for word in self.others:
                if word in STATIC:
                    figures.append(places[word][tier.index(key)])
                elif word == "round_robin":
                    figures.append(life.last_used)
                elif word == "weighted":
                    figures.append(passes[key])
                elif word == "least_loaded":
                    figures += [max(life.load, life.in_flight * key.part_of_slots), life.in_flight]
                elif word == "fastest":
                    figures.append(life.pace)
                elif word == "sticky":
                    figures.append(stickiness(slot, key))
            return (*figures, life.last_used, tier.index(key))

        return row

    def _usable(self, key, tokens):
        return self.ring.health.out(key, None) <= 0 and self.ring.state.peek(key.claims(tokens)) <= 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(STRATEGIES), min_size=1, max_size=8, unique=True),
    st.integers(1, 9),
    st.sampled_from(["none", "plenty", "tight"]),
    st.integers(0, 2**32),
)
def test_the_ring_chooses_like_one_that_looks_at_every_key(strategies, count, limits, seed):
    dice = random.Random(seed)
    clock = FakeClock()
    keys = []
    for n in range(count):
        most = dice.choice([3, 7]) if limits == "tight" else 500
        bounds = {} if limits == "none" else {"max_rpm": 4 * most, "max_tpm": 100 * most, "max_concurrent": most}
        bounds = {name: value for name, value in bounds.items() if dice.random() < 0.8}
        keys.append(
            Key(
                f"k{n}", "s", weight=1 + n % 3, priority=n % 2, cost_per_token=n % 3,
                task_types=dice.choice([(), (), ("t",), ("t", "u")]), **bounds,
            )
        )  # fmt: skip
    ring = KeyRing("pool", keys, strategies, MemoryState(clock), clock)
    slowly = Slowly(ring)
    leases = []
    for _ in range(150):
        clock.advance(dice.random() * dice.choice([0.05, 0.3]))
        what = dice.random()
        if what < 0.55:
            task, sticky, tokens = dice.choice(TASKS), f"s{dice.randint(0, 5)}", dice.choice([5, 20])
            excluded = {keys[0].id} if dice.random() < 0.1 else set()
            if clock.monotonic() >= ring.tiers.look_at:
                ring.tiers.look(clock.monotonic())
            peers, expected = slowly.choose(task, tokens, sticky, excluded)
            lease = ring.try_choose(task, None, tokens, sticky, excluded)
            assert (lease.key if lease else None) is expected
            if lease:
                slowly.chosen(peers, expected)
                leases.append(lease)
        elif what < 0.95 and leases:
            lease = leases.pop(dice.randrange(len(leases)))
            ring.end(lease, sent=1, outcome="answered", status=200, tokens=7, first_byte=dice.random())
        elif what < 0.98:
            ring.state.cool(f"key:{dice.choice(keys).id}", dice.choice([0.2, 1.0, 5.0]))
        else:
            ring.switch(dice.choice(keys).id, on=dice.random() < 0.6)
    for lease in leases:
        ring.end(lease, sent=1)
    assert all(key.life.in_flight == 0 for key in keys)
