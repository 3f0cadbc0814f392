"""A websocket is one call: the same route, chain, keys, limits and accounts as any other."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.accounting.usage import Usage
from proxy.app import App
from proxy.errors import ProxyError
from proxy.load import load_config
from tests.websocket_peers import Provider, echo, frame, handshake, read_frame

PATH = "/v1/realtime"
REALTIME = f"{PATH}?model=gpt-realtime"
KEY = "sk-sidecar-team-a"
REFUSAL = {"error": {"message": "not today", "code": "said_upstream"}}


def virtual_key(**more: Any) -> dict[str, Any]:
    key = {"id": "team-a", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), **more}
    return {"authenticate": {"method": "keys", "keys": [key]}}


def pool(*secrets: str) -> dict[str, Any]:
    """The section ``keys`` with one pool."""
    return {"pool": {"keys": [{"id": f"key-{n}", "secret": secret} for n, secret in enumerate(secrets, 1)]}}


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as one:
        yield one


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def refused(client: aiohttp.ClientSession, url: str, **more: Any) -> tuple[int, Any, Any]:
    """Status, body and headers of the answer to a handshake that is refused."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await client.ws_connect(url, **more)
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        **more.get("headers", {}),
    }
    if more.get("protocols"):
        headers["Sec-WebSocket-Protocol"] = ", ".join(more["protocols"])
    async with client.get(url, headers=headers) as answer:
        assert answer.status == caught.value.status
        return answer.status, await answer.json(), answer.headers


# --- Host, Origin, route --------------------------------------------------------------------------------


async def test_a_foreign_host_and_a_foreign_page_come_no_further(sidecar, setting, provider, wire):
    proxy = await sidecar(setting(provider.url, virtual_key()))
    for lines in ("Origin: https://evil.example", "Authorization: Bearer x\r\nOrigin: null"):
        one = await wire(proxy.port)
        await one.send(handshake(lines))
        answer = await one.answer()
        assert (answer.status, answer.error["code"]) == (403, "origin_refused")
    one = await wire(proxy.port)
    await one.send(handshake().replace(b"Host: localhost", b"Host: evil.example"))
    answer = await one.answer()
    assert (answer.status, answer.error["code"]) == (403, "origin_refused")
    assert provider.requests == []


async def test_a_page_that_the_chain_allows(sidecar, setting, provider, client):
    proxy = await sidecar(setting(provider.url, {"cors": {"origins": ["https://app.example"]}}))
    async with client.ws_connect(proxy.url + REALTIME, origin="https://app.example") as socket:
        assert socket._response.headers["access-control-allow-origin"] == "https://app.example"


async def test_a_route_matches_the_model_of_the_query(sidecar, setting, provider, client):
    async with Provider() as other:
        proxy = await sidecar(
            {
                "upstreams": {
                    "one": {"api": "openai", "base_url": provider.url},
                    "two": {"api": "openai", "base_url": other.url},
                },
                "models": {"voice": {"model": "gpt realtime/mini", "upstream": "two"}},
                "routes": [
                    {"match": {"model": "other-*"}, "upstream": "two", "chain": "main", "model": "their own"},
                    {"match": {"path": "/v1/*"}, "upstream": "one", "chain": "main"},
                ],
                "chains": {"main": []},
            }
        )
        for query in ("model=gpt-realtime&x=1", "x=%C3%A9&model=other-1&y", "model=voice", "call_id=rtc_1"):
            async with client.ws_connect(f"{proxy.url}{PATH}?{query}") as socket:
                await socket.close()
    assert [one.raw_path for one in provider.requests] == [
        "/v1/realtime?model=gpt-realtime&x=1",
        "/v1/realtime?call_id=rtc_1",
    ]
    assert [one.raw_path for one in other.requests] == [
        "/v1/realtime?x=%C3%A9&model=their%20own&y",
        "/v1/realtime?model=gpt%20realtime%2Fmini",
    ]


