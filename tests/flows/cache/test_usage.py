"""The usage that a provider told reaches whoever asks for it: as it was told, once, in every form.

Who streams and does not ask for it is not shown the event that tells it, which the proxy has asked for.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI

from proxy.policies.cache.entry import Entry
from proxy.policies.cache.lru import START
from proxy.testing import FakeUpstream, chat_answer, collect_sse, events, reply

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "cost": 0.01,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2, "accepted_prediction_tokens": 1},
}
STREAM: dict[str, Any] = {"stream": True}
WITH_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**frame, "choices": choices, **more}


def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


SAID = [chunk([choice({"role": "assistant", "content": "Hi"})]), chunk([choice({}, "stop")])]
APART: list[Any] = [*SAID, chunk([], usage=USAGE), "[DONE]"]
WITH_FINISH: list[Any] = [SAID[0], chunk([choice({}, "stop")], usage=USAGE), "[DONE]"]


def usages(text: str) -> list[Any]:
    return [e["usage"] for e in collect_sse(text.encode()) if isinstance(e, dict) and e.get("usage") is not None]


async def together(cached: Any, stream: list[Any], *forms: dict[str, Any]) -> list[Any]:
    """What callers get who ask in these forms while the first one's stream is under way."""
    async with FakeUpstream(events(*stream, held=True)) as upstream:
        caller = await cached(upstream)
        calls = [asyncio.ensure_future(caller.say(**forms[0]))]
        call = await upstream.call(0)
        call.release(1)
        calls += [asyncio.ensure_future(caller.say(**form)) for form in forms[1:]]
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == len(forms))
        call.release(9)
        got = await asyncio.gather(*calls)
        assert [one.cache for one in got] == ["miss", *["coalesced"] * (len(forms) - 1)]
        return got


@pytest.mark.parametrize("ids", ["original", "new"])
async def test_the_usage_of_a_hidden_event_is_stored_as_it_was_told(cached, ids):
    async with FakeUpstream(events(*APART)) as upstream:
        caller = await cached(upstream, ids=ids)
        first = await caller.say(**STREAM)
        stream, counted, whole, later = [await caller.say(**form) for form in (STREAM, WITH_USAGE, {}, WITH_USAGE)]
        assert (usages(first.text), usages(stream.text)) == ([], [])
        assert usages(counted.text) == usages(later.text) == [USAGE]
        assert whole.json["usage"] == USAGE
        assert len(upstream.calls) == 1


async def test_the_usage_of_a_hidden_event_reaches_those_who_join_as_it_was_told(cached):
    leader, whole, counted, plain = await together(cached, APART, STREAM, {}, WITH_USAGE, STREAM)
    assert whole.json["usage"] == USAGE
    assert usages(counted.text) == [USAGE]
    assert (usages(leader.text), usages(plain.text)) == ([], [])


async def test_completions_keep_the_usage_of_a_hidden_event(cached):
    frame = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    told = [{**frame, "choices": [{"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "stop"}]}]
    async with FakeUpstream(events(*told, {**frame, "choices": [], "usage": USAGE}, "[DONE]")) as upstream:
        caller = await cached(upstream)
        body = {"model": "m", "prompt": "Hello"}
        await caller.post("/completions", {**body, "stream": True})
        assert (await caller.post("/completions", body)).json["usage"] == USAGE


async def test_usage_that_a_follower_asked_for_comes_once_when_a_chunk_with_choices_tells_it(cached):
    _, counted = await together(cached, WITH_FINISH, STREAM, WITH_USAGE)
    assert usages(counted.text) == [USAGE]


async def test_usage_that_a_follower_asked_for_comes_without_done(cached):
    _, counted = await together(cached, APART[:-1], STREAM, WITH_USAGE)
    assert usages(counted.text) == [USAGE]
    assert collect_sse(counted.text.encode())[-1]["choices"] == []


async def test_langchain_counts_a_shared_stream_once(cached):
    async with FakeUpstream(events(*WITH_FINISH, held=True)) as upstream:
        caller = await cached(upstream, scope="global")
        leading = asyncio.ensure_future(caller.say(**STREAM))
        call = await upstream.call(0)
        call.release(1)
        url = caller.proxy.base_url
        model = ChatOpenAI(model="gpt-4o", base_url=url, api_key="sk-any", stream_usage=True, max_retries=0)

        async def counted() -> Any:
            whole: Any = None
            async for piece in model.astream("Hello"):
                whole = piece if whole is None else whole + piece
            return whole.usage_metadata["total_tokens"]

        following = asyncio.ensure_future(counted())
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        call.release(9)
        await leading
        assert await following == 12
        await model.root_async_client.close()
        assert len(upstream.calls) == 1


async def test_the_sdk_reads_the_details_of_usage_from_a_stored_stream(cached):
    async with FakeUpstream(events(*APART)) as upstream:
        caller = await cached(upstream, scope="global")
        await caller.say(**STREAM)
        async with AsyncOpenAI(base_url=caller.proxy.base_url, api_key="sk-any") as client:
            asked: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
            whole = await client.chat.completions.create(**asked)
            async with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
                built = await stream.get_final_completion()
        assert whole.usage == built.usage
        assert whole.usage.model_dump(exclude_none=True) == USAGE
        assert len(upstream.calls) == 1


@pytest.mark.parametrize(("step", "form"), [(reply(chat_answer("Hi")), {}), (events(*APART), WITH_USAGE)])
async def test_an_answer_that_tells_its_usage_itself_is_stored_with_no_more_than_counts(cached, step, form):
    async with FakeUpstream(step) as upstream:
        caller = await cached(upstream)
        await caller.say(**form)
        assert (entry_of(caller).told, entry_of(caller).usage.input) == (None, 9)


async def test_once_added_up_an_entry_holds_usage_in_its_body_alone(cached):
    async with FakeUpstream(events(*APART)) as upstream:
        caller = await cached(upstream)
        await caller.say(**STREAM)
        assert entry_of(caller).told == USAGE
        await caller.say()
        assert (entry_of(caller).told, entry_of(caller).usage.input) == (None, 9)


def entry_of(caller: Any) -> Entry:
    """The only entry of the cache."""
    (data,) = [data for shard in caller.cache.shelf.store.lru.scan() for _, data in shard]
    return Entry.decode(data, START)
