"""Which answers are stored, and which of those stored are still good enough."""

from __future__ import annotations

import pytest

from proxy.testing import FakeUpstream, chat_answer, chat_events, events, reply

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("stop", True),
        ("STOP", True),
        ("eos_token", True),
        ("length", False),
        ("MAX_TOKENS", False),
        ("content_filter: RECITATION", False),
        ("insufficient_system_resource", False),
        ("a_word_that_is_new", False),
    ],
)
async def test_only_an_answer_that_came_to_its_own_end_is_stored(cached, reason, kept, stream):
    step = events(*chat_events(["Hi"], finish=reason)) if stream else reply(chat_answer("Hi", finish=reason))
    async with FakeUpstream(default=step) as upstream:
        caller = await cached(upstream)
        got = [(await caller.say(stream=stream)).cache for _ in range(2)]
        assert got == ["miss", "hit" if kept else "miss"]


@pytest.mark.parametrize("why", ["max_output_tokens", "max_tool_calls", None])
async def test_an_incomplete_response_is_not_stored(cached, why):
    answer = {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "incomplete", "model": "m", "output": [],
        "incomplete_details": {"reason": why},
    }  # fmt: skip
    async with FakeUpstream(default=reply(answer)) as upstream:
        caller = await cached(upstream)
        got = [(await caller.post("/responses", {"model": "m", "input": "q"})).cache for _ in range(2)]
        assert got == ["miss", "miss"]


RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m",
    "output": [{"type": "function_call", "id": "f1", "call_id": "c1", "name": "f", "arguments": "{}"}],
}  # fmt: skip


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize(
    ("path", "ask", "step"),
    [
        ("/chat/completions", {"messages": []}, reply(chat_answer(None, finish="stop", tool_calls=[CALL]))),
        ("/responses", {"input": "q"}, reply(RESPONSE)),
    ],
)
async def test_an_answer_that_calls_tools_is_stored_unless_told_not_to(cached, path, ask, step, allowed):
    async with FakeUpstream(default=step) as upstream:
        caller = await cached(upstream, tool_calls=allowed)
        got = [(await caller.post(path, {"model": "m", **ask})).cache for _ in range(2)]
        assert got == ["miss", "hit" if allowed else "miss"]


async def test_a_streamed_answer_that_calls_tools_is_not_stored_when_told_so(cached):
    said = [{"index": 0, **CALL}]
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    made = [
        {**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": said}, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    async with FakeUpstream(default=events(*made, "[DONE]")) as upstream:
        caller = await cached(upstream, tool_calls=False)
        assert [(await caller.say(stream=True)).cache for _ in range(2)] == ["miss", "miss"]


@pytest.mark.parametrize(("fields", "kept"), [({}, False), ({"temperature": None}, False), ({"temperature": 0}, True)])
async def test_a_temperature_that_is_not_said_counts_as_one(cached, fields, kept):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, max_temperature=0.5)
        got = [(await caller.say(**fields)).cache for _ in range(2)]
        assert got == (["miss", "hit"] if kept else ["bypass", "bypass"])


async def test_embeddings_have_no_temperature(cached):
    answer = {"object": "list", "model": "e", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
              "usage": {"prompt_tokens": 1, "total_tokens": 1}}  # fmt: skip
    async with FakeUpstream(default=reply(answer)) as upstream:
        caller = await cached(upstream, max_temperature=0.5)
        got = [(await caller.post("/embeddings", {"model": "e", "input": "a"})).cache for _ in range(2)]
        assert got == ["miss", "hit"]


async def test_an_answer_is_fresh_for_as_long_as_the_configuration_says_now(cached, redis):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        shared = {"store": "redis", "redis": redis.url}
        before, now = await cached(upstream, ttl="1h", **shared), await cached(upstream, ttl="1ms", **shared)
        await before.say()
        await before.until(lambda: not before.cache.shelf.store._pending)
        assert (await before.say()).cache == "hit"
        assert (await now.say()).cache == "miss"
