"""The breaker's place in a chain: who is vetoed, what is reported."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import ValidationError

from proxy.config.keys import KeyPool
from proxy.config.model import Config
from proxy.config.upstream import Upstream
from proxy.exchange import Attempt, Exchange, Target
from proxy.policies.circuit_breaker import CircuitBreaker, CircuitBreakerOptions
from proxy.policy import Verdict, Veto, Wait
from proxy.services import Services
from proxy.state.memory import MemoryState
from proxy.testing import FakeClock, called, exchange_builder, policy_builder, services_builder
from proxy.upstream.breakers import Breakers


@dataclass
class Key:
    id: str

    def reveal(self) -> str:
        return "secret"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def services(clock: FakeClock) -> Services:
    made = services_builder(clock)
    made.offer("breakers", lambda services: Breakers(services.clock))
    return made


def policy(services: Services, *, observe: bool = False, **options: object) -> CircuitBreaker:
    return policy_builder(CircuitBreaker, {"fail_max": 1, **options}, services=services, observe=observe)


def call(*alternatives: Target) -> Exchange:
    exchange = exchange_builder(target=Target("a"))
    exchange.alternatives = alternatives
    return exchange


def to(upstream: str = "a", model: str | None = None, key: str | None = None) -> Attempt:
    attempt = Attempt(1, 1, Target(upstream, model), upstream, 0.0)
    attempt.key = Key(key) if key is not None else None
    return attempt


async def ends(
    breaker: CircuitBreaker, attempt: Attempt, failure: str | None = None, exchange: Exchange | None = None
) -> Veto | Wait | None:
    """One attempt, sent when it is let through."""
    exchange = exchange or call()
    said = await called(breaker.on_attempt(exchange, attempt))
    attempt.outcome = "vetoed" if said is not None else "failed" if failure else "answered"
    attempt.failure = failure  # type: ignore[assignment]
    await called(breaker.on_attempt_end(exchange, attempt))
    return said


async def test_open_circuit_vetoes_the_target_and_says_when_to_come_back(services: Services) -> None:
    breaker = policy(services, reset="20s")
    assert await ends(breaker, to(), "timeout") is None
    veto = await ends(breaker, to())
    assert isinstance(veto, Veto)
    assert (veto.scope, veto.error.code, veto.error.status, veto.error.retry_after) == (
        "target",
        "circuit_open",
        503,
        20,
    )


@pytest.mark.parametrize(
    ("per", "same", "other"),
    [
        ("upstream", to("a", "y", "k2"), to("b", "x", "k1")),
        ("model", to("a", "x", "k2"), to("a", "y", "k1")),
        ("key", to("a", "y", "k1"), to("a", "x", "k2")),
    ],
)
async def test_a_circuit_stands_for_what_per_says(services: Services, per: str, same: Attempt, other: Attempt) -> None:
    breaker = policy(services, per=per)
    await ends(breaker, to("a", "x", "k1"), "timeout")
    veto = await ends(breaker, same)
    assert isinstance(veto, Veto)
    assert veto.scope == ("key" if per == "key" else "target")
    assert await ends(breaker, other) is None


async def test_per_model_takes_the_clients_model_where_the_target_names_none(services: Services) -> None:
    breaker = policy(services, per="model")
    await ends(breaker, to("a"), "timeout")
    assert isinstance(await ends(breaker, to("a", "gpt-4o-mini")), Veto)


async def test_cancelled_and_vetoed_attempts_free_the_probe(services: Services, clock: FakeClock) -> None:
    breaker = policy(services, reset="5s")
    await ends(breaker, to(), "timeout")
    clock.advance(5.0)
    for outcome in ("cancelled", "vetoed", "lost", "stopped"):
        attempt = to()
        assert await called(breaker.on_attempt(call(), attempt)) is None
        assert isinstance(await called(breaker.on_attempt(call(), to())), Veto)
        attempt.outcome = outcome
        await called(breaker.on_attempt_end(call(), attempt))
    assert await ends(breaker, to()) is None
    assert await ends(breaker, to()) is None


async def test_probe_closes_when_its_answer_begins(services: Services, clock: FakeClock) -> None:
    breaker = policy(services, reset="5s")
    await ends(breaker, to(), "timeout")
    clock.advance(5.0)
    attempt = to()
    await called(breaker.on_attempt(call(), attempt))
    await called(breaker.on_result(call(), attempt, Verdict(None, status=200)))
    assert await ends(breaker, to()) is None
    attempt.outcome = "truncated"
    await called(breaker.on_attempt_end(call(), attempt))
    assert isinstance(await ends(breaker, to()), Veto)


async def test_when_all_targets_are_open_the_first_that_opened_is_probed(services: Services, clock: FakeClock) -> None:
    breaker = policy(services)
    await ends(breaker, to("b"), "timeout")
    clock.advance(1.0)
    await ends(breaker, to("a"), "timeout")
    both = call(Target("a"), Target("b"))
    assert isinstance(await ends(breaker, to("a"), exchange=both), Veto)
    assert await ends(breaker, to("b"), exchange=both) is None
    assert await ends(breaker, to("b")) is None


async def test_with_one_target_still_closed_nothing_is_probed_early(services: Services) -> None:
    breaker = policy(services)
    await ends(breaker, to("a"), "timeout")
    assert isinstance(await ends(breaker, to("a"), exchange=call(Target("a"), Target("b"))), Veto)


async def test_alternatives_on_the_same_circuit_are_no_alternatives(services: Services) -> None:
    breaker = policy(services)
    await ends(breaker, to("a"), "timeout")
    assert isinstance(await ends(breaker, to("a"), exchange=call(Target("a"), Target("a", "other"))), Veto)


@pytest.fixture
def pooled(clock: FakeClock) -> Services:
    pool = KeyPool.model_validate({"keys": [{"id": "k1", "secret": "s"}, {"id": "k2", "secret": "s"}]})
    upstream = Upstream.model_validate({"api": "openai", "base_url": "http://a/v1", "keys": "p"})
    config = Config.model_construct(upstreams={"a": upstream}, keys={"p": pool})
    made = services_builder(clock, config)
    made.offer("breakers", lambda services: Breakers(services.clock))
    return made


async def test_breakers_by_key_never_empty_the_pool(pooled: Services, clock: FakeClock) -> None:
    breaker = policy(pooled, per="key")
    await ends(breaker, to(key="k2"), "timeout")
    assert isinstance(await ends(breaker, to(key="k2")), Veto)
    clock.advance(1.0)
    await ends(breaker, to(key="k1"), "timeout")
    assert isinstance(await ends(breaker, to(key="k1")), Veto)
    assert await ends(breaker, to(key="k2")) is None


async def test_observe_counts_and_never_refuses(services: Services) -> None:
    breaker = policy(services, observe=True)
    exchange = call()
    await ends(breaker, to(), "timeout")
    assert await ends(breaker, to(), exchange=exchange) is None
    assert exchange.notes == [("circuit_breaker", "would refuse a for 30.0 s")]


async def test_no_key_no_circuit(services: Services) -> None:
    breaker = policy(services, per="key")
    for _ in range(3):
        assert await ends(breaker, to("a"), "timeout") is None


async def test_long_model_names_are_cut(services: Services) -> None:
    breaker = policy(services, per="model")
    await ends(breaker, to("a", "m" * 100_000), "timeout")
    breakers: Breakers = services.get("breakers")
    assert len(breakers.snapshot()[0]["model"]) == 200


class _Shared(MemoryState):
    shared = True


async def test_only_the_call_that_would_probe_waits_for_the_lease(clock: FakeClock) -> None:
    services = services_builder(clock)
    state = _Shared(clock)
    services.offer("breakers", lambda services: Breakers(services.clock, state))
    breaker = policy(services, reset="5s")
    await ends(breaker, to(), "timeout")
    assert isinstance(await ends(breaker, to()), Veto)
    clock.advance(5.0)
    wait = await ends(breaker, to())
    assert isinstance(wait, Wait)
    await wait.until()
    assert await ends(breaker, to()) is None
    assert await ends(breaker, to()) is None


async def test_a_lease_that_another_replica_holds_is_a_veto_not_a_loop(clock: FakeClock) -> None:
    services = services_builder(clock)
    state = _Shared(clock)
    services.offer("breakers", lambda services: Breakers(services.clock, state))
    breaker = policy(services, reset="5s")
    await ends(breaker, to(), "timeout")
    clock.advance(5.0)
    name = services.get("breakers").snapshot()[0]["name"]
    assert await state.lease(name, 60.0)
    wait = await ends(breaker, to())
    assert isinstance(wait, Wait)
    await wait.until()
    assert isinstance(await ends(breaker, to()), Veto)


@pytest.mark.parametrize(
    "wrong",
    [{"per": "country"}, {"fail_max": 0}, {"reset": 30}, {"error_rate": 1.5}, {"window": "0.1s"}, {"probes": 0}],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CircuitBreakerOptions.model_validate(wrong)
