"""Calls that differ only in how their answer travels share a flight, and each gets its own form of the answer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.dialects.openai_chat import OpenAIChat
from proxy.testing import FakeUpstream, chat_answer, chat_events, collect_sse, events, reply

USAGE = (9, 3)
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def step(tail: str = "stop", **how: Any) -> Any:
    """A stream in three pieces, with the usage that the proxy asks for; each event waits to be released."""
    return events(*chat_events(["one", " two", " three"], finish=tail, usage=USAGE), held=True, **how)


def content(data: str) -> str:
    chunks = [event for event in collect_sse(data.encode()) if isinstance(event, dict)]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices"))


def usages(data: str) -> list[Any]:
    return [e["usage"] for e in collect_sse(data.encode()) if isinstance(e, dict) and e.get("usage") is not None]


async def test_a_whole_caller_joins_a_stream_and_gets_it_added_up(cached):
    async with FakeUpstream(step()) as upstream:
        caller = await cached(upstream)
        streamed = asyncio.ensure_future(caller.say(stream=True))
        call = await upstream.call(0)
        call.release(2)
        whole = asyncio.ensure_future(caller.say())
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        call.release(9)
        one, other = await streamed, await whole
        assert (one.cache, other.cache) == ("miss", "coalesced")
        assert content(one.text) == "one two three"
        assert other.content == "one two three"
        assert other.headers["content-type"] == "application/json"
        assert other.json["object"] == "chat.completion"
        assert other.json["choices"][0]["finish_reason"] == "stop"
        assert (other.json["usage"]["prompt_tokens"], other.json["usage"]["completion_tokens"]) == USAGE
        assert usages(one.text) == []  # it did not ask for it
        assert len(upstream.calls) == 1
        first, second = sorted(caller.proxy.exchanges, key=lambda exchange: exchange.streaming, reverse=True)
        assert (first.usage.input, second.usage, second.saved_usage.input) == (9, None, 9)
        # Both forms are hits from now on.
        assert [(await caller.say()).cache, (await caller.say(stream=True)).cache] == ["hit", "hit"]


@pytest.mark.parametrize(("pieces", "beside"), [(3, False), (2000, True)])
async def test_a_long_stream_is_added_up_beside_the_loop(cached, monkeypatch, pieces, beside):
    threads: list[int] = []
    collect = OpenAIChat.collect

    def noted(self: OpenAIChat, stream: Any) -> Any:
        threads.append(threading.get_ident())
        return collect(self, stream)

    monkeypatch.setattr(OpenAIChat, "collect", noted)
    async with FakeUpstream(events(*chat_events(["some text "] * pieces), held=True)) as upstream:
        caller = await cached(upstream)
        streamed = asyncio.ensure_future(caller.say(stream=True))
        call = await upstream.call(0)
        call.release(2)
        whole = asyncio.ensure_future(caller.say())
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        call.release(pieces + 9)
        await streamed
        assert (await whole).content == "some text " * pieces
        assert [thread != threading.get_ident() for thread in threads] == [beside]


async def test_a_streaming_caller_joins_a_whole_call_and_gets_its_events(cached):
    async with FakeUpstream(reply(chat_answer("one two three", usage=USAGE), delay=0.1)) as upstream:
        caller = await cached(upstream)
        whole = asyncio.ensure_future(caller.say())
        await upstream.call(0)
        streamed, counted = await asyncio.gather(caller.say(stream=True), caller.say(**WITH_USAGE))
        assert ((await whole).cache, streamed.cache, counted.cache) == ("miss", "coalesced", "coalesced")
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert content(streamed.text) == content(counted.text) == "one two three"
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert [len(usages(one.text)) for one in (streamed, counted)] == [0, 1]
        assert len(upstream.calls) == 1


@pytest.mark.parametrize("leader_counts", [True, False])
async def test_streams_with_and_without_usage_share_a_flight(cached, leader_counts):
    forms: list[dict[str, Any]] = [WITH_USAGE, {"stream": True}]
    first, second = forms if leader_counts else forms[::-1]
    async with FakeUpstream(step()) as upstream:
        caller = await cached(upstream)
        leading = asyncio.ensure_future(caller.say(**first))
        call = await upstream.call(0)
        call.release(2)
        following = asyncio.ensure_future(caller.say(**second))
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        call.release(9)
        leader, follower = await leading, await following
        assert (leader.cache, follower.cache) == ("miss", "coalesced")
        counted, plain = (leader, follower) if leader_counts else (follower, leader)
        assert [(one["prompt_tokens"], one["completion_tokens"]) for one in usages(counted.text)] == [USAGE]
        assert usages(plain.text) == []
        assert content(counted.text) == content(plain.text) == "one two three"
        said = collect_sse(counted.text.encode())
        assert (said[-1], said[-2]["choices"]) == ("[DONE]", [])
        assert said[-2]["id"] == said[0]["id"]
        assert len(upstream.calls) == 1


async def test_events_reach_a_restyled_follower_as_they_come(cached):
    async with FakeUpstream(step()) as upstream:
        caller = await cached(upstream)
        leading = asyncio.ensure_future(caller.say(stream=True))
        call = await upstream.call(0)
        call.release(2)
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **WITH_USAGE}
        async with caller.session.post(caller.proxy.base_url + "/chat/completions", json=body) as answer:
            got = b""
            async with asyncio.timeout(5):
                while b"one" not in got:
                    got += await answer.content.readany()
            assert b"three" not in got
            call.release(9)
            got += await answer.content.read()
        assert content(got.decode()) == "one two three"
        await leading


async def test_an_answer_that_was_cut_is_given_to_a_whole_follower_and_not_stored(cached):
    async with FakeUpstream(step("length"), reply(chat_answer("again"))) as upstream:
        caller = await cached(upstream)
        streamed = asyncio.ensure_future(caller.say(stream=True))
        call = await upstream.call(0)
        call.release(2)
        whole = asyncio.ensure_future(caller.say())
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        call.release(9)
        await streamed
        assert (await whole).json["choices"][0]["finish_reason"] == "length"
        assert (await caller.say()).cache == "miss"


async def test_a_stream_that_breaks_lets_a_whole_follower_start_anew(cached):
    broken = events(*chat_events(["one"], finish=None, done=False), held=True, then="close")
    async with FakeUpstream(broken, reply(chat_answer("anew"))) as upstream:
        caller = await cached(upstream)
        streamed = asyncio.ensure_future(caller.say(stream=True))
        call = await upstream.call(0)
        call.release(1)
        whole = asyncio.ensure_future(caller.say())
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        call.release(9)
        assert "error" in (await streamed).text
        answer = await whole
        assert (answer.status, answer.cache, answer.content) == (200, "miss", "anew")


@pytest.mark.parametrize("leaver", ["stream", "whole"])
async def test_either_may_leave_without_harm_to_the_other(cached, leaver):
    async with FakeUpstream(step()) as upstream:
        caller = await cached(upstream)
        streamed = asyncio.ensure_future(caller.say(stream=True))
        call = await upstream.call(0)
        call.release(2)
        whole = asyncio.ensure_future(caller.say())
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        gone, left = (streamed, whole) if leaver == "stream" else (whole, streamed)
        gone.cancel()
        await caller.until(lambda: len(caller.proxy.exchanges) == 1)
        call.release(9)
        answer = await left
        assert (answer.content if left is whole else content(answer.text)) == "one two three"
        await caller.until(lambda: caller.cache.stats()["entries"] == 1)


async def test_the_last_one_who_waits_for_a_sum_cancels_the_upstream(cached):
    async with FakeUpstream(step()) as upstream:
        caller = await cached(upstream)
        both = [asyncio.ensure_future(caller.say(stream=True))]
        call = await upstream.call(0)
        call.release(2)
        both.append(asyncio.ensure_future(caller.say()))
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        for one in both:
            one.cancel()
        left = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            assert await call.disconnected - left < 0.1
        await asyncio.gather(*both, return_exceptions=True)


async def test_masked_values_of_one_caller_never_reach_another(cached):
    """Two callers whose texts differ in a masked value share a flight whole and streamed; each gets his own back."""
    above = [{"pii": {"entities": ["EMAIL"], "action": "mask", "restore": True}}]
    async with FakeUpstream(reply(chat_answer("To <EMAIL_1>"), delay=0.1)) as upstream:
        caller = await cached(upstream, above=above)
        names = [f"person{number}@corp-mail.net" for number in range(6)]
        calls = [caller.say(f"Write to {name}", **({"stream": True} if n % 2 else {})) for n, name in enumerate(names)]
        got = await asyncio.gather(*calls)
        assert len(upstream.calls) == 1
        for name, one in zip(names, got, strict=True):
            said = one.content if one.json else content(one.text)
            assert said == f"To {name}"
            assert not any(other in one.text for other in names if other != name)


async def test_the_openai_sdk_reads_a_restyled_stream(cached):
    openai = pytest.importorskip("openai")
    async with FakeUpstream(reply(chat_answer("one two three", usage=USAGE), delay=0.1)) as upstream:
        caller = await cached(upstream)
        client = openai.AsyncOpenAI(base_url=caller.proxy.base_url, api_key="sk-x")
        asked: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
        whole = asyncio.ensure_future(client.chat.completions.create(**asked))
        await upstream.call(0)
        stream = await client.chat.completions.create(**asked, **WITH_USAGE)
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
        assert chunks[-1].usage.completion_tokens == 3
        assert (await whole).choices[0].message.content == "one two three"
        await client.close()


ANTHROPIC = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}


async def test_an_anthropic_stream_follows_a_whole_message(cached):
    answer = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "Hello"}],
        "usage": {"input_tokens": 9, "output_tokens": 3},
    }  # fmt: skip
    async with FakeUpstream(reply(answer, delay=0.1)) as upstream:
        caller = await cached(upstream)

        async def post(body: dict[str, Any]) -> str:
            async with caller.session.post(caller.proxy.base_url + "/messages", json=body) as got:
                assert got.status == 200
                return await got.text()

        whole = asyncio.ensure_future(post(ANTHROPIC))
        await upstream.call(0)
        told = await post({**ANTHROPIC, "stream": True})
        assert orjson.loads(await whole) == answer
        kinds = [line[7:] for line in told.splitlines() if line.startswith("event: ")]
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
        assert '"Hello"' in told
        assert len(upstream.calls) == 1


async def test_a_caller_that_leaves_before_the_sum_is_known_closes_nothing_else(cached):
    async with FakeUpstream(step()) as upstream:
        caller = await cached(upstream)
        streamed = asyncio.ensure_future(caller.say(stream=True))
        call = await upstream.call(0)
        call.release(2)
        timeout = aiohttp.ClientTimeout(total=0.1)
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
        with pytest.raises(TimeoutError):
            await caller.session.post(caller.proxy.base_url + "/chat/completions", json=body, timeout=timeout)
        call.release(9)
        assert content((await streamed).text) == "one two three"
