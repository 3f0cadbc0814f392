"""Policies that are asked at the same time: as if they had been asked in turn, in one wait instead of several."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from proxy.chain import Chain, Step
from proxy.errors import ProxyError
from proxy.exchange import Attempt, Target
from proxy.policy import Policy, Veto, Wait
from proxy.testing import called, exchange_builder, policy_builder

ended: list[str] = []


async def granted() -> None:
    await asyncio.sleep(0.05)


def saying(said: Any) -> Any:
    async def say() -> Any:
        await asyncio.sleep(0.01)
        if isinstance(said, Exception):
            raise said
        return said

    return say


def chain(*asked: Any, alongside: bool = True, closed: bool = True) -> Chain:
    """A chain of policies that say so before an attempt, and note that they were ended."""
    ended.clear()
    steps = []
    for number, one in enumerate(asked):

        def on_attempt(self: Any, *_: Any, one: Any = one) -> Any:
            return one()

        def on_attempt_end(self: Any, *_: Any) -> None:
            ended.append(self.name)

        phases = {"name": f"p{number}", "on_attempt": on_attempt, "on_attempt_end": on_attempt_end}
        kind = type(f"P{number}", (Policy,), {**phases, "alongside": alongside})
        steps.append(Step(policy_builder(kind), closed, None))
    return Chain("made", steps)


def attempt() -> Attempt:
    return Attempt(1, 1, Target("up"), "up", 0.0)


@pytest.mark.parametrize(("alongside", "waits"), [(True, 1), (False, 3)])
async def test_what_several_wait_for_is_waited_for_once(alongside: bool, waits: int) -> None:
    made, one = chain(granted, granted, granted, alongside=alongside), attempt()
    began = time.monotonic()
    assert await called(made.begin_attempt(exchange_builder(), one)) is None
    assert 0.05 * waits <= time.monotonic() - began < 0.05 * (waits + 1.5)
    await called(made.end_attempt(exchange_builder(), one))
    assert ended == ["p2", "p1", "p0"]


async def test_a_veto_goes_before_a_wait_and_a_wait_that_is_not_followed_is_dropped() -> None:
    dropped: list[str] = []
    first = Wait(granted, drop=lambda: dropped.append("first"))
    second = Wait(granted, drop=lambda: dropped.append("second"))
    veto = Veto("target", ProxyError("insufficient_quota", "spent"))

    assert await called(chain(saying(first), saying(second)).begin_attempt(exchange_builder(), attempt())) is first
    assert dropped == ["second"]
    made, one = chain(saying(first), saying(None), saying(veto)), attempt()
    assert await called(made.begin_attempt(exchange_builder(), one)) is veto
    assert dropped == ["second", "first"]
    assert veto.error.policy == "p2"
    await called(made.end_attempt(exchange_builder(), one))
    assert ended == ["p2", "p1", "p0"]  # what was granted beside a veto is given back


async def test_a_hook_that_raises_is_not_ended_and_its_neighbours_are() -> None:
    made, one = chain(saying(None), saying(ProxyError("policy_refused", "no")), saying(None)), attempt()
    said = await called(made.begin_attempt(exchange_builder(), one))
    assert isinstance(said, Veto) and said.scope == "call" and said.error.policy == "p1"
    await called(made.end_attempt(exchange_builder(), one))
    assert ended == ["p2", "p0"]
    made, one = chain(saying(None), saying(ValueError("bug")), closed=False), attempt()
    assert await called(made.begin_attempt(exchange_builder(), one)) is None
    await called(made.end_attempt(exchange_builder(), one))
    assert ended == ["p0"]


async def test_when_the_client_leaves_those_that_had_returned_are_ended() -> None:
    made, one = chain(saying(None), granted, saying(None)), attempt()
    asking = asyncio.ensure_future(made.begin_attempt(exchange_builder(), one))  # type: ignore[arg-type]
    await asyncio.sleep(0.03)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await called(made.end_attempt(exchange_builder(), one))
    assert ended == ["p2", "p0"]
