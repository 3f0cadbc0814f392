"""The wheel: each entry is looked at when it is due, and hardly ever before."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.clock import FakeClock
from proxy.state.sweeper import LONGEST, Sweeper


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 200), min_size=1, max_size=50), st.floats(0.05, 400))
def test_everything_goes_soon_after_its_end_and_nothing_before(lives, step):
    clock = FakeClock(monotonic=1000.7)
    sweeper = Sweeper(clock.monotonic)
    looks: Counter[int] = Counter()
    ended: dict[int, float] = {}

    def look(key, now):
        looks[key] += 1
        left = lives[key] - (now - 1000.7)
        if left <= 0:
            ended[key] = now - 1000.7
        return left

    for key, seconds in enumerate(lives):
        sweeper.add(look, key, seconds)
    while len(sweeper):
        clock.advance(step)
        sweeper.sweep(10_000)
    for key, seconds in enumerate(lives):
        assert seconds <= ended[key] <= seconds + step + 0.51
        assert looks[key] <= 2 + seconds / LONGEST
    assert sweeper.sweep(100) == 0


def test_what_is_added_after_a_long_pause_is_not_taken_for_due():
    clock = FakeClock(monotonic=1.3)
    sweeper = Sweeper(clock.monotonic)
    looks = []
    for pause in (0, 3, 5, 30, 100, 1000):
        clock.advance(pause)
        sweeper.sweep(10)
        sweeper.add(lambda key, _now: looks.append(key) or 0.0, pause, LONGEST)
        sweeper.sweep(10)
        assert pause not in looks
    clock.advance(LONGEST + 1)
    sweeper.sweep(10)
    assert sorted(looks) == [0, 3, 5, 30, 100, 1000]


def test_a_slice_ends_where_it_is_told_to():
    clock = FakeClock()
    sweeper = Sweeper(clock.monotonic)
    for key in range(10):
        sweeper.add(lambda _key, _now: 0.0, key, 0.0)
    clock.advance(1)
    assert [sweeper.sweep(4) for _ in range(4)] == [4, 4, 2, 0]
    assert repr(sweeper) == "<Sweeper 0 entries>"
