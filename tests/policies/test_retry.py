"""When retry asks for another try, and how long it waits."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from proxy.errors import ProxyError
from proxy.exchange import Attempt, Exchange, Target
from proxy.policies.retry import Retries, RetryOptions
from proxy.policy import Retry, Verdict, Veto
from proxy.testing import FakeClock, called, exchange_builder, policy_builder, services_builder


def retries(clock: FakeClock | None = None, *, observe: bool = False, **options: object) -> Retries:
    return policy_builder(Retries, options, services=services_builder(clock), observe=observe)


def call(**more: object) -> Exchange:
    return exchange_builder(dialect=None, **more)  # type: ignore[arg-type]


def attempt(tries: int = 1) -> Attempt:
    return Attempt(tries, tries, Target("openai"), "openai", 0.0)


async def ask(policy: Retries, verdict: Verdict, tries: int = 1, exchange: Exchange | None = None) -> Retry | None:
    return await called(policy.on_result(exchange or call(), attempt(tries), verdict))


@pytest.mark.parametrize(
    "failure",
    ["unreachable", "timeout", "stalled", "truncated", "invalid_response", "conflict", "rate_limited", "server_error"],
)
async def test_failures_that_may_pass_are_tried_again(failure: str) -> None:
    assert await ask(retries(), Verdict(failure)) is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("failure", ["client_error", "auth", "quota", "context_too_long", "content_refused", None])
async def test_others_are_not(failure: str | None) -> None:
    assert await ask(retries(), Verdict(failure)) is None  # type: ignore[arg-type]


async def test_only_what_is_listed_is_tried_again() -> None:
    policy = retries(on=["timeout", "503"])
    assert await ask(policy, Verdict("timeout")) is not None
    assert await ask(policy, Verdict("server_error", status=503)) is not None
    assert await ask(policy, Verdict("server_error", status=500)) is None


async def test_attempts_counts_the_first_request() -> None:
    policy = retries(attempts=3)
    assert await ask(policy, Verdict("timeout"), 2) is not None
    assert await ask(policy, Verdict("timeout"), 3) is None


async def test_waits_grow_to_their_bound_with_full_jitter() -> None:
    policy = retries(attempts=20, backoff={"initial": "100ms", "max": "1s"}, max_retry_ratio=1)
    for tries, bound in [(1, 0.1), (2, 0.2), (4, 0.8), (5, 1.0), (19, 1.0)]:
        waits = [policy._delay(tries, None) for _ in range(300)]
        assert all(0.0 <= wait <= bound for wait in waits if wait is not None)
        assert max(waits) > bound * 0.8  # type: ignore[type-var]
        assert min(waits) < bound * 0.2  # type: ignore[type-var]


async def test_retry_after_is_waited_for_within_its_bound() -> None:
    policy = retries(backoff={"initial": "100ms"}, max_retry_after="5s")
    said = await ask(policy, Verdict("rate_limited", status=429, retry_after=3.0))
    assert said is not None
    assert 3.0 <= said.delay <= 3.1
    assert await ask(policy, Verdict("rate_limited", status=429, retry_after=5.5)) is None


async def test_a_veto_is_no_try() -> None:
    veto = Veto("target", ProxyError("circuit_open", "open"))
    assert await ask(retries(), Verdict(None, veto=veto, error=veto.error)) is None


async def test_a_retry_by_the_clients_sdk_gets_one_attempt() -> None:
    policy = retries()
    again = call(headers={"x-stainless-retry-count": "1"})
    first = call(headers={"x-stainless-retry-count": "0"})
    assert await ask(policy, Verdict("timeout"), exchange=again) is None
    assert await ask(policy, Verdict("timeout"), exchange=first) is not None


async def test_an_outage_is_not_multiplied() -> None:
    clock = FakeClock()
    policy = retries(clock, max_retry_ratio=0.2)
    granted = sum([await ask(policy, Verdict("timeout")) is not None for _ in range(200)])
    assert granted == 50  # 0.2 x 200 calls + 10
    clock.advance(10.0)
    assert await ask(policy, Verdict("timeout")) is not None


async def test_an_idle_proxy_still_retries() -> None:
    policy = retries(max_retry_ratio=0)
    assert sum([await ask(policy, Verdict("timeout")) is not None for _ in range(30)]) == 10


async def test_tries_of_one_call_count_as_one_call() -> None:
    policy = retries(attempts=20, max_retry_ratio=1)
    exchange = call()
    granted = [await ask(policy, Verdict("timeout"), tries, exchange) is not None for tries in range(1, 20)]
    assert sum(granted) == 11  # 1 x 1 call + 10


async def test_no_wait_that_reaches_past_the_deadline() -> None:
    policy = retries(backoff={"initial": "10ms"})
    exchange = call()
    exchange.deadline = asyncio.get_running_loop().time() + 1.0
    assert await ask(policy, Verdict("rate_limited", retry_after=2.0), exchange=exchange) is None
    assert await ask(policy, Verdict("rate_limited", retry_after=0.5), exchange=exchange) is not None


async def test_deadline_holds_for_the_whole_call_and_only_shortens() -> None:
    exchange = call()
    await called(retries(deadline="20s").on_request(exchange))
    assert exchange.deadline == exchange.started_at + 20.0
    await called(retries(deadline="5s").on_request(exchange))
    assert exchange.deadline == exchange.started_at + 5.0
    await called(retries(deadline="50s").on_request(exchange))
    assert exchange.deadline == exchange.started_at + 5.0


async def test_observe_says_what_it_would_do() -> None:
    exchange = call()
    assert await ask(retries(observe=True), Verdict("timeout"), exchange=exchange) is None
    assert exchange.notes[0][1].startswith("would send try 2 of 3")


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"backoff": {"initial": "9s", "max": "1s"}}, {"on": ["nope"]}, {"max_retry_ratio": 2}, {"x": 1}],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RetryOptions.model_validate(wrong)
