"""A chain knows at load which policy has which phase, and runs them in the order that is said."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.chain import Chain, Step
from proxy.errors import ProxyError
from proxy.exchange import Answer, Attempt, Target
from proxy.policy import Fallback, Policy, Retry, Verdict, Veto
from proxy.testing import exchange_builder, policy_builder


def chain(*phases: dict[str, Any], closed: bool = False, when: Any = None) -> Chain:
    """A chain of policies made of phase functions."""
    steps = []
    for number, one in enumerate(phases):
        kind = type(f"P{number}", (Policy,), {"name": f"p{number}", **one})
        steps.append(Step(policy_builder(kind), closed, when))
    return Chain("made", steps)


async def _nothing(self: Any, *_: Any) -> None:
    return None


def test_a_chain_pays_only_for_the_phases_it_has():
    empty, asking = chain(), chain({"on_request": _nothing})
    flags = ["asks", "answers", "finishes", "settles", "attempts", "opens_streams"]
    assert [getattr(empty, flag) for flag in flags] == [False] * 6
    assert [getattr(asking, flag) for flag in flags] == [True] + [False] * 5
    assert chain({"on_done": _nothing}).finishes
    assert chain({"on_result": _nothing}).attempts
    assert chain({"late_commit": True}).late_commit


async def test_entered_counts_those_above_the_answer():
    async def answer(self: Any, exchange: Any) -> Answer:
        return Answer(200, [], origin="policy")

    made = chain({"on_request": _nothing}, {"on_request": answer}, {"on_request": _nothing})
    exchange = exchange_builder()
    assert await made.down(exchange) is not None
    assert exchange.entered == 1
    exchange = exchange_builder()
    assert await chain({"on_request": _nothing}, {}).down(exchange) is None
    assert exchange.entered == 2


async def test_a_when_that_does_not_hold_skips_every_phase():
    done: list[str] = []

    async def note(self: Any, *_: Any) -> None:
        done.append("called")

    made = chain(
        dict.fromkeys(("on_request", "on_attempt", "on_attempt_end", "on_settle", "on_done"), note),
        when=lambda x: False,
    )
    exchange = exchange_builder()
    attempt = Attempt(1, 1, Target("up"), "up", 0.0)
    await made.down(exchange)
    await made.begin_attempt(exchange, attempt)
    await made.end_attempt(exchange, attempt)
    await made.settle(exchange)
    await made.done(exchange)
    assert done == []


@pytest.mark.parametrize("outer_first", [True, False])
async def test_a_retry_comes_before_a_fallback_wherever_it_stands(outer_first):
    async def retry(self: Any, *_: Any) -> Retry:
        return Retry(1.0)

    async def fall_back(self: Any, *_: Any) -> Fallback:
        return Fallback(Target("other"))

    order = [{"on_result": retry}, {"on_result": fall_back}]
    made = chain(*(order if outer_first else order[::-1]))
    said = await made.judge(exchange_builder(), Attempt(1, 1, Target("up"), "up", 0.0), Verdict("timeout"))
    assert said == Retry(1.0)


async def test_an_attempt_ends_once_innermost_first_for_those_that_returned():
    ended: list[int] = []

    def end(number: int) -> Any:
        async def phase(self: Any, *_: Any) -> None:
            ended.append(number)

        return phase

    async def veto(self: Any, *_: Any) -> Veto:
        return Veto("target", ProxyError("circuit_open", "x"))

    made = chain(
        {"on_attempt": _nothing, "on_attempt_end": end(0)},
        {"on_attempt": veto, "on_attempt_end": end(1)},
        {"on_attempt": _nothing, "on_attempt_end": end(2)},
    )
    exchange, attempt = exchange_builder(), Attempt(1, 1, Target("up"), "up", 0.0)
    said = await made.begin_attempt(exchange, attempt)
    assert isinstance(said, Veto)
    assert said.error.policy == "p1"
    await made.end_attempt(exchange, attempt)
    await made.end_attempt(exchange, attempt)
    assert ended == [1, 0]


def test_a_split_puts_what_stands_below_into_a_chain_of_its_own():
    made = chain({"on_request": _nothing}, {"splits": True}, {"on_attempt": _nothing})
    assert made.split is not None
    assert made.below is not None
    assert ([step.label for step in made.steps], [step.label for step in made.below.steps]) == (["p0", "p1"], ["p2"])
    assert not made.attempts
    assert made.below.attempts
    assert [policy.name for policy in made.policies] == ["p0", "p1", "p2"]