async def test_a_model_of_the_route_is_added_where_the_query_names_none(sidecar, setting, provider, client):
    config = setting(provider.url)
    config["routes"][0]["model"] = "gpt-realtime"
    proxy = await sidecar(config)
    async with client.ws_connect(proxy.url + PATH) as socket:
        await socket.close()
    async with client.ws_connect(proxy.url + "/v1/responses") as socket:  # names it in its messages
        await socket.close()
    assert [one.raw_path for one in provider.requests] == ["/v1/realtime?model=gpt-realtime", "/v1/responses"]


async def test_no_route(sidecar, setting, provider, client):
    config = setting(provider.url)
    config["routes"][0]["match"] = {"path": "/v1/chat/*"}
    proxy = await sidecar(config)
    status, body, _ = await refused(client, proxy.url + REALTIME)
    assert (status, body["error"]["code"]) == (404, "unknown_route")


# --- authenticate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"headers": {"api-key": KEY}},
        {"protocols": ("realtime", f"openai-insecure-api-key.{KEY}", "openai-beta.realtime-v1")},
    ],
)
async def test_the_clients_key_opens_and_never_goes_up(sidecar, setting, provider, client, given):
    up = {"up": {"keys": "pool"}, "keys": pool("sk-provider")}
    proxy = await sidecar(setting(provider.url, virtual_key(project="p1"), "select_key", **up))
    async with client.ws_connect(proxy.url + REALTIME, **given) as socket:
        assert socket._response.headers["x-sidecar-key"] == "key-1"
        await socket.close()
    (request,) = provider.requests
    assert request.headers.getall("Authorization") == ["Bearer sk-provider"]
    assert KEY not in str(request.headers)
    assert KEY not in request.raw_path
    if "protocols" in given:
        assert request.headers["Sec-WebSocket-Protocol"] == "realtime, openai-beta.realtime-v1"
    call = proxy.exchanges[0]
    assert (call.principal.id, call.project, call.key_id) == ("team-a", "p1", "key-1")


@pytest.mark.parametrize(
    "given",
    [{}, {"headers": {"Authorization": "Bearer wrong"}}, {"protocols": ("realtime", "openai-insecure-api-key.wrong")}],
)
async def test_no_key_and_a_wrong_one(sidecar, setting, provider, client, given):
    proxy = await sidecar(setting(provider.url, virtual_key()))
    status, body, headers = await refused(client, proxy.url + REALTIME, **given)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert headers["x-sidecar-policy"] == "authenticate"
    assert "wrong" not in json.dumps(body)
    assert provider.requests == []


async def test_a_header_wins_over_a_subprotocol(sidecar, setting, provider, client):
    proxy = await sidecar(setting(provider.url, virtual_key()))
    both = {"headers": {"Authorization": f"Bearer {KEY}"}, "protocols": ("realtime", "openai-insecure-api-key.other")}
    async with client.ws_connect(proxy.url + REALTIME, **both) as socket:
        await socket.close()
    assert "other" not in str(provider.requests[0].headers)


@pytest.mark.parametrize("chain", [[], [{"authenticate": {"method": "passthrough"}}]])
async def test_a_browsers_own_provider_key_goes_up_as_a_header(sidecar, setting, provider, client, chain):
    proxy = await sidecar(setting(provider.url, *chain))
    protocols = ("realtime", "openai-insecure-api-key.ek_mine")
    async with client.ws_connect(proxy.url + REALTIME, protocols=protocols) as socket:
        assert socket.protocol == "realtime"
        await socket.close()
    (request,) = provider.requests
    assert request.headers["Authorization"] == "Bearer ek_mine"
    assert request.headers["Sec-WebSocket-Protocol"] == "realtime"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/realtime?model=gpt-realtime-mini", 101),
        ("/openai/v1/realtime/?model=gpt-realtime-mini", 101),
        ("/v1/realtime?model=gpt-5-realtime", 403),
        ("/v1/realtime", 403),
        ("/v1/realtime?intent=transcription", 403),
        ("/v1/realtime?model=", 403),
        ("/v1/responses?model=gpt-realtime-mini", 403),  # its messages name their models
    ],
)
async def test_a_key_for_certain_models_only(sidecar, setting, provider, wire, path, status):
    proxy = await sidecar(setting(provider.url, virtual_key(models=["gpt-realtime*"])))
    one = await wire(proxy.port)
    await one.send(handshake(f"Authorization: Bearer {KEY}", path=path))
    answer = await one.head()
    assert answer.status == status


