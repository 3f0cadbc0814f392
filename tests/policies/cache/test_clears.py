"""Replicas tell each other that they have cleared."""

from __future__ import annotations

import pytest

from proxy.policies.cache.clears import Clears
from proxy.state.memory import MemoryState


@pytest.fixture
async def pair():
    """Two replicas with one state, and how often each had to forget."""
    state = MemoryState()
    await state.start()
    made = []
    for _ in range(2):
        clears, forgot = Clears("space"), []
        clears.tell_through(state)
        clears.by_others.append(lambda forgot=forgot: forgot.append(1))
        made.append((clears, forgot))
    yield made
    await state.close()


async def test_a_clear_is_heeded_by_the_other_once_and_not_by_oneself(pair):
    (one, forgot), (other, other_forgot) = pair
    one.tell()
    assert [one.heed(), other.heed(), other.heed()] == [0, 1, 1]
    assert (len(forgot), len(other_forgot)) == (0, 1)


async def test_who_comes_later_has_nothing_to_forget(pair):
    (one, _), (other, _) = pair
    one.tell()
    late = Clears("space")
    late.tell_through(other._state)
    assert late.heed() == 0


async def test_another_namespace_is_another_matter(pair):
    (one, _), (other, _) = pair
    apart = Clears("apart")
    apart.tell_through(other._state)
    one.tell()
    assert apart.heed() == 0


def test_without_a_shared_state_nobody_is_told():
    clears = Clears("space")
    clears.tell()
    assert clears.heed() == 0
