"""Hits: whole and streamed, from whole and streamed originals, and what is not cached at all."""

from __future__ import annotations

import threading
from random import Random

import orjson
import pytest
from openai import AsyncOpenAI

from proxy.policies.cache import serve
from proxy.testing import FakeUpstream, chat_answer, chat_events, collect_sse, events, reply

CALLS = [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"where": "Lisbon"}'}}]


async def test_the_same_question_is_asked_once(cached):
    async with FakeUpstream(reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        first, second = await caller.say(), await caller.say()
        assert (first.cache, second.cache) == ("miss", "hit")
        assert first.json == second.json
        assert second.headers["age"] == "0"
        assert len(upstream.calls) == 1


async def test_another_question_is_another_entry(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        await caller.say("one")
        for other in (
            await caller.say("two"),
            await caller.say("one", temperature=0.5),
            await caller.say("one", model="x"),
        ):
            assert other.cache == "miss"


async def test_who_asks_and_how_it_travels_is_no_part_of_the_question(cached):
    async with FakeUpstream(reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        await caller.say(user="a", metadata={"k": "v"})
        assert (await caller.say(user="b")).cache == "hit"


async def test_a_whole_answer_is_served_as_a_stream_with_its_tool_calls(cached):
    original = chat_answer(None, tool_calls=CALLS, finish="tool_calls")
    async with FakeUpstream(reply(original)) as upstream:
        caller = await cached(upstream)
        await caller.say()
        got = await caller.say(stream=True, stream_options={"include_usage": True})
        assert got.cache == "hit"
        assert got.headers["content-type"].startswith("text/event-stream")
        assert got.text.endswith("data: [DONE]\n\n")
        chunks = collect_sse(got.text.encode())
        assert chunks[-2]["usage"] == original["usage"]
        assert len(upstream.calls) == 1


@pytest.mark.parametrize("answer", [
    chat_answer("Hello there"),
    chat_answer(None, tool_calls=CALLS, finish="tool_calls"),
    chat_answer("", tool_calls=[*CALLS, {**CALLS[0], "id": "call_2"}], finish="tool_calls"),
])  # fmt: skip
async def test_a_streamed_hit_is_what_the_sdk_builds_from_the_whole_answer(cached, answer):
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    async with FakeUpstream(reply(answer)) as upstream:
        caller = await cached(upstream, scope="global")
        async with AsyncOpenAI(base_url=caller.proxy.base_url, api_key="sk-any") as client:
            whole = await client.chat.completions.create(**body)
            async with client.chat.completions.stream(**body, stream_options={"include_usage": True}) as stream:
                built = await stream.get_final_completion()
        assert len(upstream.calls) == 1
        plain = built.model_dump(exclude_none=True)
        for choice in plain["choices"]:
            choice["message"].pop("parsed", None)
            for call in choice["message"].get("tool_calls") or []:
                call["function"].pop("parsed_arguments", None)
                call.pop("index", None)
            if not choice["message"].get("content"):
                choice["message"].pop("content", None)
        expected = whole.model_dump(exclude_none=True)
        for choice in expected["choices"]:
            if not choice["message"].get("content"):
                choice["message"].pop("content", None)
        assert plain == expected


async def test_a_streamed_original_is_served_whole_with_its_usage(cached):
    async with FakeUpstream(events(*chat_events(["Hel", "lo"], usage=(7, 2)))) as upstream:
        caller = await cached(upstream)
        first = await caller.say(stream=True)
        assert '"usage"' not in first.text or '"choices":[]' not in first.text
        assert orjson.loads(upstream.calls[0].body)["stream_options"] == {"include_usage": True}
        second = await caller.say()
        assert second.cache == "hit"
        assert second.content == "Hello"
        assert second.json["object"] == "chat.completion"
        assert second.json["usage"]["total_tokens"] == 9
        assert len(upstream.calls) == 1


@pytest.mark.parametrize("asked", [True, False])
async def test_usage_is_in_a_streamed_hit_when_the_client_asked(cached, asked):
    async with FakeUpstream(reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        await caller.say()
        got = await caller.say(stream=True, stream_options={"include_usage": asked})
        assert got.cache == "hit"
        assert any(type(chunk) is dict and chunk.get("usage") for chunk in collect_sse(got.text.encode())) is asked


async def test_a_hit_may_have_a_new_id_and_time(cached):
    async with FakeUpstream(reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, ids="new")
        first, second, third = await caller.say(), await caller.say(), await caller.say()
        assert second.json["id"].startswith("chatcmpl-")
        assert len({first.json["id"], second.json["id"], third.json["id"]}) == 3
        assert second.json["created"] > first.json["created"]
        assert second.content == "Hi"


@pytest.mark.parametrize("step", [
    reply({"error": {"message": "no"}}, status=500),
    reply({"error": {"message": "no"}}, status=400),
    reply({"error": {"message": "no"}}),
    reply(chat_answer("cut", finish="length")),
    reply(chat_answer("cut", finish="content_filter")),
    reply(body=b"not json"),
])  # fmt: skip
async def test_errors_and_cut_answers_are_not_stored(cached, step):
    async with FakeUpstream(step, reply(chat_answer("good"))) as upstream:
        caller = await cached(upstream)
        await caller.say()
        second = await caller.say()
        assert second.cache == "miss"
        assert second.content == "good"


async def test_a_broken_stream_is_not_stored(cached):
    cut = events(*chat_events(["Hel"], finish=None, done=False), then="close")
    async with FakeUpstream(cut, reply(chat_answer("good"))) as upstream:
        caller = await cached(upstream)
        broken = await caller.say(stream=True)
        assert 'data: {"error":' in broken.text
        assert (await caller.say()).content == "good"


@pytest.mark.parametrize("fields", [{"store": True}, {"previous_response_id": "resp_1"}])
async def test_stateful_calls_pass_by(cached, fields):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        assert [(await caller.say(**fields)).cache for _ in range(2)] == ["bypass", "bypass"]


async def test_temperature_and_tools_can_be_left_out(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, max_temperature=0.3, tool_calls=False)
        assert (await caller.say(temperature=0.2)).cache == "miss"
        assert (await caller.say(temperature=0.4)).cache == "bypass"
        assert (await caller.say()).cache == "bypass"
        assert (await caller.say(temperature=0, tools=[{"type": "function"}])).cache == "bypass"


async def test_the_client_controls_its_call(cached):
    async with FakeUpstream(*[reply(chat_answer(f"{n}")) for n in range(9)]) as upstream:
        caller = await cached(upstream)

        async def ask(control: str | None = None, text: str = "Hello"):
            return await caller.say(text, headers={"x-sidecar-cache": control} if control else None)

        refused = await ask("only-if-cached")
        assert refused.status == 504
        assert refused.json["error"]["code"] == "not_cached"
        assert (await ask()).content == "0"
        assert (await ask("only-if-cached")).content == "0"
        assert (await ask("no-cache")).content == "1"
        assert (await ask()).content == "1"
        assert (await ask("max-age=60")).cache == "hit"
        assert (await ask("max-age=0")).content == "2"
        assert (await ask("no-store", "other")).content == "3"
        assert (await ask(None, "other")).content == "4"
        wrong = await ask("no-chache")
        assert wrong.status == 400
        assert wrong.json["error"]["param"] == "x-sidecar-cache"
        assert all(call.header("x-sidecar-cache") is None for call in upstream.calls)


async def test_observe_looks_but_neither_serves_nor_stores_nor_coalesces(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, mode="observe")
        assert [(await caller.say()).cache for _ in range(3)] == ["bypass"] * 3
        assert len(upstream.calls) == 3
        assert caller.cache.stats()["entries"] == 0


async def test_a_hit_saves_what_the_original_used(cached):
    async with FakeUpstream(reply(chat_answer("Hi", usage=(9, 3)))) as upstream:
        caller = await cached(upstream)
        await caller.say()
        await caller.say()
        paid, saved = caller.proxy.exchanges
        assert (paid.usage.input, paid.usage.output, paid.saved_usage) == (9, 3, None)
        assert saved.usage is None
        assert (saved.saved_usage.input, saved.saved_usage.output) == (9, 3)


async def test_a_download_passes_through_untouched(cached):
    data = bytes(range(256)) * 2000
    async with FakeUpstream(
        reply(body=data, content_type="application/octet-stream", framing="chunked", pieces=9)
    ) as upstream:
        caller = await cached(upstream)
        async with caller.session.get(caller.proxy.base_url + "/files/f/content") as answer:
            assert await answer.read() == data
            assert answer.headers["x-sidecar-cache"] == "bypass"


@pytest.mark.parametrize(
    ("headers", "fields", "status"),
    [({"x-sidecar-cache": "no-store"}, {}, "miss"), ({}, {"temperature": 1.5}, "bypass")],
    ids=["no-store", "unfit"],
)
async def test_a_stream_that_nobody_shares_is_its_callers_own(cached, headers, fields, status):
    """What is masked above is put back, and the call is one call: nothing runs beside it."""
    async with FakeUpstream(default=events(*chat_events(["Hi <EMAIL_1>"]))) as upstream:
        caller = await cached(upstream, above=["account", {"pii": {"entities": ["EMAIL"]}}], max_temperature=1)
        got = await caller.say("I am ann@corp-mail.net", headers=headers, stream=True, **fields)
        assert got.cache == status
        assert b"ann@corp-mail.net" not in upstream.calls[0].body
        assert "ann@corp-mail.net" in got.text
        await caller.until(lambda: len(caller.proxy.exchanges) == 1)
        [exchange] = caller.proxy.exchanges
        assert (exchange.flight_of, len(exchange.attempts), exchange.outcome) == (None, 1, "answered")
        assert caller.cache.stats()["entries"] == 0


async def test_a_large_answer_is_packed_and_served_as_it_came(cached):
    """What takes over a millisecond to pack or unpack is done in a thread."""
    text = "".join(Random(1).choices("abcdefghij klmno", k=400_000))
    async with FakeUpstream(default=reply(chat_answer(text))) as upstream:
        caller = await cached(upstream)
        first = await caller.say()
        await caller.until(lambda: caller.cache.stats()["bytes"] < 300_000)
        [(name, data)] = [pair for shard in caller.cache.shelf.store.lru.scan() for pair in shard]
        assert 32 * 1024 < len(data) < 300_000
        again, streamed = await caller.say(), await caller.say(stream=True)
        assert (again.cache, again.text) == ("hit", first.text)
        said = [event for event in collect_sse(streamed.text.encode()) if isinstance(event, dict)]
        assert "".join(event["choices"][0]["delta"].get("content") or "" for event in said) == text
        caller.cache.shelf.store.lru.put(name, data[8:-20], 100)
        assert (await caller.say()).cache == "miss"
        assert caller.cache.stats()["damaged"] == 1
        assert len(upstream.calls) == 2


async def test_answers_of_a_fallback_are_given_and_not_stored(cached):
    async with FakeUpstream(reply({"error": {}}, status=500), reply(chat_answer("other"))) as upstream:
        caller = await cached(upstream, below=[{"fallback": {"targets": [{"upstream": "up", "model": "gpt-small"}]}}])
        assert (await caller.say()).content == "other"
        assert caller.cache.stats()["entries"] == 0


@pytest.mark.parametrize("store", ["memory", "tiered"])
async def test_a_large_answer_is_there_at_once_though_it_is_still_being_packed(cached, redis, store):
    text = "".join(Random(1).choices("abcdefghij klmno", k=400_000))
    async with FakeUpstream(default=reply(chat_answer(text))) as upstream:
        caller = await cached(upstream, store=store, **({} if store == "memory" else {"redis": redis.url}))
        assert [(await caller.say()).cache for _ in range(4)] == ["miss", "hit", "hit", "hit"]
        await caller.until(lambda: caller.cache.stats()["bytes"] < 350_000)
        assert (await caller.say()).cache == "hit"


async def test_long_events_are_added_up_without_keeping_the_loop(cached, monkeypatch):
    """Once: who asks for the whole answer after that is given what was added up."""
    where = []
    add_up = serve.add_up
    monkeypatch.setattr(serve, "add_up", lambda *args: (where.append(threading.current_thread()), add_up(*args))[1])
    async with FakeUpstream(default=events(*chat_events(["word "] * 1000))) as upstream:
        caller = await cached(upstream)
        await caller.say(stream=True)
        for _ in range(2):
            got = await caller.say()
            assert (got.cache, got.content) == ("hit", "word " * 1000)
        assert len(where) == 1
        assert where[0] is not threading.main_thread()
        assert len(upstream.calls) == 1