async def test_unnamed_models_may_be_allowed(sidecar, setting, provider, client):
    auth = virtual_key(models=["gpt-realtime*"])
    auth["authenticate"]["unnamed_models"] = "allow"
    proxy = await sidecar(setting(provider.url, auth))
    async with client.ws_connect(f"{proxy.url}/v1/responses", headers={"Authorization": f"Bearer {KEY}"}) as socket:
        await socket.close()


# --- pii, cache -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["request", "response", ["request", "response"]])
async def test_pii_blocks_what_it_cannot_read(sidecar, setting, provider, client, direction):
    options = {"on_opaque": "block", "direction": direction}
    proxy = await sidecar(setting(provider.url, "account", {"pii": options}, {"cache": {}}))
    status, body, headers = await refused(client, proxy.url + REALTIME)
    assert (status, body["error"]["code"]) == (403, "pii_refused")
    assert headers["x-sidecar-policy"] == "pii"
    assert "websocket" in body["error"]["message"]
    assert provider.requests == []


@pytest.mark.parametrize("options", [{"on_opaque": "allow"}, {"on_opaque": "block", "mode": "observe"}])
async def test_pii_lets_it_pass_and_counts(sidecar, setting, provider, client, options):
    proxy = await sidecar(setting(provider.url, {"pii": {"direction": ["request", "response"], **options}}))
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        await socket.send_str("jane@example.com")
        assert (await socket.receive(timeout=2)).data == "jane@example.com"
        await socket.close()
    async with asyncio.timeout(2):
        while not proxy.exchanges:
            await asyncio.sleep(0.005)
    action = "would block" if "mode" in options else "allow"
    assert proxy.exchanges[0].findings == {("opaque", action): 1}


async def test_a_cache_is_passed_by(sidecar, setting, provider, client):
    proxy = await sidecar(setting(provider.url, "account", {"cache": {"ttl": "1h"}}, {"retry": {}}))
    for _ in range(2):
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            assert socket._response.headers["x-sidecar-cache"] == "bypass"
            await socket.close()
    assert len(provider.requests) == 2


# --- limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "status", "code"),
    [
        ({"shed_load": {"max_in_flight": 1}}, 503, "overloaded"),
        ({"rate_limit": {"max_concurrent": 1, "per": "all"}}, 429, "rate_limit_exceeded"),
    ],
)
async def test_a_session_counts_while_it_runs(sidecar, setting, provider, client, rule, status, code):
    proxy = await sidecar(setting(provider.url, rule))
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        said = await refused(client, proxy.url + REALTIME)
        assert (said[0], said[1]["error"]["code"]) == (status, code)
        await socket.close()
    async with asyncio.timeout(2):
        while proxy.app.snapshot.in_flight:
            await asyncio.sleep(0.005)
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        await socket.close()


async def test_calls_a_minute(sidecar, setting, provider, client):
    proxy = await sidecar(setting(provider.url, {"rate_limit": {"rpm": 1, "per": "all"}}))
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        assert socket._response.headers["x-ratelimit-remaining-requests"] == "0"
        await socket.close()
    assert (await refused(client, proxy.url + REALTIME))[0] == 429


