"""What a client can send wrongly gets a clear error in its dialect's shape: never a 500, a hang or a crash."""

from __future__ import annotations

import asyncio
import copy
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import TABLE
from proxy.testing import FakeUpstream, RunningProxy, chat_answer, reply

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
DEEP = b'{"model": "m", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def shaped(answer: Any, *, anthropic: bool = False) -> dict[str, Any]:
    """The error object, after its shape has been checked."""
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-sidecar-request-id")
    body = answer.json
    if anthropic:
        assert body["type"] == "error"
        assert set(body["error"]) >= {"type", "message"}
    else:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["code"] in TABLE
        heads = (431,) if body["error"]["code"] == "request_too_large" else ()
        assert answer.status in (TABLE[body["error"]["code"]].status, *heads)
    assert body["error"]["message"]
    found: dict[str, Any] = body["error"]
    return found


BODIES: dict[str, tuple[bytes, int, str]] = {
    "cut json": (b'{"model": "gpt-4o"', 400, "invalid_json"),
    "text": (b"hello", 400, "invalid_json"),
    "empty": (b"", 400, "invalid_json"),
    "blank": (b"  \r\n ", 400, "invalid_json"),
    "array": (b"[]", 400, "invalid_json"),
    "string": (b'"x"', 400, "invalid_json"),
    "null": (b"null", 400, "invalid_json"),
    "number": (b"1", 400, "invalid_json"),
    "two objects": (b"{}{}", 400, "invalid_json"),
    "comment": (b'{"model": "m" /* c */}', 400, "invalid_json"),
    "trailing comma": (b'{"model": "m",}', 400, "invalid_json"),
    "duplicate": (b'{"model": "a", "model": "b", "messages": []}', 400, "invalid_json"),
    "deep duplicate": (
        b'{"model": "a", "messages": [{"role": "user", "content": "x", "content": "y"}]}', 400, "invalid_json",
    ),
    "escaped duplicate": (b'{"model": "a", "mod\\u0065l": "b"}', 400, "invalid_json"),
    "NaN": (b'{"model": "m", "temperature": NaN}', 400, "invalid_json"),
    "Infinity": (b'{"model": "m", "temperature": -Infinity}', 400, "invalid_json"),
    "1e999": (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}', 400, ""),
    "deep": (DEEP, 400, "invalid_json"),
    "deep open": (b"[" * 100_000, 400, "invalid_json"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400, "invalid_json"),
    "bad utf-8": (b'{"model": "\xff\xfe"}', 400, "invalid_json"),
    "overlong utf-8": (b'{"model": "\xc0\xaf"}', 400, "invalid_json"),
    "lone surrogate": (b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}', 400, "invalid_json"),
    "utf-16": ('{"model": "m"}'.encode("utf-16"), 400, "invalid_json"),
    "bom": (b"\xef\xbb\xbf" + orjson.dumps(CHAT), 400, "invalid_json"),
    "nul": (b'{"model": "m"}\x00', 400, "invalid_json"),
    "big integer": (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": 1' + b"0" * 30 + b"}", 400, "invalid_value"),
    "million digits": (b'{"seed": ' + b"9" * 1_000_000 + b"}", 400, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BODIES))
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/moderations", "/v1/responses"])
async def test_bad_bodies(sidecar, setting, upstream, wire, name, path):
    body, status, code = BODIES[name]
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    await client.post(path, body)
    answer = await client.answer()
    if path == "/v1/moderations" and (code == "" or name in ("empty",)):
        assert answer.status in (200, 400)
        return
    assert answer.status == status
    error = shaped(answer, anthropic=path == "/v1/messages")
    if code and path != "/v1/messages":
        assert error["code"] == code
    assert answer.header("x-should-retry") == "false"
    assert upstream.calls == []
    await client.post("/v1/chat/completions", CHAT)
    assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"not gzip"),
        ("gzip", gzip.compress(b'{"model": "m"}', mtime=0)[:-6]),
        ("gzip", gzip.compress(b"x" * 100, mtime=0)[:20] + b"\x00" * 30),
        ("deflate", b"\x00\x01\x02"),
        ("br", b"anything"),
        ("gzip, gzip", gzip.compress(b"{}", mtime=0)),
        ("made-up", b"{}"),
    ],
)
async def test_codings_that_cannot_be_undone(sidecar, setting, upstream, wire, coding, body):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", body, f"Content-Encoding: {coding}")
    answer = await client.answer()
    assert answer.status in (400, 415)
    shaped(answer)


