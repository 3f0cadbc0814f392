"""What is learned of estimates, and how long it is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.gauge import Gauge


def test_before_the_first_answer_the_estimate_stands_and_is_doubted():
    gauge = Gauge()
    assert gauge.input(100) == 100
    assert gauge.doubt(100) == 2_300
    assert gauge.doubt(0) == gauge.input(0) == 0


def test_more_than_estimated_is_reserved_from_then_on_less_is_not():
    gauge = Gauge()
    gauge.learn(100, 150)
    assert (gauge.input(100), gauge.input(101), gauge.doubt(100)) == (150, 152, 0)
    gauge.learn(100, 20)
    assert gauge.input(100) == 150
    quiet = Gauge()
    quiet.learn(100, 20)
    assert (quiet.input(100), quiet.doubt(100)) == (100, 0)


def test_a_size_is_learned_apart_because_what_is_added_weighs_more_on_a_short_call():
    gauge = Gauge()
    gauge.learn(8, 1_000)
    assert gauge.input(8) == 1_000
    assert gauge.input(10_000) == 10_000
    assert gauge.doubt(10_000) == 32_000


def test_what_was_high_once_is_forgotten():
    gauge = Gauge()
    gauge.learn(100, 900)
    for _ in range(255 + 256):
        assert gauge.input(100) == 900
        gauge.learn(100, 110)
    assert gauge.input(100) == 110


def test_the_longest_answer_without_a_limit_is_assumed_if_it_is_longer():
    gauge = Gauge()
    assert gauge.output(1_000) == 1_000
    gauge.learn_output(400)
    assert gauge.output(1_000) == 1_000
    gauge.learn_output(5_000)
    assert gauge.output(1_000) == 5_000


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.integers(0, 1 << 22)), max_size=40))
def test_what_was_just_seen_would_have_fitted(seen):
    gauge = Gauge()
    for estimate, charged in seen:
        gauge.learn(estimate, charged)
        assert gauge.input(estimate) >= charged
        assert gauge.input(estimate) >= estimate