async def test_an_upgrade_that_a_policy_refuses_on_the_way_up(sidecar, setting, provider, client, policy):
    async def on_response(self: Any, exchange: Any, answer: Any) -> None:
        assert answer.status == 101
        raise ProxyError("policy_refused", "No.")

    proxy = await sidecar(setting(provider.url, policy(on_response=on_response)))
    status, body, _ = await refused(client, proxy.url + REALTIME)
    assert (status, body["error"]["message"]) == (403, "No.")
    assert await provider.closed() != 1000
    assert proxy.exchanges[0].attempts[0].outcome == "stopped"


# --- refusals of the upstream ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
async def test_a_refusal_reaches_the_client_unchanged(sidecar, setting, provider, wire, status):
    provider.refusals = [(status, REFUSAL)]
    proxy = await sidecar(setting(provider.url))
    one = await wire(proxy.port)
    await one.send(handshake())
    answer = await one.answer()
    assert (answer.status, answer.json) == (status, REFUSAL)
    assert answer.header("x-said") == "by the provider"
    assert proxy.exchanges[0].outcome == "failed"


async def test_an_answer_that_is_no_refusal_and_no_101_is_passed_on(sidecar, setting, provider, wire):
    provider.refusals = [(200, {"this": "speaks no websocket"})]
    proxy = await sidecar(setting(provider.url, {"retry": {}}))
    one = await wire(proxy.port)
    await one.send(handshake())
    answer = await one.answer()
    assert (answer.status, answer.json) == (200, {"this": "speaks no websocket"})


async def test_another_key_of_the_same_upstream(sidecar, setting, provider, client):
    provider.refusals = [(401, REFUSAL)]
    up = {"up": {"keys": "pool"}, "keys": pool("sk-1", "sk-2")}
    proxy = await sidecar(setting(provider.url, "select_key", **up))
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        assert socket._response.headers["x-sidecar-attempts"] == "2"
        await socket.close()
    assert sorted(one.headers["Authorization"] for one in provider.requests) == ["Bearer sk-1", "Bearer sk-2"]
    keys = [one.headers["Sec-WebSocket-Key"] for one in provider.requests]
    assert keys[0] != keys[1]


async def test_retry_then_fallback(sidecar, setting, provider, client):
    provider.refusals = [(503, REFUSAL), (500, REFUSAL)]
    async with Provider() as other:
        chain = [
            {"fallback": {"targets": [{"upstream": "other", "model": "other-realtime"}]}},
            {"retry": {"attempts": 2, "backoff": {"initial": "1ms", "max": "1ms"}}},
        ]
        more = {"upstreams": {"other": {"api": "openai", "base_url": other.url}}}
        proxy = await sidecar(setting(provider.url, *chain, **more))
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            assert socket._response.headers["x-sidecar-upstream"] == "other"
            await socket.send_str("hi")
            assert (await socket.receive(timeout=2)).data == "hi"
            await socket.close()
        assert len(provider.requests) == 2
        assert [one.raw_path for one in other.requests] == ["/v1/realtime?model=other-realtime"]


async def test_nothing_is_retried_after_the_101(sidecar, setting, client):
    async def broken(socket: web.WebSocketResponse) -> None:
        await socket.receive()
        transport = socket._req.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()

    async with Provider(broken) as provider:
        proxy = await sidecar(setting(provider.url, {"retry": {"attempts": 3}}))
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            await socket.send_str("hi")
            assert (await socket.receive(timeout=2)).type is WSMsgType.CLOSED
        assert len(provider.requests) == 1


async def test_a_circuit_opens_on_refusals(sidecar, setting, provider, client):
    provider.refusals = [(500, REFUSAL)] * 2
    proxy = await sidecar(setting(provider.url, {"circuit_breaker": {"fail_max": 2}}))
    status, body, _ = await refused(client, proxy.url + REALTIME)
    assert (status, body) == (500, REFUSAL)
    status, body, _ = await refused(client, proxy.url + REALTIME)
    assert (status, body["error"]["code"]) == (503, "circuit_open")