async def test_a_gzip_bomb_is_stopped(sidecar, setting, upstream, wire):
    bomb = gzip.compress(b'{"model": "' + b"0" * 40_000_000 + b'"}')
    assert len(bomb) < 100_000
    proxy = await sidecar(setting(upstream, server={"max_body": "1MiB"}))
    client = await wire(proxy.port)
    for body in (bomb, gzip.compress(bomb)):
        await client.post("/v1/chat/completions", body, "Content-Encoding: gzip" + (", gzip" if body != bomb else ""))
        answer = await client.answer()
        assert answer.status in (400, 413)
        shaped(answer)
    assert upstream.calls == []


@pytest.mark.parametrize("how", ["length", "chunked", "gzip"])
async def test_a_body_over_the_limit(sidecar, setting, upstream, wire, how):
    proxy = await sidecar(setting(upstream, "validate", server={"max_body": "100KiB"}))
    client = await wire(proxy.port)
    start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    if how == "length":
        await client.send(start + b"Content-Length: 200000\r\n\r\n" + b"x" * 1000)
    elif how == "chunked":
        await client.send(start + b"Transfer-Encoding: chunked\r\n\r\n" + b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        for _ in range(10):
            await client.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
    else:
        data = gzip.compress(b'{"x": "' + b"y" * 200_000 + b'"}')
        await client.send(start + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
    answer = await client.answer()
    assert (answer.status, shaped(answer)["code"]) == (413, "request_too_large")
    assert upstream.calls == []


@pytest.mark.parametrize("how", ["length", "chunked"])
async def test_an_upload_over_the_limit(sidecar, setting, wire, how):
    async with FakeUpstream(default=reply({"ok": True})) as upstream:
        proxy = await sidecar(setting(upstream, server={"max_upload": "100KiB"}))
        client = await wire(proxy.port)
        start = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        if how == "length":
            await client.send(start + b"Content-Length: 200000\r\n\r\n" + b"x" * 1000)
        else:
            await client.send(start + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(20):
                await client.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        answer = await client.answer()
        assert (answer.status, shaped(answer)["code"]) == (413, "request_too_large")
        assert not any(call.complete_at for call in upstream.calls)


async def test_bodies_held_at_once_are_bounded(sidecar, setting, wire):
    async with FakeUpstream(default=reply(chat_answer(), delay=0.5)) as upstream:
        proxy = await sidecar(setting(upstream, server={"max_buffered": "300KiB"}))
        body = {**CHAT, "x": "y" * 100_000}
        clients = [await wire(proxy.port) for _ in range(4)]
        for client in clients:
            await client.post("/v1/chat/completions", body)
        answers = await asyncio.gather(*(client.answer() for client in clients))
        assert sorted(answer.status for answer in answers) == [200, 200, 200, 503]
        refused = next(answer for answer in answers if answer.status == 503)
        assert (shaped(refused)["code"], refused.header("retry-after")) == ("overloaded", "1")
        await clients[0].post("/v1/chat/completions", body)
        assert (await clients[0].answer()).status == 200


@pytest.mark.parametrize("how", ["length", "chunked"])
async def test_bodies_that_are_still_coming_count_too(sidecar, setting, upstream, wire, how):
    proxy = await sidecar(setting(upstream, server={"max_buffered": "300KiB"}))
    start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    framing = b"Content-Length: 200000\r\n\r\n" if how == "length" else b"Transfer-Encoding: chunked\r\n\r\n186a0\r\n"
    clients = [await wire(proxy.port) for _ in range(4)]
    for client in clients:
        await client.send(start + framing + b"x" * 100_000)
    async with asyncio.timeout(3):
        answer = await next(asyncio.as_completed([client.answer() for client in clients]))
    assert (answer.status, shaped(answer)["code"]) == (503, "overloaded")
    for client in clients:
        client.writer.close()
    async with asyncio.timeout(3):
        while proxy.app.snapshot.in_flight:
            await asyncio.sleep(0.005)
    assert proxy.app.snapshot.buffered == 0


HEADS: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "long line": (b"GET /v1/" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (431,)),
    "long header": (b"GET /v1/m HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"y" * 70_000 + b"\r\n\r\n", (431,)),
    "many headers": (b"GET /v1/m HTTP/1.1\r\nHost: localhost\r\n" + b"X-H: 1\r\n" * 5000 + b"\r\n", (431,)),
    "much header": (b"GET /v1/m HTTP/1.1\r\nHost: localhost\r\n" + b"X-H: " + b"z" * 20_000 + b"\r\n" + b"X-I: " + b"z" * 20_000 + b"\r\nX-J: " + b"z" * 30_000 + b"\r\n\r\n", (431,)),
    "no http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", (400,)),
    "no method": (b" /v1/models HTTP/1.1\r\n\r\n", (400,)),
    "odd method": (b"GE(T /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", (400,)),
    "version": (b"GET /v1/models HTTP/9.9\r\nHost: localhost\r\n\r\n", (400, 505)),
    "no colon": (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nBroken\r\n\r\n", (400,)),
    "blank in name": (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX Y: 1\r\n\r\n", (400,)),
    "nul in value": (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n", (400,)),
    "bad length": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ten\r\n\r\n", (400,)),
    "negative length": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", (400,)),
    "plus length": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\nx", (400,)),
    "huge length": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n", (400, 413)),
    "two lengths": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", (400,)),
    "length and chunks": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400,)),
    "odd coding": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: made-up\r\n\r\n", (400, 501)),
    "bad chunk": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", (400,)),
    "bad chunk later": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n", (400,)),
    "bad chunk in an upload": (b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n", (400,)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("chain", [[], ["validate"]])
async def test_bad_heads_and_framing(sidecar, setting, upstream, wire, name, chain):
    data, statuses = HEADS[name]
    proxy = await sidecar(setting(upstream, *chain))
    client = await wire(proxy.port)
    await client.send(data)
    answer = await client.answer()
    assert answer.status in statuses
    shaped(answer)
    assert answer.header("connection") == "close"
    assert await client.closed()
    other = await wire(proxy.port)
    await other.post("/v1/chat/completions", CHAT)
    assert (await other.answer()).status == 200


@pytest.mark.parametrize("missing", [1, 100])
async def test_a_body_shorter_than_announced_then_gone(sidecar, setting, upstream, wire, missing):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    data = json.dumps(CHAT).encode()
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (len(data) + missing)
        + data
    )
    await client.hang_up()
    async with asyncio.timeout(2):
        while not proxy.exchanges:
            await asyncio.sleep(0.005)
    assert proxy.exchanges[0].outcome == "cancelled"
    assert upstream.calls == []
    assert proxy.app.snapshot.buffered == 0


async def test_a_body_longer_than_announced_is_the_next_request(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}garbage\r\n\r\n"
    )
    # The parser sees both at once: the good one may be lost with the bad one, but it is not answered wrongly.
    assert (await client.answer()).status in (200, 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/favicon.ico", 404),
        ("POST", "/v2/chat/completions", 404),
        ("GET", "/v1", 404),
        ("PUT", "/v1/chat/completions", 404),
        ("LOCK", "/v1/chat/completions", 404),
        ("OPTIONS", "*", 404),
    ],
)
async def test_what_no_route_matches_is_told_the_routes_it_missed(
    sidecar, setting, upstream, wire, method, path, status
):
    routes = [
        {"name": "chat", "match": {"path": "/v1/chat/*", "method": "POST"}, "upstream": "up", "chain": "main"},
        {"match": {"path": "/v1/embeddings"}, "upstream": "up", "chain": "main"},
    ]
    proxy = await sidecar(setting(upstream, routes=routes))
    client = await wire(proxy.port)
    await client.get(path, method=method)
    answer = await client.answer()
    error = shaped(answer)
    assert (answer.status, error["code"]) == (status, "unknown_route")
    assert "chat (" in error["message"]
    assert "#2 (path" in error["message"]


async def test_a_path_of_odd_bytes_that_no_route_matches(sidecar, setting, upstream, wire):
    routes = [{"match": {"path": "/v1/chat/*"}, "upstream": "up", "chain": "main"}]
    proxy = await sidecar(setting(upstream, routes=routes))
    for path in (b"/\xff\xfe", b"/%ff%fe", b"/%00", b"/\xc3\xa9", b"/%ed%a0%80"):
        client = await wire(proxy.port)
        await client.send(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await client.answer()
        assert answer.status in (400, 404)
        shaped(answer)


@pytest.mark.parametrize(
    "header",
    ["Host: \xff\xfe", "Origin: http://localhost:\xff", "X-Sidecar-Chain: \xff", "X-Sidecar-Project: \xff",
     "X-Sidecar-Tags: \xff=\xfe", "X-Sidecar-Priority: \xff", "Authorization: Bearer \xff", "X-Request-Id: \xff",
     "Content-Encoding: \xff", "X-Stainless-Retry-Count: \xff", "X-Sidecar-Tags: " + "a=b," * 5000,
     "X-Sidecar-Cache: max-age=\xff", "Accept-Encoding: \xff", "Content-Type: \xff", "X-Forwarded-For: \xff"],
)  # fmt: skip
async def test_headers_of_odd_bytes(sidecar, setting, upstream, wire, header):
    chain = [{"authenticate": {"method": "passthrough"}}, "validate", {"retry": {"attempts": 2}}]
    proxy = await sidecar(setting(upstream, *chain, server={"trusted_proxies": ["127.0.0.1"]}))
    data = json.dumps(CHAT).encode()
    host = "" if header.startswith("Host") else "Host: localhost\r\n"
    client = await wire(proxy.port)
    await client.send(
        f"POST /v1/chat/completions HTTP/1.1\r\n{host}{header}\r\nContent-Length: {len(data)}\r\n\r\n".encode("latin-1")
        + data
    )
    answer = await client.answer()
    assert answer.status in (200, 400, 401, 403)
    if answer.status != 200:
        shaped(answer)


# --- slow clients -------------------------------------------------------------------------------------


async def test_a_client_that_stalls_in_its_head(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, server={"header_timeout": "200ms"}))
    client = await wire(proxy.port)
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc")
    answer = await client.answer(timeout=2)
    assert (answer.status, shaped(answer)["code"]) == (408, "request_timeout")
    assert await client.closed()


async def test_a_client_that_drips_its_head(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, server={"header_timeout": "300ms"}))
    client = await wire(proxy.port)
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(ConnectionError):
        for letter in b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"x" * 1000:
            await client.send(bytes([letter]))
            await asyncio.sleep(0.02)
    assert loop.time() - start < 2


async def test_a_client_that_says_nothing_is_closed(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, server={"header_timeout": "200ms", "keepalive": "300ms"}))
    client = await wire(proxy.port)
    assert await client.closed(timeout=3)


