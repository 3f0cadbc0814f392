"""When a second request may start."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from proxy.dialects.base import Dialect
from proxy.exchange import Attempt, Exchange, Target
from proxy.policies.hedge import Hedge, HedgeOptions
from proxy.policy import Veto
from proxy.testing import FakeClock, called, exchange_builder, policy_builder, services_builder


class Spoken(Dialect):
    """As much of a dialect as hedge asks for."""

    def __init__(self, operation: str = "chat") -> None:
        self.operation = operation

    def stateful(self, body: Any) -> bool:
        return "previous_response_id" in body


def hedge(clock: FakeClock | None = None, *, observe: bool = False, **options: object) -> Hedge:
    return policy_builder(Hedge, options, services=services_builder(clock), observe=observe)


def call(operation: str = "chat", **more: Any) -> Exchange:
    return exchange_builder(dialect=Spoken(operation), **more)


def first(target: str = "a") -> Attempt:
    return Attempt(1, 1, Target(target), target, 0.0)


async def armed(policy: Hedge, exchange: Exchange | None = None, target: str = "a") -> float | None:
    attempt = first(target)
    assert await called(policy.on_attempt(exchange or call(), attempt)) is None
    return attempt.hedge_after


async def fire(policy: Hedge, exchange: Exchange | None = None) -> Veto | None:
    attempt = Attempt(2, 1, Target("a"), "a", 0.0)
    attempt.hedge_of = first()
    return await called(policy.on_attempt(exchange or call(), attempt))


async def test_a_duration_arms_every_attempt() -> None:
    assert await armed(hedge(after="800ms")) == 0.8


async def test_a_quantile_waits_until_enough_was_seen() -> None:
    policy = hedge(after="p95")
    for number in range(20):
        assert await armed(policy) is None
        attempt = first()
        attempt.first_byte_at = float(number)
        attempt.outcome = "answered"
        await called(policy.on_attempt_end(call(), attempt))
    assert await armed(policy) == 18.0
    assert await armed(policy, target="b") is None


async def test_lost_attempts_keep_the_quantile_honest() -> None:
    policy = hedge(after="p50")
    for _ in range(20):
        attempt = first()
        attempt.outcome, attempt.ended_at = "lost", 7.0
        await called(policy.on_attempt_end(call(), attempt))
    assert await armed(policy) == 7.0


@pytest.mark.parametrize("operation", ["other", "batch"])
async def test_calls_that_may_not_happen_twice_are_left_alone(operation: str) -> None:
    assert await armed(hedge(after="1s"), call(operation)) is None


async def test_bodies_that_can_be_sent_once_are_left_alone() -> None:
    assert await armed(hedge(after="1s"), call(body=None)) is None


async def test_calls_that_refer_to_an_account_get_no_second_request() -> None:
    exchange = call(body={"model": "m", "previous_response_id": "resp_1"})
    assert isinstance(await fire(hedge(after="1s"), exchange), Veto)


async def test_hedges_stay_under_their_share_when_all_calls_are_late_together() -> None:
    clock = FakeClock()
    policy = hedge(clock, after="100ms", max_ratio=0.1)
    assert [await armed(policy) for _ in range(100)] == [0.1] * 100
    assert sum([await fire(policy) is None for _ in range(100)]) == 12  # 0.1 x 100 calls + 2
    assert await armed(policy) is None
    clock.advance(10.0)
    assert await fire(policy) is None


async def test_a_hedge_that_was_never_sent_costs_nothing() -> None:
    policy = hedge(after="1s", max_ratio=0)
    for _ in range(10):
        attempt = Attempt(2, 1, Target("a"), "a", 0.0)
        attempt.hedge_of = first()
        assert await called(policy.on_attempt(call(), attempt)) is None
        attempt.outcome = "vetoed"
        await called(policy.on_attempt_end(call(), attempt))


async def test_observe_never_arms() -> None:
    exchange = call()
    assert await armed(hedge(after="1s", observe=True), exchange) is None
    assert exchange.notes == [("hedge", "would send the call again after 1.000 s without a first byte")]


@pytest.mark.parametrize("wrong", [{"after": "p42"}, {"after": 3}, {"after": 0}, {"max_ratio": 7}])
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HedgeOptions.model_validate(wrong)