async def test_a_probe_is_over_with_the_101(sidecar, setting, provider, client):
    """A session may last for hours: the circuit closes when it opens, not when it ends."""
    provider.refusals = [(500, REFUSAL)]
    proxy = await sidecar(setting(provider.url, {"circuit_breaker": {"fail_max": 1, "reset": "50ms"}}))
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await client.ws_connect(proxy.url + REALTIME)
    await asyncio.sleep(0.1)
    async with client.ws_connect(proxy.url + REALTIME) as first, client.ws_connect(proxy.url + REALTIME) as second:
        await first.close()
        await second.close()


# --- accounts -------------------------------------------------------------------------------------------


def done(given: int, made: int, kind: str = "response.done", **more: int) -> str:
    usage = {
        "total_tokens": given + made,
        "input_tokens": given,
        "output_tokens": made,
        "input_token_details": {"cached_tokens": more.get("cached", 0), "audio_tokens": more.get("heard", 0)},
        "output_token_details": {"audio_tokens": more.get("spoken", 0)},
    }
    return json.dumps({"type": kind, "event_id": "e", "response": {"status": "completed", "usage": usage}})


async def test_what_the_responses_used_is_the_sessions_usage(sidecar, setting, client):
    async def talk(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.data == "go":
                await socket.send_str(json.dumps({"type": "response.output_audio.delta", "delta": "x" * 100_000}))
                await socket.send_str('{"type": "response.text.delta", "delta": "\\"usage\\": response.done"}')
                await socket.send_str('no json, but "usage" and "response.done')
                await socket.send_str(done(100, 20, heard=80, cached=50, spoken=10))
            else:
                await socket.send_str(done(7, 3, "response.completed"))

    async with Provider(talk) as provider:
        budget = {"budget": {"per": "all", "tokens": 1_000_000, "window": "day"}}
        proxy = await sidecar(setting(provider.url, "account", {"rate_limit": {"tpm": 10_000, "per": "all"}}, budget))
        async with client.ws_connect(proxy.url + REALTIME, max_msg_size=0) as socket:
            assert "x-sidecar-cost-usd" not in socket._response.headers
            await socket.send_str("go")
            for _ in range(4):
                await socket.receive(timeout=2)
            await socket.send_str("on")
            await socket.receive(timeout=2)
            await socket.close()
        async with asyncio.timeout(2):
            while not proxy.exchanges:
                await asyncio.sleep(0.005)
        call = proxy.exchanges[0]
        assert call.usage == Usage(input=107, output=23, audio_input=80, cached_input=50, audio_output=10)
        assert call.cost_nanos > 0  # the model of the query has a price
        async with client.get(proxy.url + "/v1/sidecar/limits") as answer:
            limits = {one["limit"] for one in (await answer.json())["limits"]} if answer.status == 200 else None
        assert limits is not None


async def test_a_session_that_is_cut_is_counted_up_to_then(sidecar, setting, wire):
    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_str(done(5, 6))
        await echo(socket)

    async with Provider(talk) as provider:
        proxy = await sidecar(setting(provider.url, "account"))
        one = await wire(proxy.port)
        await one.send(handshake())
        await one.head()
        await read_frame(one.reader)
        one.writer.close()
        async with asyncio.timeout(2):
            while not proxy.exchanges:
                await asyncio.sleep(0.005)
        call = proxy.exchanges[0]
        assert (call.outcome, call.usage) == ("cancelled", Usage(input=5, output=6))


def spends(*turns: str) -> Any:
    """A provider that says one of these after each message."""

    async def talk(socket: web.WebSocketResponse) -> None:
        for turn in turns:
            await socket.receive()
            await socket.send_str(turn)
        await socket.receive()

    return talk


async def test_what_a_session_uses_counts_while_it_runs(sidecar, setting, client):
    """Another caller of the same budget is refused as soon as the session has spent it, not hours later."""
    async with Provider(spends(done(3_000, 2_000), done(4_000, 2_000))) as provider:
        budget = {"budget": {"per": "all", "tokens": 10_000, "window": "day"}}
        proxy = await sidecar(setting(provider.url, "account", budget))
        (policy,) = [p for p in proxy.app.snapshot.chains["main"].policies if p.name == "budget"]

        def spent() -> list[tuple[float, float]]:
            meters = [policy.state.usage(one) for one, _ in policy.budget.claims(bucket, (0, 1, 1), True)]
            return [(one.used, one.held) for one in meters]

        bucket = policy.budget.bucket("all", policy._now())
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            assert spent() == [(0, 1000)]  # one answer, as any call without a limit
            await socket.send_str("go")
            await socket.receive(timeout=2)
            assert spent() == [(5_000, 0)]
            await socket.send_str("go")
            await socket.receive(timeout=2)
            assert spent() == [(11_000, 0)]
            status, body, _ = await refused(client, proxy.url + REALTIME)
            assert (status, body["error"]["code"]) == (429, "insufficient_quota")
            await socket.close()
        async with asyncio.timeout(2):
            while proxy.app.snapshot.in_flight:
                await asyncio.sleep(0.005)
        assert spent() == [(11_000, 0)]  # nothing is counted twice
        assert proxy.exchanges[-1].usage == Usage(input=7_000, output=4_000)


@pytest.mark.parametrize("stops", [True, False])
async def test_a_session_that_runs_over_a_budget(sidecar, setting, client, stops):
    async with Provider(spends(done(1, 1), done(60, 60), done(1, 1))) as provider:
        budget = {"budget": {"per": "all", "tokens": 100, "assume_output": 10, "window": "day", "stop_stream": stops}}
        proxy = await sidecar(setting(provider.url, {"circuit_breaker": {"fail_max": 1}}, budget))
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            for _ in range(2):
                await socket.send_str("go")
                assert json.loads((await socket.receive(timeout=2)).data)["type"] == "response.done"
            if not stops:
                await socket.send_str("go")
                assert (await socket.receive(timeout=2)).type is WSMsgType.TEXT
                return
            message = await socket.receive(timeout=2)
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1008)
            assert message.extra.startswith("insufficient_quota: Budget all/day")
        assert await provider.closed() == 1001
        call = proxy.exchanges[0]
        assert (call.outcome, call.error.code, call.error.policy) == ("refused", "insufficient_quota", "budget")
        assert call.attempts[0].outcome == "stopped"


