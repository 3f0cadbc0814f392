"""A phase: the hooks of a call, and what is left of them when a loop over them stops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.phase import Phase
from proxy.policy import Policy
from proxy.step import Step
from proxy.testing import policy_builder


class Named(Policy):
    name = "named"


STEP = Step(policy_builder(Named), closed=True)


def phase(numbers) -> Phase:
    return Phase([(number, lambda number=number: number, STEP) for number in numbers])


def numbers(entries) -> list[int]:
    return [index for index, _, _ in entries]


def test_who_entered_more_than_the_last_has_entered_all():
    assert phase([4, 2, 1]).last == 4
    assert phase([]).last == -1
    assert not phase([])


@given(st.lists(st.integers(0, 20), unique=True), st.integers(0, 21), st.integers(0, 2**20))
def test_it_is_narrowed_to_what_a_call_entered_and_did_not_skip(every, entered, skipped):
    found = phase(every).of(entered, skipped)
    assert numbers(found.entries) == [one for one in every if one < entered and not skipped >> one & 1]
    assert [hook() for hook in found.hooks] == numbers(found.entries)


def test_a_narrowed_phase_is_made_once_and_their_number_is_bounded():
    whole = phase(range(12))
    assert whole.of(12, 5) is whole.of(12, 5)
    for skipped in range(2000):
        whole.of(12, skipped)
    assert len(whole._narrowed) <= 256


@given(st.lists(st.integers(0, 20), min_size=1, unique=True), st.data())
def test_a_loop_that_stops_knows_where_and_does_not_call_the_same_hook_again(every, data):
    made = phase(every)
    left = iter(made.hooks)
    stop = data.draw(st.integers(0, len(every) - 1))
    for at, _ in enumerate(left):
        if at == stop:
            break
    assert made.called(left)[0] == every[stop]
    rest = list(made.rest(left, "said"))
    assert numbers(rest) == every[stop:]
    assert rest[0][1]("whatever") == "said"
    assert [hook() for _, hook, _ in rest[1:]] == every[stop + 1 :]
