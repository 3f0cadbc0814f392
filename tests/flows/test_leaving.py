"""Clients that leave or drink slowly, and upstreams that are late: proven by what the upstream saw."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from proxy.policy import Retry
from proxy.testing import Call, FakeUpstream, chat_answer, chat_events, events, hang, reply, reset

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = CHAT | {"stream": True}
OPEN = chat_events(["x"], finish=None, done=False)


@pytest.fixture
def again(policy: Callable[..., str]) -> str:
    """A policy that waits ten seconds before another try."""

    async def retry(self: Any, exchange: Any, attempt: Any, verdict: Any) -> Retry | None:
        return Retry(10.0) if verdict.failure is not None else None

    return policy(on_result=retry, late_commit=True)


async def gone_within(call: Call, seconds: float = 0.1) -> None:
    async with asyncio.timeout(seconds):
        await call.disconnected


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("step", "body", "begun"),
    [
        (hang(), CHAT, False),
        (hang("in_head"), CHAT, False),
        (hang("after_head"), CHAT, False),
        (hang("in_body"), CHAT, False),
        (hang(), STREAM, False),
        (events(*OPEN, then="hang"), STREAM, True),
        (events(b": ping\n\n", then="hang"), STREAM, False),
    ],
)
async def test_the_upstream_ends_within_100_ms_after_the_client(sidecar, setting, wire, again, late, step, body, begun):
    async with FakeUpstream(step) as upstream:
        proxy = await sidecar(setting(upstream, *(["validate", again] if late else [])))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", body)
        call = await upstream.call()
        if begun:
            await client.head()
            await client.chunk()
        else:
            await asyncio.sleep(0.05)
        client.writer.close()
        await gone_within(call)
        await upstream.idle(timeout=1)
    assert proxy.app.snapshot.in_flight == set()
    assert proxy.exchanges[-1].outcome == "cancelled"


async def test_a_reset_by_the_client_counts_as_leaving(sidecar, setting, wire):
    async with FakeUpstream(events(*OPEN, then="hang")) as upstream:
        proxy = await sidecar(setting(upstream))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        call = await upstream.call()
        client.writer.transport.abort()
        await gone_within(call)


async def test_a_client_that_leaves_in_its_upload(sidecar, setting, wire):
    seen: asyncio.Future[Call] = asyncio.get_running_loop().create_future()

    async def early(call: Call) -> None:
        seen.set_result(call)
        await asyncio.Event().wait()

    early.early = True  # type: ignore[attr-defined]
    async with FakeUpstream(early) as upstream:
        proxy = await sidecar(setting(upstream))
        client = await wire(proxy.port)
        await client.send(
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 1000000\r\n\r\n" + b"x" * 1000
        )
        call = await asyncio.wait_for(seen, 2)
        client.writer.close()
        await gone_within(call)
    assert proxy.app.snapshot.in_flight == set()


async def test_leaving_during_the_backoff_sends_nothing_more(sidecar, setting, wire, again):
    async with FakeUpstream(default=reply({"error": {"message": "x"}}, status=500)) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", CHAT)
        await upstream.call()
        await asyncio.sleep(0.05)
        client.writer.close()
        async with asyncio.timeout(0.2):
            while not proxy.exchanges:
                await asyncio.sleep(0.005)
        assert proxy.exchanges[0].outcome == "cancelled"
        assert len(upstream.calls) == 1


async def test_leaving_while_waiting_for_a_connection(sidecar, setting, wire):
    async with FakeUpstream(hang(), default=reply(chat_answer())) as upstream:
        proxy = await sidecar(setting(upstream, up={"max_connections": 1}))
        first, second = await wire(proxy.port), await wire(proxy.port)
        await first.post("/v1/chat/completions", CHAT)
        await upstream.call()
        await second.post("/v1/chat/completions", CHAT)
        await asyncio.sleep(0.05)
        second.writer.close()
        async with asyncio.timeout(0.2):
            while not proxy.exchanges:
                await asyncio.sleep(0.005)
        assert len(upstream.calls) == 1
        first.writer.close()
        await upstream.idle(timeout=1)


async def test_leaving_in_a_policy_stops_it(sidecar, setting, upstream, wire, policy):
    ended = asyncio.Event()
    entered = asyncio.Event()

    async def slow(self: Any, exchange: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    proxy = await sidecar(setting(upstream, policy(on_request=slow)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", CHAT)
    await asyncio.wait_for(entered.wait(), 1)
    client.writer.close()
    await asyncio.wait_for(ended.wait(), 0.2)
    assert upstream.calls == []


async def test_a_finished_call_leaves_its_connection_for_the_next(sidecar, setting, wire):
    async with FakeUpstream(default=events(*chat_events(["x"]))) as upstream:
        proxy = await sidecar(setting(upstream, "validate", {"retry": {"attempts": 2}}))
        for _ in range(3):
            client = await wire(proxy.port)
            await client.post("/v1/chat/completions", STREAM)
            assert (await client.answer()).complete
            await client.hang_up()
        assert upstream.connections == 1


# --- slow clients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "events", "late events"])
async def test_a_slow_client_slows_the_upstream_down(sidecar, setting, wire, again, policy, kind):
    piece = b"data: {" + b"x" * 65_000 + b"}\n\n" if "events" in kind else b"x" * 65_536
    total = 1600

    async def flood(call: Call) -> None:
        what = "text/event-stream" if "events" in kind else "audio/mpeg"
        call.write(f"HTTP/1.1 200 OK\r\ncontent-type: {what}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for _ in range(total):
            call.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await call.drain()

    async def nothing(self: Any, exchange: Any) -> None: ...

    chain = {"plain": [], "events": [policy(on_settle=nothing)], "late events": [again]}[kind]
    async with FakeUpstream(flood) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        client = await wire(proxy.port, limit=1024)
        before = psutil.Process(os.getpid()).memory_info().rss
        await client.post("/v1/chat/completions", STREAM)
        call = await upstream.call()
        stuck, same = -1, 0
        async with asyncio.timeout(8):
            while same < 10:
                await asyncio.sleep(0.03)
                same = same + 1 if call.sent_bytes == stuck else 0
                stuck = call.sent_bytes
        assert 0 < stuck < 40 * 1024 * 1024 < total * len(piece)
        assert psutil.Process(os.getpid()).memory_info().rss - before < 40 * 1024 * 1024
        client.reader._limit = 1 << 20  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            while call.sent_bytes == stuck:  # what the kernel holds for the two connections comes first
                assert await client.reader.read(1 << 18)
        client.writer.close()
        await gone_within(call, 0.5)


async def test_a_client_that_never_drinks_is_let_go(sidecar, setting, wire):
    async def flood(call: Call) -> None:
        call.write(b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            call.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await call.drain()

    async with FakeUpstream(flood) as upstream:
        proxy = await sidecar(setting(upstream, server={"write_timeout": "300ms"}))
        client = await wire(proxy.port, limit=1024)
        await client.get("/v1/files/f/content")
        call = await upstream.call()
        await gone_within(call, 5)


# --- deadlines ----------------------------------------------------------------------------------------


@pytest.fixture
async def deaf() -> Any:
    """A port that takes connections into its backlog and no further, so that connecting hangs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    filled = []
    for _ in range(8):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
        filled.append(one)
    yield listener.getsockname()[1]
    for one in [*filled, listener]:
        one.close()