async def test_the_last_call_of_a_budget_is_not_cut(sidecar, setting, client):
    async with Provider(spends(done(1, 1), done(1, 1))) as provider:
        budget = {"budget": {"per": "all", "calls": 1, "window": "day", "stop_stream": True}}
        proxy = await sidecar(setting(provider.url, budget))
        async with client.ws_connect(proxy.url + REALTIME) as socket:
            for _ in range(2):
                await socket.send_str("go")
                assert (await socket.receive(timeout=2)).type is WSMsgType.TEXT
            await socket.close()
        assert (await refused(client, proxy.url + REALTIME))[0] == 429


async def test_one_call_in_log_metrics_and_ledger(sidecar, setting, provider, client, tmp_path):
    log = tmp_path / "log.jsonl"
    more = {"log": {"file": str(log), "format": "json"}}
    config = setting(provider.url, "account", **more)
    proxy = await sidecar(config, overrides=["log.level=info", "log.access=true"])
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        await socket.send_str("secret words")
        await socket.receive(timeout=2)
        async with client.get(proxy.admin_url + "/api/v1/exchanges") as answer:
            assert answer.status == 200
        await socket.close()
    async with asyncio.timeout(5):
        while not log.exists() or b'"access"' not in log.read_bytes():
            await asyncio.sleep(0.01)
    (line,) = [one for one in map(json.loads, log.read_text().splitlines()) if one["logger"] == "access"]
    assert (line["status"], line["outcome"], line["model"]) == (101, "answered", "gpt-realtime")
    assert line["duration_ms"] > 0
    assert "secret" not in log.read_text()
    async with client.get(proxy.admin_url + "/metrics") as answer:
        text = await answer.text()
    assert 'model="gpt-realtime"' in text
    assert 'status="101"' in text


