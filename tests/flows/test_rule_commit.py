"""Rule 3: an answer is committed when its head is sent; nothing is retried after that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxy.policy import Retry
from proxy.testing import FakeUpstream, chat_answer, chat_events, events, reply

STREAM = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
ROLE = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
PING = b": keep-alive\n\n"
ERROR = b'data: {"error": {"message": "Overloaded.", "type": "server_error", "code": "server_error"}}\n\n'


@pytest.fixture
def again(policy: Callable[..., str]) -> str:
    """A policy that retries twice at once, and therefore commits late."""

    async def retry(self: Any, exchange: Any, attempt: Any, verdict: Any) -> Retry | None:
        return Retry(0.0) if verdict.failure is not None and attempt.try_number < 3 else None

    return policy(on_result=retry, late_commit=True)


async def test_without_retry_the_head_is_sent_on_at_once(sidecar, setting, wire, policy):
    async def nothing(self: Any, exchange: Any) -> None:
        pass

    for chain in ([], [policy(on_settle=nothing)]):
        async with FakeUpstream(events(*chat_events(["x"]), held=True)) as upstream:
            proxy = await sidecar(setting(upstream, *chain))
            client = await wire(proxy.port)
            await client.post("/v1/chat/completions", STREAM)
            await upstream.call()
            async with asyncio.timeout(0.5):
                assert (await client.head()).status == 200


async def test_with_retry_the_head_waits_for_content(sidecar, setting, wire, again):
    sent = [PING, ROLE, *chat_events(["content"])[1:]]
    async with FakeUpstream(events(*sent, held=True)) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        await upstream.call()
        upstream.release(2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.3)
        upstream.release(1)
        async with asyncio.timeout(0.5):
            await client.head()
            body = b""
            while len(body) < len(b"".join(sent[:3])):
                body += await client.chunk()
        assert body == b"".join(sent[:3])
        upstream.release(10)
        while piece := await client.chunk():
            body += piece
    assert body == b"".join(sent)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"reasoning_content": "hm"},
        {"refusal": "no"},
        {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}]},
    ],
)
async def test_content_and_tool_calls_commit(sidecar, setting, wire, again, delta):
    event = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
    async with FakeUpstream(events(event, ROLE, held=True)) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        await upstream.call()
        upstream.release(1)
        async with asyncio.timeout(0.5):
            await client.head()


async def test_a_finish_commits(sidecar, setting, wire, again):
    event = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    async with FakeUpstream(events(event, ROLE, held=True)) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        await upstream.call()
        upstream.release(1)
        async with asyncio.timeout(0.5):
            await client.head()


async def test_a_silent_stream_commits_two_seconds_after_its_head(sidecar, setting, wire, again):
    async with FakeUpstream(events(PING, *chat_events(["x"]), held=True)) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        loop = asyncio.get_running_loop()
        await client.post("/v1/chat/completions", STREAM)
        await upstream.call()
        upstream.release(1)
        start = loop.time()
        await asyncio.wait_for(client.head(), 4)
        assert 1.7 < loop.time() - start < 2.6
        assert await client.chunk() == PING


@pytest.mark.parametrize(
    "step",
    [
        events(ROLE, then="reset"),
        events(ROLE, then="close"),
        events(ROLE, then="end"),
        events(ROLE, ERROR),
        events(ERROR, b"data: [DONE]\n\n"),
        reply({"error": {"message": "down"}}, status=503),
    ],
)
async def test_what_fails_before_content_is_tried_again_unseen(sidecar, setting, wire, again, step):
    sent = chat_events(["fine"])
    async with FakeUpstream(step, events(*sent)) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
        assert len(upstream.calls) == 2
    assert (answer.status, answer.body, answer.header("x-sidecar-attempts")) == (200, b"".join(sent), "2")


async def test_after_commit_nothing_is_tried_again_and_the_end_is_loud(sidecar, setting, wire, again):
    part = chat_events(["half"], finish=None, done=False)
    async with FakeUpstream(events(*part, then="reset"), events(*chat_events(["other"]))) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
        assert len(upstream.calls) == 1
    assert answer.body.startswith(b"".join(part))
    assert b'"error"' in answer.body[len(b"".join(part)) :]
    assert b"other" not in answer.body


@pytest.mark.parametrize("end", [b"", ERROR])
async def test_content_commits_also_when_the_end_comes_in_the_same_read(sidecar, setting, wire, again, end):
    part = chat_events(["half"], finish=None, done=False)
    step = reply(body=b"".join(part) + end, headers={"content-type": "text/event-stream"})
    async with FakeUpstream(step, events(*chat_events(["other"]))) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
        assert len(upstream.calls) == 1
    assert answer.body.startswith(b"".join(part))
    assert b'"error"' in answer.body[len(b"".join(part)) :]


async def test_a_stream_that_never_has_content_ends_as_the_upstreams_error(sidecar, setting, wire, again):
    async with FakeUpstream(default=events(ROLE, ERROR)) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
        assert len(upstream.calls) == 3
    assert b"Overloaded." in answer.body


async def test_an_answer_that_is_no_json_may_be_tried_again(sidecar, setting, wire, again):
    async with FakeUpstream(reply(body=b"<html>"), reply(chat_answer("Hi"))) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", {**STREAM, "stream": False})
        assert (await client.answer()).json["choices"][0]["message"]["content"] == "Hi"
        assert len(upstream.calls) == 2


async def test_a_stream_in_gzip_is_read_and_leaves_plain(sidecar, setting, wire, again):
    sent = chat_events(["zipped"])
    async with FakeUpstream(events(*sent, gzip=True)) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM, "Accept-Encoding: gzip, br")
        answer = await client.answer()
        assert (await upstream.call()).header("accept-encoding") == "gzip"
    assert answer.header("content-encoding") is None
    assert answer.body == b"".join(sent)


async def test_held_events_are_bounded(sidecar, setting, wire, again):
    comment = b": " + b"x" * 60_000 + b"\n\n"
    async with FakeUpstream(events(*[comment] * 6, *chat_events(["x"]), held=True)) as upstream:
        proxy = await sidecar(setting(upstream, again))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        await upstream.call()
        upstream.release(6)
        async with asyncio.timeout(1):
            assert (await client.head()).status == 200
        upstream.release(10)
        body = b""
        while piece := await client.chunk():
            body += piece
    assert body == comment * 6 + b"".join(chat_events(["x"]))