async def test_the_connect_deadline(sidecar, setting, wire, deaf):
    proxy = await sidecar(setting(f"http://127.0.0.1:{deaf}/v1", up={"timeouts": {"connect": "200ms"}}))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", CHAT)
    answer = await client.answer(timeout=3)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert "could not be reached in time" in answer.error["message"]


@pytest.mark.parametrize("step", [hang(), hang("in_head")])
async def test_the_first_byte_deadline(sidecar, setting, wire, step):
    async with FakeUpstream(step) as upstream:
        proxy = await sidecar(setting(upstream, up={"timeouts": {"first_byte": "200ms", "idle": "300ms"}}))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", CHAT)
        answer = await client.answer(timeout=3)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        await gone_within(upstream.calls[0], 0.5)


async def test_the_idle_deadline_of_a_whole_answer_that_is_read(sidecar, setting, wire, again):
    async with FakeUpstream(hang("in_body")) as upstream:
        up = {"timeouts": {"idle": "200ms"}}
        proxy = await sidecar(setting(upstream, "validate", {"retry": {"attempts": 1}}, up=up))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", CHAT)
        answer = await client.answer(timeout=3)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert "stopped sending" in answer.error["message"]


@pytest.mark.parametrize("late", [False, True])
async def test_the_idle_deadline_in_a_stream_is_an_error_event(sidecar, setting, wire, policy, late):
    async def nothing(self: Any, exchange: Any) -> None: ...

    chain = [{"retry": {"attempts": 2}}] if late else [policy(on_settle=nothing)]
    async with FakeUpstream(events(*OPEN, then="hang")) as upstream:
        proxy = await sidecar(setting(upstream, *chain, up={"timeouts": {"idle": "200ms"}}))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer(timeout=3)
        assert answer.body.startswith(b"".join(OPEN))
        assert b"upstream_timeout" in answer.body
        assert b"[DONE]" not in answer.body
        await gone_within(upstream.calls[0], 0.5)
    assert proxy.exchanges[0].error.code == "upstream_timeout"