# --- sockets of all kinds -------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = tmp_path / "cert.pem", tmp_path / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, secret


def serves(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_tls_on_both_sides(sidecar, setting, client, certificate, who):
    trusts = ssl.create_default_context(cafile=str(certificate[0]))
    async with Provider(tls=serves(certificate)) as provider:
        server = {"server": {"tls": {"cert": str(certificate[0]), "key": str(certificate[1])}}}
        up = {"up": {"tls": {"ca": str(certificate[0]), "sni": "localhost"}}}
        proxy = await sidecar(setting(provider.url, "account", **up, **server))
        url = f"https://localhost:{proxy.port}{REALTIME}"
        text = "x" * 3_000_000
        async with client.ws_connect(url, ssl=trusts, max_msg_size=0) as socket:
            await socket.send_str(text)
            assert (await socket.receive(timeout=5)).data == text
            if who == "client":
                await socket.close(code=4000)
            else:
                await socket.send_str("close 4001 enough")
                assert (await socket.receive(timeout=2)).data == 4001
        assert await provider.closed() == (4000 if who == "client" else 1000)
    assert proxy.exchanges[0].outcome == "answered"


async def test_a_client_on_tls_that_leaves(sidecar, setting, certificate):
    trusts = ssl.create_default_context(cafile=str(certificate[0]))
    async with Provider(tls=serves(certificate)) as provider:
        server = {"server": {"tls": {"cert": str(certificate[0]), "key": str(certificate[1])}}}
        up = {"up": {"tls": {"ca": str(certificate[0]), "sni": "localhost"}}}
        proxy = await sidecar(setting(provider.url, **up, **server))
        reader, writer = await asyncio.open_connection("localhost", proxy.port, ssl=trusts)
        writer.write(handshake() + frame(b"hello", masked=True))
        await reader.readuntil(b"\r\n\r\n")
        assert await read_frame(reader) == (1, b"hello")
        writer.transport.abort()
        assert await provider.closed() != 1000
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def test_over_a_unix_socket(setting, provider, wire, tmp_path):
    path, file = str(tmp_path / "sock"), tmp_path / "config.yaml"
    more = {"server": {"unix": path}, "admin": {"enabled": False}, "data": str(tmp_path), "log": {"level": "error"}}
    file.write_text(json.dumps(setting(provider.url, **more)))
    app = App(*load_config(file, env={}))
    await app.start()
    try:
        one = await wire(unix=path)
        await one.send(handshake() + frame(b"hello", masked=True))
        assert (await one.head()).status == 101
        assert await read_frame(one.reader) == (1, b"hello")
    finally:
        await app.stop()


async def test_through_a_forward_proxy(sidecar, setting, provider, client):
    """As browsers do it: CONNECT also where the upstream speaks plain HTTP, and the proxy's password stays with it."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        there = await asyncio.open_connection("127.0.0.1", provider.port)
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    sink.write(data)
            sink.close()

        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))

    between = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = between.sockets[0].getsockname()[1]
    up = {"proxy": f"http://me:word@127.0.0.1:{port}"}
    proxy = await sidecar(setting(provider.url, up=up))
    async with client.ws_connect(proxy.url + REALTIME) as socket:
        await socket.send_str("through")
        assert (await socket.receive(timeout=2)).data == "through"
        await socket.close()
    assert await provider.closed() == 1000
    between.close()
    assert seen[0].startswith(f"CONNECT 127.0.0.1:{provider.port} HTTP/1.1\r\n".encode())
    assert "Proxy-Authorization" not in provider.requests[0].headers
    assert provider.requests[0].raw_path == REALTIME
