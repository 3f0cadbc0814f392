"""What is learned of estimates, and how long it is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.gauge import Gauge


def test_before_the_first_answer_the_estimate_stands_and_is_doubted():
    gauge = Gauge()
    assert gauge.expect(100)[0] == 100
    assert gauge.expect(100)[1] == 2_300
    assert gauge.expect(0)[1] == gauge.expect(0)[0] == 0


def test_more_than_estimated_is_reserved_from_then_on_less_is_not():
    gauge = Gauge()
    gauge.learn(100, 150)
    assert (gauge.expect(100)[0], gauge.expect(101)[0], gauge.expect(100)[1]) == (150, 152, 0)
    gauge.learn(100, 20)
    assert gauge.expect(100)[0] == 150
    quiet = Gauge()
    quiet.learn(100, 20)
    assert (quiet.expect(100)[0], quiet.expect(100)[1]) == (100, 0)


def test_a_size_is_learned_apart_because_what_is_added_weighs_more_on_a_short_call():
    gauge = Gauge()
    gauge.learn(8, 1_000)
    assert gauge.expect(8)[0] == 1_000
    assert gauge.expect(10_000)[0] == 10_000
    assert gauge.expect(10_000)[1] == 32_000


def test_what_was_high_once_is_forgotten():
    gauge = Gauge()
    gauge.learn(100, 900)
    for _ in range(255 + 256):
        assert gauge.expect(100)[0] == 900
        gauge.learn(100, 110)
    assert gauge.expect(100)[0] == 110


def test_the_longest_answer_without_a_limit_is_kept():
    gauge = Gauge()
    assert gauge.longest.value == 0
    gauge.longest.see(5_000)
    gauge.longest.see(400)
    assert gauge.longest.value == 5_000


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.integers(0, 1 << 22)), max_size=40))
def test_what_was_just_seen_would_have_fitted(seen):
    gauge = Gauge()
    for estimate, charged in seen:
        gauge.learn(estimate, charged)
        assert gauge.expect(estimate)[0] >= charged
        assert gauge.expect(estimate)[0] >= estimate


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 600)), max_size=1_200))
def test_fair_are_exactly_the_sizes_whose_estimates_are_taken_as_they_are(answers):
    gauge = Gauge()
    for estimate, charged in answers:
        gauge.learn(estimate, charged)
    for estimate in (1, 2, 5, 9, 17, 40, 100, 200, 300):
        size = estimate.bit_length()
        expects = gauge.expect(estimate)
        if size in gauge.fair:
            assert expects == (estimate, 0)
        else:
            assert size not in gauge._inputs or gauge._inputs[size].value > 1.0