async def test_anthropic_streams_end_with_their_own_error_event(sidecar, setting, wire, policy):
    async def nothing(self: Any, exchange: Any) -> None: ...

    start = b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","usage":{"input_tokens":1}}}\n\n'
    async with FakeUpstream(events(start, then="reset")) as upstream:
        proxy = await sidecar(setting(upstream.origin, policy(on_settle=nothing), up={"api": "anthropic"}))
        client = await wire(proxy.port)
        await client.post("/v1/messages", STREAM)
        answer = await client.answer(timeout=3)
    assert answer.body.startswith(start + b"event: error\ndata: ")
    assert b'"type":"error"' in answer.body.replace(b" ", b"")


@pytest.mark.parametrize(
    ("step", "path"),
    [
        (events(*OPEN, then="hang"), "/v1/chat/completions"),
        (events(*OPEN, then="reset"), "/v1/chat/completions"),
        (hang("in_body"), "/v1/chat/completions"),
        (reset("in_body"), "/v1/chat/completions"),
    ],
)
async def test_raw_bytes_that_break_off_have_broken_framing(sidecar, setting, wire, step, path):
    async with FakeUpstream(step, default=reset()) as upstream:
        proxy = await sidecar(setting(upstream, up={"timeouts": {"idle": "200ms"}}))
        client = await wire(proxy.port)
        await client.post(path, STREAM)
        answer = await client.answer(timeout=3)
    assert not answer.complete or answer.status >= 500 or b'"error"' in answer.body


async def test_the_total_deadline_counts_all(sidecar, setting, wire):
    drip = events(*[b": ping\n\n"] * 50, gap=0.05)
    for chain in ([], [{"retry": {"attempts": 3}}]):
        async with FakeUpstream(default=drip) as upstream:
            proxy = await sidecar(setting(upstream, *chain, up={"timeouts": {"total": "400ms"}}))
            client = await wire(proxy.port)
            loop = asyncio.get_running_loop()
            start = loop.time()
            await client.post("/v1/chat/completions", STREAM)
            answer = await client.answer(timeout=5)
            assert loop.time() - start < 2
            assert not answer.complete or b'"error"' in answer.body
            await gone_within(upstream.calls[-1], 0.5)


async def test_an_upstream_that_is_not_there(sidecar, setting, wire):
    proxy = await sidecar(setting("http://127.0.0.1:9/v1"))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", CHAT)
    answer = await client.answer(timeout=3)
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert "127.0.0.1:9" not in answer.error["message"]


async def test_no_place_in_the_pool_is_overloaded(sidecar, setting, wire):
    async with FakeUpstream(hang()) as upstream:
        proxy = await sidecar(setting(upstream, up={"max_connections": 1, "max_waiting": 0}))
        first, second = await wire(proxy.port), await wire(proxy.port)
        await first.post("/v1/chat/completions", CHAT)
        await upstream.call()
        await second.post("/v1/chat/completions", CHAT)
        answer = await second.answer(timeout=3)
    assert (answer.status, answer.error["code"], answer.header("retry-after")) == (503, "overloaded", "1")
