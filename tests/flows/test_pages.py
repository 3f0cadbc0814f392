"""Browser safety: no web page spends the user's money through a proxy on his own machine."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


async def ask(wire: Any, port: int, *headers: str, path: str = "/v1/chat/completions", host: str = "localhost") -> Any:
    client = await wire(port)
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Length: 2", *headers]
    await client.send("\r\n".join(lines).encode() + b"\r\n\r\n{}")
    return await client.answer()


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "localhost.:80"])
async def test_our_own_names_are_ours(sidecar, setting, upstream, wire, host):
    proxy = await sidecar(setting(upstream))
    assert (await ask(wire, proxy.port, host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io", "[::2]", "@localhost", ""],
)
async def test_a_rebound_name_is_refused_before_anything(sidecar, setting, upstream, wire, host):
    proxy = await sidecar(setting(upstream))
    answer = await ask(wire, proxy.port, host=host)
    assert (answer.status, answer.error["code"]) == (403, "origin_refused")
    assert upstream.calls == []


async def test_two_hosts_or_a_foreign_absolute_target(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream))
    answer = await ask(wire, proxy.port, "Host: evil.example")
    assert answer.status in (400, 403)
    client = await wire(proxy.port)
    await client.send(b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert (await client.answer()).status == 403
    assert upstream.calls == []


async def test_further_names_can_be_listed(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, server={"hosts": ["llm.internal"]}))
    assert (await ask(wire, proxy.port, host="llm.internal:8080")).status == 200
    assert (await ask(wire, proxy.port, host="localhost")).status == 200
    assert (await ask(wire, proxy.port, host="other.internal")).status == 403


async def test_bound_elsewhere_any_name_unless_listed(sidecar, setting, upstream, wire):
    auth = {"authenticate": {"method": "passthrough"}}
    proxy = await sidecar(setting(upstream, auth, server={"host": "0.0.0.0"}))
    key = "Authorization: Bearer sk-x"
    assert (await ask(wire, proxy.port, key, host="any.example")).status == 200
    assert (await ask(wire, proxy.port, key, "Origin: http://localhost:3000", host="any.example")).status == 403
    listed = await sidecar(setting(upstream, auth, server={"host": "0.0.0.0", "hosts": ["mine.example"]}))
    assert (await ask(wire, listed.port, key, host="mine.example")).status == 200
    assert (await ask(wire, listed.port, key, host="any.example")).status == 403


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:5173"])
async def test_pages_of_this_machine_may_call(sidecar, setting, upstream, wire, origin):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", CHAT, f"Origin: {origin}")
    answer = await client.answer()
    assert (answer.status, answer.header("access-control-allow-origin")) == (200, origin)
    assert answer.header("vary") == "Origin"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://localhost:3000.evil.example",
        "file://",
        "http://127.0.0.1.nip.io",
    ],
)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json"])
async def test_a_foreign_page_is_refused_also_as_a_simple_post(sidecar, setting, upstream, wire, origin, kind):
    proxy = await sidecar(setting(upstream))
    answer = await ask(wire, proxy.port, f"Origin: {origin}", f"Content-Type: {kind}")
    assert (answer.status, answer.error["code"]) == (403, "origin_refused")
    assert answer.header("access-control-allow-origin") is None
    assert upstream.calls == []


async def test_a_foreign_page_is_refused_before_its_body_is_read(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
        b"Content-Length: 1000000\r\n\r\n"
    )
    assert (await client.answer(timeout=2)).status == 403


async def test_a_preflight_is_answered_here(sidecar, setting, upstream, wire):
    auth = {"authenticate": {"method": "keys", "keys": [{"id": "v", "sha256": "0" * 64}]}}
    cors = {"cors": {"origins": ["https://app.example"], "expose": ["x-request-id"], "max_age": "1h"}}
    proxy = await sidecar(setting(upstream, cors, auth))
    client = await wire(proxy.port)
    asked = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,x-stainless-os"]
    await client.get("/v1/chat/completions", "Origin: https://app.example", *asked, method="OPTIONS")
    answer = await client.answer()
    assert (answer.status, answer.header("access-control-allow-origin")) == (204, "https://app.example")
    assert "POST" in (answer.header("access-control-allow-methods") or "")
    assert "x-stainless-os" in (answer.header("access-control-allow-headers") or "")
    assert answer.header("access-control-max-age") == "3600"
    await client.get("/v1/chat/completions", "Origin: https://evil.example", *asked, method="OPTIONS")
    answer = await client.answer()
    assert (answer.status, answer.header("access-control-allow-origin")) == (403, None)
    assert upstream.calls == []


async def test_errors_carry_the_cors_headers_of_an_allowed_page(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, {"cors": {"origins": ["https://app.example"]}}, "validate"))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", b"{", "Origin: https://app.example")
    answer = await client.answer()
    assert (answer.status, answer.header("access-control-allow-origin")) == (400, "https://app.example")


async def test_listed_origins_replace_the_default(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, {"cors": {"origins": ["https://app.example"]}}))
    assert (await ask(wire, proxy.port, "Origin: http://localhost:3000")).status == 403
    none = await sidecar(setting(upstream, {"cors": {"origins": []}}))
    assert (await ask(wire, none.port, "Origin: http://localhost:3000")).status == 403
    assert (await ask(wire, none.port)).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/v1/exchanges", "/api/v1/config", "/"])
async def test_the_admin_port_likewise(sidecar, setting, upstream, path):
    proxy = await sidecar(setting(upstream))
    async with aiohttp.ClientSession() as session:
        for headers, refused in (
            ({"Host": "evil.example"}, True),
            ({"Origin": "https://evil.example"}, True),
            ({"Origin": "null"}, True),
            ({"Host": f"evil.example:{proxy.admin_url.rsplit(':', 1)[1]}"}, True),
            ({}, False),
            ({"Origin": proxy.admin_url}, False),
        ):
            async with session.get(proxy.admin_url + path, headers=headers) as answer:
                assert (answer.status == 403) is refused, (path, headers, answer.status)


async def test_the_admin_port_takes_no_simple_post_of_a_page(sidecar, setting, upstream):
    proxy = await sidecar(setting(upstream))
    async with aiohttp.ClientSession() as session:
        for path in ("/api/v1/reload", "/api/v1/cache/clear"):
            headers = {"Origin": "http://localhost:3000", "Content-Type": "text/plain"}
            async with session.post(proxy.admin_url + path, headers=headers, data="{}") as answer:
                assert answer.status == 403


async def test_an_admin_token_is_asked_for(sidecar, setting, upstream):
    proxy = await sidecar(setting(upstream, admin={"token": "t0ken"}))
    async with aiohttp.ClientSession() as session:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": "Bearer t0ken"}, 200),
        ):
            async with session.get(proxy.admin_url + "/api/v1/upstreams", headers=headers) as answer:
                assert answer.status == status
        async with session.get(proxy.admin_url + "/readyz") as answer:
            assert answer.status == 200
