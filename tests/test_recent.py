"""Counts of the last seconds, and a quantile of the latest values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.recent import Latest, Recent


def test_sums_hold_what_is_inside_the_window() -> None:
    recent = Recent(10)
    recent.add(100.2, 3, 1)
    recent.add(105.0, 2, 0)
    assert (recent.all, recent.some) == (5, 1)
    assert (recent.at(109.9).all, recent.some) == (5, 1)
    assert (recent.at(110.0).all, recent.some) == (2, 0)
    assert (recent.at(200.0).all, recent.some) == (0, 0)


def test_time_that_goes_back_counts_in_the_newest_cell() -> None:
    recent = Recent(3)
    recent.add(50.0, 1, 0)
    recent.add(48.0, 1, 0)
    assert recent.at(52.9).all == 2
    assert recent.at(53.0).all == 0


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(0, 3), st.integers(0, 3)), max_size=60), st.integers(1, 12))
def test_sums_equal_a_plain_count(steps: list[tuple[float, int, int]], seconds: int) -> None:
    recent = Recent(seconds)
    steps.sort()
    for now, all_, some in steps:
        recent.add(now, all_, some)
    end = steps[-1][0] if steps else 0.0
    inside = [(a, s) for now, a, s in steps if int(now) > int(end) - seconds]
    assert (recent.at(end).all, recent.some) == (sum(a for a, _ in inside), sum(s for _, s in inside))


def test_no_quantile_before_enough_values() -> None:
    latest = Latest(0.95, least=20)
    for value in range(19):
        latest.add(float(value))
    assert latest.value is None
    latest.add(19.0)
    assert latest.value == 18.0  # nearest rank: 19 of 20 values do not exceed it


def test_quantile_follows_the_latest_values() -> None:
    latest = Latest(0.5, size=64, least=4)
    for _ in range(64):
        latest.add(1.0)
    for _ in range(64):
        latest.add(5.0)
    assert latest.value == 5.0
