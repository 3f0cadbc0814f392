"""Answers that strict JSON or 64 bits cannot say, in every form: they are neither lost nor paid for again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
import pytest
from anthropic import AsyncAnthropic

from proxy.testing import FakeUpstream, chat_answer, chat_events, collect_sse, events, reply

MASKED = [{"pii": {"entities": ["EMAIL"], "action": "mask", "restore": True}}]
HALF = chat_events(["HALF"])
HALF[1] = HALF[1].replace(b"HALF", b"a\\ud83d")
"""A stream that ends with half a surrogate pair, as one does whose other half was lost with a token limit."""


def ask(form: dict[str, Any]) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **form}


def said(text: str) -> str:
    """What the events of a stream amount to."""
    chunks = [event for event in collect_sse(text.encode()) if isinstance(event, dict)]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


@pytest.mark.parametrize("above", [[], MASKED])
@pytest.mark.parametrize("ids", ["original", "new"])
async def test_half_a_surrogate_pair_is_served_in_every_form(cached, ids, above):
    async with FakeUpstream(events(*HALF)) as upstream:
        caller = await cached(upstream, ids=ids, above=above)
        forms = [
            {"stream": True},
            {"stream": True},
            {},
            {"stream": True, "stream_options": {"include_usage": True}},
            {},
        ]
        got = [await caller.post("/chat/completions", ask(form)) for form in forms]
        assert [one.cache for one in got] == ["miss", *["hit"] * 4]
        texts = [said(one.text) if "stream" in form else one.content for form, one in zip(forms, got, strict=True)]
        assert texts == ["a\ud83d"] * 5
        assert len(upstream.calls) == 1


async def test_half_a_surrogate_pair_reaches_a_follower_who_asked_whole(cached):
    async with FakeUpstream(events(*HALF, held=True)) as upstream:
        caller = await cached(upstream)
        leading = asyncio.ensure_future(caller.post("/chat/completions", ask({"stream": True})))
        call = await upstream.call(0)
        call.release(1)
        following = asyncio.ensure_future(caller.post("/chat/completions", ask({})))
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        call.release(9)
        leader, follower = await leading, await following
        assert (said(leader.text), follower.status, follower.content) == ("a\ud83d", 200, "a\ud83d")
        assert len(upstream.calls) == 1


@pytest.mark.parametrize("odd", [b'"a\\ud83d"', b'"a","logprob":NaN'])
async def test_a_whole_answer_that_is_no_strict_json_is_served_in_every_form(cached, odd):
    raw = orjson.dumps(chat_answer("ODD")).replace(b'"ODD"', odd)
    async with FakeUpstream(reply(body=raw)) as upstream:
        caller = await cached(upstream)
        forms = [{}, {}, {"stream": True}]
        got = [await caller.post("/chat/completions", ask(form)) for form in forms]
        assert [one.cache for one in got] == ["miss", "hit", "hit"]
        assert got[1].text.encode() == raw
        assert said(got[2].text) == got[0].content
        assert len(upstream.calls) == 1


BIG = 123456789012345678901234567890
CALL = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"id": BIG}}
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [CALL],
    "stop_reason": "tool_use", "stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 3},
}  # fmt: skip
ASKED: dict[str, Any] = {"model": "claude-x", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}


def parts(arguments: str, opened: dict[str, Any]) -> list[bytes]:
    """The message as events. opened: the tool's input as its block begins."""
    bodies: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {**CALL, "input": opened}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": arguments}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None},
         "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]  # fmt: skip
    return [f"event: {body['type']}\ndata: {json.dumps(body)}\n\n".encode() for body in bodies]


@pytest.mark.parametrize("ids", ["original", "new"])
@pytest.mark.parametrize(
    ("step", "streams"),
    [
        (events(*parts(json.dumps(CALL["input"]), {})), True),
        (events(*parts("", {"id": BIG})), True),
        (reply(body=json.dumps(MESSAGE).encode()), False),
    ],
    ids=["in parts", "at once", "whole"],
)
async def test_an_integer_beyond_64_bits_reaches_anthropics_sdk_in_every_form(cached, step, streams, ids):
    async with FakeUpstream(step) as upstream:
        caller = await cached(upstream, ids=ids, scope="global")
        async with AsyncAnthropic(base_url=caller.proxy.url, api_key="sk-any") as client:
            if streams:
                await read_stream(client)
            inputs = [(await client.messages.create(**ASKED)).content[0].input, await read_stream(client)]
        assert inputs == [{"id": BIG}] * 2
        assert len(upstream.calls) == 1


async def read_stream(client: AsyncAnthropic) -> Any:
    """The input of the tool call in a stream."""
    async with client.messages.stream(**ASKED) as stream:
        return (await stream.get_final_message()).content[0].input


async def test_an_integer_beyond_64_bits_reaches_a_follower_who_asked_for_a_stream(cached):
    async with FakeUpstream(reply(body=json.dumps(MESSAGE).encode(), delay=0.1)) as upstream:
        caller = await cached(upstream, scope="global")
        async with AsyncAnthropic(base_url=caller.proxy.url, api_key="sk-any") as client:
            leading = asyncio.ensure_future(client.messages.create(**ASKED))
            await upstream.call(0)
            assert await read_stream(client) == {"id": BIG}
            await leading
        assert len(upstream.calls) == 1


async def test_an_integer_beyond_64_bits_beside_the_text_of_a_stream_is_not_rounded(cached):
    raw = [event.replace(b'"created"', b'"serial":%d,"created"' % BIG) for event in chat_events(["Hi"])]
    async with FakeUpstream(events(*raw)) as upstream:
        caller = await cached(upstream)
        await caller.say(stream=True)
        assert (await caller.say()).json["serial"] == BIG
        assert len(upstream.calls) == 1
