"""Health checks against a scripted provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.clock import FakeClock, SystemClock
from proxy.config.keys import Key, KeyPool
from proxy.config.model import Config, ModelAlias, Route
from proxy.config.upstream import Upstream as UpstreamConfig
from proxy.testing import FakeUpstream, hang, reply, reset
from proxy.upstream.breaker import Settings
from proxy.upstream.breakers import Breakers
from proxy.upstream.endpoint import Upstream
from proxy.upstream.health import Health, configured_credential, configured_models, models_in

LIST = {"object": "list", "data": [{"id": "gpt-4o"}, {"id": "gpt-4o-mini"}]}


@pytest.fixture
async def provider() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(default=reply(LIST)) as upstream:
        yield upstream


def configured(url: str, **health: Any) -> dict[str, UpstreamConfig]:
    return {"openai": UpstreamConfig.model_validate({"api": "openai", "base_url": url, "health": health})}


@pytest.fixture
async def watched(provider: FakeUpstream) -> AsyncIterator[tuple[Health, Breakers]]:
    config = configured(provider.url, timeout="200ms")["openai"]
    upstream = Upstream("openai", config, provider.url)
    clock = SystemClock()
    breakers = Breakers(clock)
    yield (
        Health({"openai": upstream}, clock, breakers=breakers, models={"openai": frozenset({"gpt-4o", "gone"})}),
        breakers,
    )
    await upstream.pool.close()


async def test_models_list_says_reachable_how_fast_and_what_is_offered(
    provider: FakeUpstream, watched: tuple[Health, Breakers]
) -> None:
    health, _ = watched
    report = await health.check("openai")
    assert provider.calls[0].path == "/v1/models"
    assert (report.reachable, report.status, report.models) == (True, 200, {"gone": False, "gpt-4o": True})
    assert report.latency is not None
    assert 0 < report.latency < 0.2
    (shown,) = health.snapshot()
    assert (shown["reachable"], shown["success_rate"], shown["since"]) == (True, 1.0, report.checked_at)


@pytest.mark.parametrize(
    ("step", "reachable", "reason"),
    [
        (reply({}, status=503), False, "status 503"),
        (reply({}, status=401), True, "status 401"),
        (reset(), False, "connection_lost"),
        (hang(), False, "_timeout"),
        (reply(body=b"<html>", content_type="text/html"), True, ""),
        (reply(LIST, gzip=True), True, ""),
    ],
)
async def test_what_counts_as_reachable(
    provider: FakeUpstream, watched: tuple[Health, Breakers], step: Any, reachable: bool, reason: str
) -> None:
    health, _ = watched
    provider.script(step)
    report = await health.check("openai")
    assert report.reachable is reachable
    assert report.reason.endswith(reason)
    assert bool(report.reason) is bool(reason)


async def test_since_moves_only_when_the_state_changes(
    provider: FakeUpstream, watched: tuple[Health, Breakers]
) -> None:
    health, _ = watched
    first = (await health.check("openai")).since
    assert (await health.check("openai")).since == first
    provider.script(reply({}, status=500))
    assert (await health.check("openai")).since != first


async def test_failed_checks_open_the_breaker_and_a_good_one_closes_it(
    provider: FakeUpstream, watched: tuple[Health, Breakers]
) -> None:
    health, breakers = watched
    breaker = breakers.group("upstream", Settings(fail_max=2, reset=0.01))["openai", ""]
    provider.script(reply({}, status=500), reply({}, status=500))
    await health.check("openai")
    await health.check("openai")
    assert breaker.state == "open"
    assert "health check: status 500" in breaker.history[-1].reason
    await asyncio.sleep(0.02)
    await health.check("openai")
    assert breaker.state == "closed"


async def test_checks_go_on_at_their_pace_until_stopped(provider: FakeUpstream) -> None:
    config = configured(provider.url, every="30s", path="/ping")["openai"]
    upstream = Upstream("openai", config, provider.url)
    clock = FakeClock()
    health = Health({"openai": upstream}, clock)
    health.start()
    await provider.call(0)
    for number in (1, 2):
        while provider.open_connections and upstream.pool.busy:
            await asyncio.sleep(0)
        await clock.run(33.0)
        assert (await provider.call(number)).path == "/v1/ping"
    await health.stop()
    await clock.run(100.0)
    assert len(provider.calls) == 3
    await upstream.pool.close()


async def test_no_check_unless_configured(provider: FakeUpstream) -> None:
    config = UpstreamConfig.model_validate({"api": "openai", "base_url": provider.url})
    upstream = Upstream("openai", config, provider.url)
    health = Health({"openai": upstream}, SystemClock())
    health.start()
    await asyncio.sleep(0.02)
    assert provider.calls == []
    assert health.snapshot()[0]["reachable"] is None
    await health.stop()
    await upstream.pool.close()


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"data": {}}', b"nope"])
def test_other_answers_are_no_models_list(raw: bytes) -> None:
    assert models_in(raw) is None


def test_models_come_from_routes_aliases_and_fallbacks() -> None:
    config = Config.model_construct(
        upstreams={"a": None, "b": None},  # type: ignore[dict-item]
        routes=(Route(upstream="a", chain="x", model="fast"), Route(upstream="b", chain="x", model="big")),
        models={"fast": ModelAlias(model="gpt-4o-mini", upstream="a")},
        chains={},
    )
    assert configured_models(config) == {"a": {"gpt-4o-mini"}, "b": {"big"}}


def test_a_check_uses_the_first_enabled_key_of_the_pool() -> None:
    pool = KeyPool(
        keys=(
            Key.model_validate({"id": "k0", "secret": "", "enabled": False}),
            Key.model_validate({"id": "k1", "secret": "s1"}),
        )
    )
    upstream = UpstreamConfig.model_validate({"api": "openai", "base_url": "http://x/v1", "keys": "p"})
    bare = UpstreamConfig.model_validate({"api": "openai", "base_url": "http://x/v1"})
    config = Config.model_construct(upstreams={"a": upstream, "b": bare}, keys={"p": pool})
    credential = configured_credential(config)
    assert credential("a") == (b"authorization", b"Bearer s1")
    assert credential("b") is None
