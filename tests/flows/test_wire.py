"""Wire cases that SDKs rarely make and other clients do, seen from both ends."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from typing import Any

import psutil
import pytest

from proxy.testing import FakeUpstream, chat_answer, chat_events, events, reply

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
CHAINS: list[list[Any]] = [[], ["validate"]]


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("//v1//chat/completions", "/v1/chat/completions"),
        ("/v1/models/org%2Fmodel:tag", "/v1/models/org%2Fmodel:tag"),
        ("/v1/x?a=1&a=2&b=%20c&d", "/v1/x?a=1&a=2&b=%20c&d"),
        ("/v1/x?q=//keep//slashes&e=%C3%A9", "/v1/x?q=//keep//slashes&e=%C3%A9"),
        ("/v1/files/a%2fb%3Fc%23d", "/v1/files/a%2fb%3Fc%23d"),
        ("http://localhost/v1/x?y=1", "/v1/x?y=1"),
        ("/v1/x?", "/v1/x"),
    ],
)
async def test_targets_go_up_as_they_came(sidecar, setting, upstream, wire, sent, received):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    await client.get(sent)
    assert (await client.answer()).status == 200
    assert upstream.calls[0].target == received


@pytest.mark.parametrize(
    ("base", "sent", "received"),
    [
        ("/v1", "/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions", "/v1/chat/completions"),
        ("/proxy/openai/v4", "/v1/chat/completions?x=1", "/proxy/openai/v4/chat/completions?x=1"),
        ("", "/v1/chat/completions", "/chat/completions"),
        (
            "/v1",
            "/openai/deployments/d/chat/completions?api-version=1",
            "/openai/deployments/d/chat/completions?api-version=1",
        ),
        ("/v1", "/v2/rerank", "/v2/rerank"),
    ],
)
async def test_what_follows_v1_is_appended_to_the_base_url(sidecar, setting, upstream, wire, base, sent, received):
    proxy = await sidecar(setting(upstream.origin + base))
    client = await wire(proxy.port)
    await client.post(sent, BODY)
    assert (await client.answer()).status == 200
    assert upstream.calls[0].target == received


async def test_an_anthropic_upstream_gets_the_whole_path(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream.origin, up={"api": "anthropic"}))
    client = await wire(proxy.port)
    await client.post("/v1/messages", BODY, "anthropic-version: 2026-10-21")
    assert (await client.answer()).status == 200
    assert (upstream.calls[0].target, upstream.calls[0].header("anthropic-version")) == ("/v1/messages", "2026-10-21")


async def test_a_path_that_is_not_ascii_is_sent_on_or_refused(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream))
    for raw in ("/v1/models/caf\u00e9".encode(), b"/v1/models/\xff\xfe"):
        client = await wire(proxy.port)
        await client.send(b"GET " + raw + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await client.answer()
        assert answer.status in (200, 400)


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH", "POST", "OPTIONS", "HEAD"])
async def test_every_method_goes_through(sidecar, setting, upstream, wire, method):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    await client.get("/v1/vector_stores/vs_1", method=method)
    assert (await client.answer(bodiless=method == "HEAD")).status == 200
    assert upstream.calls[0].method == method


@pytest.mark.parametrize("chain", CHAINS)
async def test_head_has_the_headers_and_no_body(sidecar, setting, wire, chain):
    async with FakeUpstream(default=reply(body=b"x" * 1234, content_type="text/plain")) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        client = await wire(proxy.port)
        for _ in range(2):
            await client.get("/v1/files/f", method="HEAD")
            answer = await client.answer(bodiless=True)
            assert (answer.status, answer.header("content-length")) == (200, "1234")


@pytest.mark.parametrize("status", [204, 304, 201, 302, 418, 529])
async def test_statuses_come_down_as_they_are(sidecar, setting, wire, status):
    async with FakeUpstream(default=reply({"a": 1}, status=status, headers={"Location": "/x"})) as upstream:
        proxy = await sidecar(setting(upstream))
        client = await wire(proxy.port)
        for _ in range(2):
            await client.post("/v1/chat/completions", BODY)
            answer = await client.answer()
            assert (answer.status, answer.header("location")) == (status, "/x")


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
async def test_expect_100_continue(sidecar, setting, upstream, wire, chain, path):
    proxy = await sidecar(setting(upstream, *chain))
    client = await wire(proxy.port)
    data = json.dumps(BODY).encode()
    kind = "application/json" if "chat" in path else "multipart/form-data; boundary=x"
    await client.send(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(data)}\r\n\r\n".encode()
    )
    assert (await client.answer()).status == 100
    await client.send(data)
    assert (await client.answer()).status == 200
    call = await upstream.call()
    assert (call.body, call.header("expect")) == (data, None)


async def test_a_refused_call_is_never_told_to_send_its_body(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, routes=[{"match": {"path": "/v1/x"}, "upstream": "up", "chain": "main"}]))
    client = await wire(proxy.port)
    await client.send(b"POST /v1/y HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.header("connection")) == (404, "close")
    assert await client.closed()


@pytest.mark.parametrize("chain", CHAINS)
async def test_a_chunked_body_arrives_whole(sidecar, setting, upstream, wire, chain):
    proxy = await sidecar(setting(upstream, *chain))
    client = await wire(proxy.port)
    data = json.dumps(BODY).encode()
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for start in range(0, len(data), 7):
        piece = data[start : start + 7]
        await client.send(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(0)
    await client.send(b"0\r\nX-Trailer: 1\r\n\r\n")
    assert (await client.answer()).status == 200
    call = await upstream.call()
    assert call.body == data
    assert (call.header("content-length"), call.header("transfer-encoding")) == (str(len(data)), None)


async def test_a_body_that_comes_slowly_in_pieces(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    data = json.dumps(BODY).encode()
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % len(data))
    await asyncio.sleep(0.02)
    await client.send(b"Content-Type: application/json\r\n\r\n" + data[:10])
    await asyncio.sleep(0.02)
    await client.send(data[10:])
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP"])
async def test_a_packed_body_passes_validation_and_goes_up_as_it_is(sidecar, setting, upstream, wire, coding):
    import zlib

    plain = json.dumps(BODY).encode()
    packed = gzip.compress(plain) if coding.lower() == "gzip" else zlib.compress(plain)
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", packed, f"Content-Encoding: {coding}")
    assert (await client.answer()).status == 200
    assert (await upstream.call()).body == packed


@pytest.mark.parametrize("chain", CHAINS)
async def test_two_pipelined_calls_are_answered_in_order(sidecar, setting, wire, chain):
    async with FakeUpstream(reply(chat_answer("one"), delay=0.1), reply(chat_answer("two"))) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        client = await wire(proxy.port)
        data = json.dumps(BODY).encode()
        one = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        one += b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
        await client.send(one + one)
        first, second = await client.answer(), await client.answer()
    assert (b"one" in first.body, b"two" in second.body) == (True, True)


async def test_a_pipelined_call_behind_a_refused_one_is_answered_too(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    bad = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n{x}"
    await client.send(bad + b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert [(await client.answer()).status, (await client.answer()).status] == [400, 200]


async def test_http_1_0_gets_no_chunks(sidecar, setting, wire):
    async with FakeUpstream(reply(chat_answer()), events(*chat_events(["x"]))) as upstream:
        proxy = await sidecar(setting(upstream))
        for _ in range(2):
            client = await wire(proxy.port)
            data = json.dumps(BODY).encode()
            await client.send(
                b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(data), data)
            )
            answer = await client.answer()
            assert (answer.status, answer.header("transfer-encoding")) == (200, None)
            assert answer.header("connection") == "close"
        assert answer.body == b"".join(chat_events(["x"]))


async def test_http_1_0_with_keep_alive_keeps_the_connection(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    for _ in range(2):
        await client.send(b"GET /v1/models HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (200, "keep-alive")


async def test_connection_close_is_kept(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    await client.get("/v1/models", "Connection: close")
    assert (await client.answer()).header("connection") == "close"
    assert await client.closed()


# --- headers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", CHAINS)
async def test_headers_up(sidecar, setting, upstream, wire, chain):
    proxy = await sidecar(setting(upstream, *chain))
    client = await wire(proxy.port)
    own = ["OpenAI-Organization: org", "x-stainless-retry-count: 0", "X-MiXeD: Case", "X-Twice: 1", "X-Twice: 2"]
    own += ["User-Agent: my-client/1", "Cookie: a=b", "Accept: text/event-stream", "X-Latin: caf\xe9", "X-Empty:"]
    hop = ["Connection: keep-alive, X-Mine", "X-Mine: gone", "Keep-Alive: timeout=5", "TE: trailers"]
    hop += ["Proxy-Authorization: Basic x", "Proxy-Connection: keep-alive", "Trailer: X"]
    ours = ["X-Sidecar-Task: t", "x-sidecar-tags: a=b", "X-SIDECAR-Unknown: 1", "x-sidecar-debug: 1"]
    await client.post("/v1/chat/completions", BODY, *own, *hop, *ours)
    assert (await client.answer()).status == 200
    call = await upstream.call()
    names = [name for name, _ in call.headers]
    assert "X-MiXeD" in names
    assert call.all("x-twice") == ["1", "2"]
    assert (call.header("user-agent"), call.header("x-latin"), call.header("x-empty")) == ("my-client/1", "caf\xe9", "")
    low = {name.lower() for name in names}
    assert not low & {"x-mine", "keep-alive", "te", "proxy-authorization", "proxy-connection", "trailer"}
    assert not [name for name in low if name.startswith("x-sidecar")]
    assert call.header("host") == upstream.origin.removeprefix("http://")
    assert len(call.all("content-length")) == 1


async def test_nothing_is_added_on_the_way_up(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    await client.answer()
    assert sorted(name.lower() for name, _ in upstream.calls[0].headers) == ["content-length", "content-type", "host"]


async def test_headers_down(sidecar, setting, wire):
    headers = [
        ("X-Request-Id", "up-1"), ("OpenAI-Processing-Ms", "7"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"),
        ("Connection", "X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "x"), ("X-Sidecar-Faked", "1"), ("Server", "prov"),
        ("x-ratelimit-remaining-requests", "9"),
    ]  # fmt: skip
    async with FakeUpstream(reply(chat_answer(), headers=headers)) as upstream:
        proxy = await sidecar(setting(upstream))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY, "X-Request-Id: mine-1")
        answer = await client.answer()
    assert answer.header("x-request-id") == "up-1"
    assert answer.header("x-sidecar-request-id") == "mine-1"
    assert [value for name, value in answer.headers if name == "set-cookie"] == ["a=1", "b=2"]
    assert [answer.header(name) for name in ("x-hop", "keep-alive", "x-sidecar-faked")] == [None, None, None]
    assert (answer.header("server"), answer.header("x-ratelimit-remaining-requests")) == ("prov", "9")
    assert (answer.header("x-sidecar-upstream"), answer.header("x-sidecar-attempts")) == ("up", "1")


@pytest.mark.parametrize("said", ["", "a b", "x" * 200, "../../etc", "caf\xe9"])
async def test_an_id_that_is_not_sane_is_replaced(sidecar, setting, upstream, wire, said):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY, f"X-Request-Id: {said}")
    found = (await client.answer()).header("x-sidecar-request-id")
    assert found
    assert found.startswith("req_")


async def test_answers_made_here_carry_the_id_twice(sidecar, setting, upstream, wire):
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", b"{", "X-Request-Id: mine-2")
    answer = await client.answer()
    assert (answer.header("x-request-id"), answer.header("x-sidecar-request-id")) == ("mine-2", "mine-2")


async def test_a_header_of_a_policy_cannot_split_the_answer(sidecar, setting, upstream, wire, policy):
    async def add(self: Any, exchange: Any) -> None:
        exchange.add_header(b"x-bad", b"1\r\nX-Injected: 1\r\n\r\nbody")
        exchange.add_header(b"x-good", b"1")

    proxy = await sidecar(setting(upstream, policy(on_request=add)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert (answer.header("x-good"), answer.header("x-bad"), answer.header("x-injected")) == ("1", None, None)
    assert answer.json["choices"]


# --- credentials upward -------------------------------------------------------------------------------

CREDENTIALS = {"Authorization": "Bearer sk-own", "X-Api-Key": "sk-own", "Api-Key": "sk-own"}
KEYS = {"keys": {"pool": {"keys": [{"id": "k1", "secret": "sk-pool"}]}}}
VIRTUAL = "sk-virtual-0123456789"


def virtual_keys() -> dict[str, Any]:
    import hashlib

    return {
        "authenticate": {
            "method": "keys",
            "keys": [{"id": "v", "sha256": hashlib.sha256(VIRTUAL.encode()).hexdigest()}],
        }
    }


@pytest.mark.parametrize(
    ("chain", "pool", "secret", "expected"),
    [
        ([], False, "sk-own", "sk-own"),
        ([{"authenticate": {"method": "none"}}], False, "sk-own", "sk-own"),
        ([{"authenticate": {"method": "none"}}, "select_key"], True, "sk-own", "sk-pool"),
        ([{"authenticate": {"method": "passthrough"}}], False, "sk-own", "sk-own"),
        ([{"authenticate": {"method": "passthrough"}}], True, "sk-own", "sk-own"),
        ([virtual_keys()], False, VIRTUAL, None),
        ([virtual_keys(), "select_key"], True, VIRTUAL, "sk-pool"),
    ],
)
@pytest.mark.parametrize("header", list(CREDENTIALS))
async def test_which_credential_goes_up(sidecar, setting, upstream, wire, chain, pool, secret, expected, header):
    more = {"up": {"keys": "pool"}, **KEYS} if pool else {}
    proxy = await sidecar(setting(upstream, *chain, **more))
    client = await wire(proxy.port)
    value = f"Bearer {secret}" if header == "Authorization" else secret
    await client.post("/v1/chat/completions", BODY, f"{header}: {value}")
    answer = await client.answer()
    assert answer.status == 200
    call = await upstream.call()
    seen = {name: call.header(name) for name in CREDENTIALS if call.header(name) is not None}
    if expected == "sk-own":
        assert seen == {header: value}
    elif expected is None:
        assert seen == {}
    else:
        assert seen == {"Authorization": "Bearer sk-pool"}
        assert answer.header("x-sidecar-key") == "k1"
    assert "sk-" not in str(answer.headers)


# --- endpoints, uploads, downloads --------------------------------------------------------------------


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/brand_new/thing", "application/json"),
        ("/v1/brand_new/thing", "application/x-protobuf"),
        ("/v1/moderations", "application/json"),
        ("/v1/images/generations", "application/json"),
        ("/v1/batches", "application/json; charset=utf-8"),
        ("/v1/fine_tuning/jobs", "application/json"),
    ],
)
async def test_other_endpoints_pass_both_ways(sidecar, setting, wire, chain, path, kind):
    body = b'{"input": "x", "unknown": [1]}' if "json" in kind else bytes(range(256))
    async with FakeUpstream(reply(body=b"\x00\x01binary", content_type="application/x-thing")) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        client = await wire(proxy.port)
        await client.post(path, body, f"Content-Type: {kind}")
        answer = await client.answer()
        call = await upstream.call()
    assert (call.body, call.header("content-type")) == (body, kind)
    assert (answer.body, answer.header("content-type")) == (b"\x00\x01binary", "application/x-thing")


def rss() -> int:
    return int(psutil.Process(os.getpid()).memory_info().rss)


@pytest.mark.parametrize("chain", [[], ["validate", {"authenticate": {"method": "none"}}]])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_large_upload_goes_up_in_constant_memory(sidecar, setting, wire, chain, framing):
    size, piece = 64 * 1024 * 1024, b"u" * 65536
    taken = 0

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        head = await reader.readuntil(b"\r\n\r\n")
        assert (b"chunked" in head) is (framing == "chunked")
        total = size if framing == "length" else size + (size // len(piece)) * (len(b"10000\r\n\r\n")) + 5
        while taken < total - 1 and (data := await reader.read(1 << 18)):
            taken += len(data)
            if framing == "chunked" and data.endswith(b"0\r\n\r\n"):
                break
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    proxy = await sidecar(setting(f"http://127.0.0.1:{port}/v1", *chain, server={"max_body": "1MiB"}))
    client = await wire(proxy.port)
    how = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
    await client.send(
        f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n{how}\r\n\r\n".encode()
    )
    before = highest = rss()
    for number in range(size // len(piece)):
        await client.send(piece if framing == "length" else b"%x\r\n%b\r\n" % (len(piece), piece))
        if number % 64 == 0:
            highest = max(highest, rss())
    if framing == "chunked":
        await client.send(b"0\r\n\r\n")
    assert (await client.answer()).body == b"ok"
    assert taken >= size
    assert highest - before < 24 * 1024 * 1024
    listener.close()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_large_download_comes_down_in_constant_memory(sidecar, setting, wire, framing):
    count, piece = 1024, b"d" * 65536

    async def step(call: Any) -> None:
        how = {"length": f"content-length: {count * len(piece)}", "chunked": "transfer-encoding: chunked"}
        call.write(
            f"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\n{how.get(framing, 'connection: close')}\r\n\r\n".encode()
        )
        for _ in range(count):
            call.write(piece if framing != "chunked" else b"%x\r\n%b\r\n" % (len(piece), piece))
            await call.drain()
        if framing == "chunked":
            call.write(b"0\r\n\r\n")
        if framing == "close":
            call.close()

    async with FakeUpstream(step) as upstream:
        proxy = await sidecar(setting(upstream, "validate"))
        client = await wire(proxy.port)
        await client.get("/v1/files/f/content")
        head = await client.head()
        before = highest = rss()
        received = 0
        async with asyncio.timeout(20):
            if head.header("content-length"):
                while received < count * len(piece):
                    received += len(await client.reader.read(1 << 18))
                    highest = max(highest, rss())
            else:
                while data := await client.chunk():
                    received += len(data)
                    highest = max(highest, rss())
    assert received == count * len(piece)
    assert highest - before < 24 * 1024 * 1024


async def test_multipart_bytes_and_names_are_untouched(sidecar, setting, upstream, wire):
    body = (
        b'--B\r\nContent-Disposition: form-data; name="image[]"; filename="\xc3\xa9 1.png"\r\n\r\n\x89PNG\x00\r\n'
        b'--B\r\nContent-Disposition: form-data; name="image[]"; filename="2.png"\r\n\r\n\x00\xff\r\n--B--\r\n'
    )
    proxy = await sidecar(setting(upstream, "validate"))
    client = await wire(proxy.port)
    await client.post("/v1/images/edits", body, 'Content-Type: multipart/form-data; boundary="B"')
    assert (await client.answer()).status == 200
    call = await upstream.call()
    assert (call.body, call.header("content-type")) == (body, 'multipart/form-data; boundary="B"')
    assert call.header("content-length") == str(len(body))


async def test_an_answer_before_the_upload_is_over_reaches_the_client(sidecar, setting, wire):
    async with FakeUpstream(reply({"error": {"message": "too large"}}, status=413, early=True)) as upstream:
        proxy = await sidecar(setting(upstream))
        client = await wire(proxy.port)
        await client.send(
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 1000000\r\n\r\n" + b"x" * 1000
        )
        answer = await client.answer()
        assert (answer.status, answer.error["message"]) == (413, "too large")


async def test_events_leave_when_they_arrive(sidecar, setting, wire):
    sent = chat_events(["one", "two", "three"])
    for chain in CHAINS:
        async with FakeUpstream(events(*sent, held=True)) as upstream:
            proxy = await sidecar(setting(upstream, *chain))
            client = await wire(proxy.port)
            await client.post("/v1/chat/completions", BODY | {"stream": True})
            await upstream.call()
            await client.head()
            for event in sent:
                upstream.release()
                async with asyncio.timeout(0.5):
                    assert await client.chunk() == event
