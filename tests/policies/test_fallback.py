"""Where a call goes on."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from proxy.errors import ProxyError
from proxy.exchange import Attempt, Exchange, Target
from proxy.policies.fallback import FallbackOptions, Fallbacks
from proxy.policy import Fallback, Verdict, Veto
from proxy.testing import called, exchange_builder, policy_builder

TARGETS = [{"upstream": "second", "model": "big"}, {"upstream": "third"}]


def fallbacks(*, observe: bool = False, **options: object) -> Fallbacks:
    return policy_builder(Fallbacks, {"targets": TARGETS, **options}, observe=observe)


def call() -> Exchange:
    return exchange_builder(dialect=None, target=Target("first"))


async def ask(
    policy: Fallbacks, verdict: Verdict, exchange: Exchange | None = None, target: Target | None = None
) -> Fallback | None:
    attempt = Attempt(1, 1, target or Target("first"), "first", 0.0)
    return await called(policy.on_result(exchange or call(), attempt, verdict))


def vetoed(code: str, scope: str = "target") -> Verdict:
    veto = Veto(scope, ProxyError(code, "no"))  # type: ignore[arg-type]
    return Verdict(None, veto=veto, error=veto.error)


@pytest.mark.parametrize(
    "failure", ["unreachable", "timeout", "server_error", "rate_limited", "context_too_long", "truncated", "quota"]
)
async def test_failures_lead_to_the_first_target(failure: str) -> None:
    assert await ask(fallbacks(), Verdict(failure)) == Fallback(Target("second", "big"))  # type: ignore[arg-type]


@pytest.mark.parametrize("failure", ["client_error", "content_refused", "auth", "conflict", None])
async def test_others_do_not(failure: str | None) -> None:
    assert await ask(fallbacks(), Verdict(failure)) is None  # type: ignore[arg-type]


async def test_a_refused_content_goes_on_only_when_asked() -> None:
    assert await ask(fallbacks(on=["content refused"]), Verdict("content_refused")) is not None


@pytest.mark.parametrize("code", ["circuit_open", "no_key_available", "rate_limit_exceeded", "overloaded"])
async def test_a_vetoed_target_leads_on(code: str) -> None:
    assert await ask(fallbacks(), vetoed(code)) == Fallback(Target("second", "big"))


async def test_a_vetoed_call_does_not() -> None:
    assert await ask(fallbacks(), vetoed("circuit_open", "call")) is None


async def test_targets_are_gone_through_in_order_and_once() -> None:
    policy, exchange = fallbacks(), call()
    assert await ask(policy, Verdict("timeout"), exchange) == Fallback(Target("second", "big"))
    assert await ask(policy, vetoed("circuit_open"), exchange, Target("second", "big")) == Fallback(Target("third"))
    assert await ask(policy, Verdict("timeout"), exchange, Target("third")) is None


async def test_the_target_in_use_is_passed_over() -> None:
    policy = fallbacks()
    assert await ask(policy, Verdict("timeout"), target=Target("second", "big")) == Fallback(Target("third"))


async def test_calls_do_not_share_their_progress() -> None:
    policy = fallbacks()
    for _ in range(3):
        assert await ask(policy, Verdict("timeout")) == Fallback(Target("second", "big"))


async def test_the_chain_below_knows_all_targets() -> None:
    exchange = call()
    await called(fallbacks().on_request(exchange))
    assert exchange.alternatives == (Target("first"), Target("second", "big"), Target("third"))


async def test_observe_only_says_so() -> None:
    exchange, policy = call(), fallbacks(observe=True)
    await called(policy.on_request(exchange))
    assert await ask(policy, Verdict("timeout"), exchange) is None
    assert exchange.alternatives == ()
    assert exchange.notes == [("fallback", "would go from first to second/big: timeout")]


@pytest.mark.parametrize("wrong", [{"targets": []}, {}, {"targets": TARGETS, "on": ["sometimes"]}])
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FallbackOptions.model_validate(wrong)
