"""The fakes themselves, driven with plain sockets and a real HTTP client."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from proxy.testing import (
    Call,
    FakeUpstream,
    RunningProxy,
    chat_answer,
    chat_events,
    close,
    collect_sse,
    events,
    exchange_builder,
    garbage,
    hang,
    policy_builder,
    reply,
    reset,
    services_builder,
)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


async def test_a_request_is_recorded_whole(http: aiohttp.ClientSession) -> None:
    async with FakeUpstream(reply({"ok": True})) as upstream:
        async with http.post(upstream.url + "/chat?a=1&a=%20", json={"x": 1}, headers={"X-Thing": "Yes"}) as answer:
            assert await answer.json() == {"ok": True}
        call = await upstream.call()
    assert (call.method, call.target, call.path) == ("POST", "/v1/chat?a=1&a=%20", "/v1/chat")
    assert call.json == {"x": 1}
    assert ("X-Thing", "Yes") in call.headers
    assert call.header("x-thing") == "Yes"
    assert call.connection == 1
    assert call.complete_at is not None


async def test_steps_answer_in_order_and_then_the_default(http: aiohttp.ClientSession) -> None:
    async with FakeUpstream(reply(status=429), reply(status=503), default=reply({"n": 3})) as upstream:
        seen = []
        for _ in range(4):
            async with http.get(upstream.url) as answer:
                seen.append(answer.status)
    assert seen == [429, 503, 200, 200]


async def test_a_script_that_is_over_says_so(http: aiohttp.ClientSession) -> None:
    async with FakeUpstream() as upstream, http.get(upstream.url) as answer:
        assert answer.status == 500
        assert "no answer" in await answer.text()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_body_is_framed_as_asked(http: aiohttp.ClientSession, framing: str) -> None:
    async with FakeUpstream(reply({"a": "b" * 1000}, framing=framing, pieces=3)) as upstream:  # type: ignore[arg-type]
        async with http.get(upstream.url) as answer:
            assert await answer.json() == {"a": "b" * 1000}
        assert ("Content-Length" in answer.headers) == (framing == "length")
        assert answer.headers.get("Transfer-Encoding") == ("chunked" if framing == "chunked" else None)


async def test_gzip_bodies_and_streams_unpack_to_what_was_said(http: aiohttp.ClientSession) -> None:
    async with FakeUpstream(reply({"a": 1}, gzip=True), events("one", "two", gzip=True)) as upstream:
        async with http.get(upstream.url) as answer:
            assert gzip.decompress(await answer.read()) == b'{"a":1}'
        async with http.get(upstream.url) as answer:
            assert gzip.decompress(await answer.read()) == b"data: one\n\ndata: two\n\n"


async def test_chunked_uploads_are_put_together(http: aiohttp.ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with FakeUpstream(reply({})) as upstream:
        async with http.post(upstream.url, data=pieces()):
            pass
        assert (await upstream.call()).body == b"one two"


async def test_expect_100_is_answered_before_the_body() -> None:
    async with FakeUpstream(reply({})) as upstream:
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
        writer.write(b"POST /v1 HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        writer.close()
        await writer.wait_closed()


async def test_held_events_leave_one_by_one(http: aiohttp.ClientSession) -> None:
    async with FakeUpstream(events("one", "two", "three", held=True)) as upstream, http.get(upstream.url) as answer:
        upstream.release()
        assert await answer.content.readuntil(b"\n\n") == b"data: one\n\n"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer.content.readany(), 0.03)
        upstream.release(2)
        assert (await answer.content.read()) == b"data: two\n\ndata: three\n\n"


async def test_the_client_going_away_is_seen_with_its_time() -> None:
    async with FakeUpstream(hang()) as upstream:
        _, writer = await asyncio.open_connection(upstream.host, upstream.port)
        writer.write(b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n")
        call = await upstream.call()
        assert not call.disconnected.done()
        before = asyncio.get_running_loop().time()
        writer.close()
        at = await asyncio.wait_for(call.disconnected, 2)
        assert before <= at <= before + 0.1
        await upstream.idle()
        assert upstream.open_connections == 0


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (reset("before_head"), aiohttp.ClientOSError),
        (reset("in_head"), aiohttp.ClientError),
        (reset("in_body"), aiohttp.ClientError),
        (close("before_head"), aiohttp.ServerDisconnectedError),
        (close("in_head"), aiohttp.ClientError),
        (close("in_body"), aiohttp.ClientPayloadError),
        (garbage(), aiohttp.ClientError),
        (events("one", then="close"), aiohttp.ClientPayloadError),
        (events("one", then="reset"), aiohttp.ClientError),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
async def test_each_way_to_fail_reaches_the_client(
    http: aiohttp.ClientSession, step: object, expected: type[Exception]
) -> None:
    async with FakeUpstream(step) as upstream:  # type: ignore[arg-type]
        with pytest.raises(expected):
            async with http.post(upstream.url, json={}) as answer:
                await answer.read()


@pytest.mark.parametrize("stage", ["before_head", "in_head", "after_head", "in_body"])
async def test_hanging_ends_only_with_the_client(stage: str) -> None:
    async with FakeUpstream(hang(stage)) as upstream:  # type: ignore[arg-type]
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
        writer.write(b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n")
        call = await upstream.call()
        if stage != "before_head":
            assert (await reader.read(10)).startswith(b"HTTP/1.1")
        assert not call.answered
        writer.close()
        await call.disconnected


async def test_connections_are_counted_and_kept_alive(http: aiohttp.ClientSession) -> None:
    async with FakeUpstream(default=reply({})) as upstream:
        for _ in range(3):
            async with http.get(upstream.url) as answer:
                await answer.read()
        assert (upstream.connections, len(upstream.calls)) == (1, 3)
        upstream.drop_idle()
        await upstream.idle()
        async with http.get(upstream.url) as answer:
            await answer.read()
        assert upstream.connections == 2


async def test_early_answers_do_not_wait_for_the_body() -> None:
    async with FakeUpstream(reply({"error": "no"}, status=413, early=True)) as upstream:
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
        writer.write(b"POST /v1 HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        writer.close()


async def test_writes_wait_for_a_slow_reader() -> None:
    async def flood(call: Call) -> None:
        call.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        for _ in range(2000):
            call.write(b"x" * 100_000)
            await call.drain()

    async with FakeUpstream(flood) as upstream:
        _, writer = await asyncio.open_connection(upstream.host, upstream.port, limit=1000)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        call = await upstream.call()
        last = -1
        while call.sent_bytes != last:
            last = call.sent_bytes
            await asyncio.sleep(0.05)
        assert 0 < call.sent_bytes < 50_000_000
        writer.transport.abort()


async def test_a_broken_step_fails_the_test() -> None:
    async def broken(call: Call) -> None:
        raise RuntimeError("wrong step")

    upstream = await FakeUpstream(broken).start()
    reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert await reader.read() == b""
    writer.close()
    with pytest.raises(RuntimeError, match="wrong step"):
        await upstream.stop()


def test_chat_events_say_the_pieces_and_end_with_done() -> None:
    told = collect_sse(b"".join(chat_events(["a", "b"], usage=(1, 2))))
    assert told[-1] == "[DONE]"
    assert [e["choices"][0]["delta"].get("content") for e in told[:-1] if e["choices"]] == ["", "a", "b", None]
    assert told[-2]["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert chat_answer("x")["choices"][0]["message"]["content"] == "x"


def test_an_exchange_looks_as_the_chain_gets_it() -> None:
    body = {"model": "m", "messages": [], "stream": True}
    exchange = exchange_builder(body, headers={"X-Api-Key": "k"})
    assert exchange.request.header("x-api-key") == "k"
    assert exchange.tree == {"model": "m", "messages": [], "stream": True}
    assert (exchange.model_asked, exchange.streaming) == ("m", True)
    assert exchange.request.content_length == len(exchange.request.raw_body or b"")


def test_builders_need_no_test_framework() -> None:
    import subprocess

    code = "import sys, proxy.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_whole_proxy_runs_and_leaves_nothing_behind(http: aiohttp.ClientSession) -> None:
    config = {
        "upstreams": {"demo": {"api": "demo"}},
        "routes": [{"upstream": "demo", "chain": "none"}],
        "chains": {"none": []},
    }
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    async with RunningProxy(config) as proxy:
        folder = proxy.log_file.parent
        async with http.post(proxy.url + "/chat/completions", json=body) as answer:
            assert (await answer.json())["choices"][0]["message"]["content"] == "You said: hi"
        assert folder.exists()
    assert not folder.exists()


def test_a_policy_is_built_from_options_as_in_yaml() -> None:
    from proxy.policies.headers import Headers

    services = services_builder()
    policy = policy_builder(Headers, {"remove": ["x-internal"]}, services=services, label="strip", observe=True)
    assert (policy.label, policy.observe, policy.services) == ("strip", True, services)