async def test_a_kept_connection_that_idles_is_closed_without_a_word(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, server={"keepalive": "200ms"}))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", CHAT)
    assert (await client.answer()).status == 200
    assert await client.closed(timeout=3)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
@pytest.mark.parametrize("how", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_client_that_stalls_in_its_body(sidecar, setting, upstream, wire, path, how):
    proxy = await sidecar(setting(upstream, "validate", server={"body_timeout": "200ms"}))
    client = await wire(proxy.port)
    kind = "application/json" if "chat" in path else "multipart/form-data; boundary=x"
    await client.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{how}\r\n\r\n".encode())
    await client.send(b"{" if "Length" in how else b"1\r\n{\r\n")
    answer = await client.answer(timeout=3)
    assert (answer.status, shaped(answer)["code"]) == (408, "request_timeout")
    assert await client.closed()
    assert not any(call.complete_at for call in upstream.calls)


# --- wrong types in every field that is read ----------------------------------------------------------

WRONG: list[Any] = [None, True, -1, 1.5, "", "x", [], [None], {}, {"a": 1}, [[]], 10**18, "x" * 100_000]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "m", "stream": False, "n": 1, "temperature": 1, "top_p": 1, "max_tokens": 5, "stop": ["x"], "seed": 1,
        "max_completion_tokens": 5, "stream_options": {"include_usage": True}, "response_format": {"type": "text"},
        "logit_bias": {"1": 1}, "user": "u", "tool_choice": "auto", "metadata": {"a": "b"}, "modalities": ["text"],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}],
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "u"}}]},
            {"role": "assistant", "content": None,
             "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
    },
    "/v1/completions": {"model": "m", "prompt": ["a"], "suffix": "s", "n": 1, "max_tokens": 1, "stream": False},
    "/v1/embeddings": {"model": "m", "input": ["a", "b"], "dimensions": 3, "encoding_format": "float"},
    "/v1/responses": {
        "model": "m", "instructions": "i", "max_output_tokens": 20, "stream": False, "prompt": {"id": "p"},
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "t"}]},
                  {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                  {"type": "function_call_output", "call_id": "c", "output": "o"}],
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}], "text": {"format": {"type": "text"}},
    },
    "/v1/messages": {
        "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "s"}], "stop_sequences": ["x"], "stream": False,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "t"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r"}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "metadata": {"user_id": "u"},
    },
    "/v1/moderations": {"model": "m", "input": ["a"]},
    "/v1/images/generations": {"model": "m", "prompt": "p", "n": 1, "size": "1x1"},
}  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree but its root."""
    found = [path] if path else []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        found += places(value, (*path, key))
    return found


def put(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    out = copy.deepcopy(tree)
    at = out
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return out


READS: list[Any] = [
    {"authenticate": {"method": "none"}},
    "validate",
    {"defaults": {"rules": [{"set": {"temperature": 0.5}, "clamp": {"max_tokens": [1, 10]}, "system": "Be kind."}]}},
    {"pii": {"entities": ["EMAIL"], "action": "mask"}},
]


@pytest.mark.parametrize("path", list(GOOD))
@pytest.mark.parametrize("observe", [False, True])
async def test_wrong_types_in_every_field(sidecar, setting, upstream, wire, path, observe):
    chain = [{"validate": {"mode": "observe"}}, *READS[2:]] if observe else READS
    models = {"alias": {"model": "other"}}
    routes = [{"match": {"model": "never*"}, "upstream": "up", "chain": "main"}, {"upstream": "up", "chain": "main"}]
    proxy = await sidecar(setting(upstream, *chain, models=models, routes=routes))
    client = await wire(proxy.port)
    await client.post(path, GOOD[path])
    good = await client.answer()
    assert good.status == 200, good.body
    bad: list[Any] = []
    for place in places(GOOD[path]):
        for value in WRONG:
            await client.post(path, put(GOOD[path], place, value))
            answer = await client.answer()
            if answer.status != 200:
                shaped(answer, anthropic=path == "/v1/messages")
            if answer.status not in (200, 400, 413):
                bad.append((place, value if len(str(value)) < 50 else "long", answer.status))
    assert not bad


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=8)
)
trees = st.recursive(
    leaves, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=5), t, max_size=3), max_leaves=8
)
FIELDS = ["model", "messages", "input", "prompt", "stream", "temperature", "max_tokens", "tools", "system", "stop", "n"]
objects = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), trees, max_size=6)


@pytest.fixture
async def door() -> AsyncIterator[RunningProxy]:
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        config = {
            "upstreams": {"up": {"api": "openai", "base_url": upstream.url}},
            "routes": [{"upstream": "up", "chain": "main"}],
            "chains": {"main": ["validate"]},
        }
        async with RunningProxy(config) as proxy:
            yield proxy


async def test_any_body_gets_200_or_a_clear_error(door, wire):
    client = await wire(int(door.origin.rsplit(":", 1)[1]))
    loop = asyncio.get_running_loop()
    bodies: list[tuple[str, bytes]] = []

    @settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(list(GOOD)),
        st.one_of(objects.map(lambda tree: json.dumps(tree).encode("utf-8", "surrogatepass")), st.binary(max_size=60)),
    )
    def collect(path: str, body: bytes) -> None:
        bodies.append((path, body))

    collect()
    assert loop.is_running()
    for path, body in bodies:
        await client.post(path, body)
        answer = await client.answer()
        assert answer.status in (200, 400), (path, body, answer.body)
        if answer.status == 400:
            shaped(answer, anthropic=path == "/v1/messages")


async def test_odd_bytes_in_our_own_headers_do_not_stop_the_log(wire, setting, upstream, tmp_path):
    log = tmp_path / "log.jsonl"
    chain = [{"authenticate": {"method": "none"}}, "account"]
    async with RunningProxy(setting(upstream, *chain, log={"file": str(log)})) as proxy:
        client = await wire(int(proxy.origin.rsplit(":", 1)[1]))
        await client.post("/v1/chat/completions", CHAT, "X-Sidecar-Project: a\xff", "X-Sidecar-Tags: t\xfe=v\xfd")
        assert (await client.answer()).status == 200
    assert json.loads(log.read_text().splitlines()[-1])["project"] == "a?"


@pytest.mark.parametrize(
    ("request_head", "message"),
    [
        (b"G@T / HTTP/1.1\r\nHost: localhost\r\n\r\n", "Invalid method encountered."),
        (b"GET /v1/x HTTP/1.1\r\n\r\n", "Missing 'Host' header in request."),
    ],
)
async def test_a_malformed_head_is_told_in_a_sentence(sidecar, setting, upstream, wire, request_head, message):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    await client.send(request_head)
    answer = await client.answer()
    assert answer.status == 400
    assert answer.error["message"] == f"This is not a well-formed HTTP request: {message}"
