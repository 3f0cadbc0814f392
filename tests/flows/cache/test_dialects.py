"""Every API whose answers are cached, in both directions, read by the providers' own SDKs."""

from __future__ import annotations

import asyncio

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from proxy.dialects import DIALECTS
from proxy.testing import FakeUpstream, chat_answer, events, reply

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"where": "Lisbon", "days": [1, 2]}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 3},
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_700_000_000,
    "status": "completed",
    "model": "gpt-4o",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello there", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "error": None,
    "incomplete_details": None,
    "usage": {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    },
}
COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1_700_000_000,
    "model": "instruct",
    "choices": [{"index": 0, "text": "Hello there", "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}
ASKED = {"model": "claude-x", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}
CASES = {
    "anthropic_messages": ("/messages", ASKED, MESSAGE),
    "openai_responses": ("/responses", {"model": "gpt-4o", "input": "Hi"}, RESPONSE),
    "openai_completions": ("/completions", {"model": "instruct", "prompt": "Hi"}, COMPLETION),
}  # fmt: skip


async def test_a_message_replayed_is_what_anthropics_sdk_builds_from_the_whole(cached):
    _, body, answer = CASES["anthropic_messages"]
    async with FakeUpstream(reply(answer)) as upstream:
        caller = await cached(upstream, scope="global")
        async with AsyncAnthropic(base_url=caller.proxy.url, api_key="sk-any") as client:
            whole = await client.messages.create(**body)
            async with client.messages.stream(**body) as stream:
                built = await stream.get_final_message()
        assert len(upstream.calls) == 1
        drop = {"parsed_output"}
        plain = built.model_dump(exclude_none=True)
        for block in plain["content"]:
            for name in drop:
                block.pop(name, None)
        assert plain == whole.model_dump(exclude_none=True)


async def test_a_response_replayed_is_what_openais_sdk_builds_from_the_whole(cached):
    _, body, answer = CASES["openai_responses"]
    async with FakeUpstream(reply(answer)) as upstream:
        caller = await cached(upstream, scope="global")
        async with AsyncOpenAI(base_url=caller.proxy.base_url, api_key="sk-any") as client:
            whole = await client.responses.create(**body)
            async with client.responses.stream(**body) as stream:
                built = await stream.get_final_response()
        assert len(upstream.calls) == 1
        assert built.output_text == whole.output_text == "Hello there"
        assert built.usage == whole.usage
        assert built.id == whole.id


async def test_a_response_that_the_provider_keeps_is_served_under_the_id_that_it_has_there(cached):
    """A later call names it in ``previous_response_id``."""
    async with FakeUpstream(reply({**RESPONSE, "store": True})) as upstream:
        caller = await cached(upstream, ids="new")
        client = AsyncOpenAI(api_key="sk-x", base_url=caller.proxy.base_url)
        ids = [(await client.responses.create(model="gpt-4o", input="Hello")).id for _ in range(2)]
        assert ids == ["resp_1", "resp_1"]
        assert len(upstream.calls) == 1
        await client.close()


@pytest.mark.parametrize("name", CASES)
async def test_a_streamed_original_is_served_whole_and_streamed(cached, name):
    path, body, answer = CASES[name]
    made = DIALECTS[name].replay(answer, include_usage=True)
    async with FakeUpstream(events(*[event.encode() for event in made])) as upstream:
        caller = await cached(upstream)
        more = {"stream_options": {"include_usage": True}} if name == "openai_completions" else {}
        first = await caller.post(path, {**body, "stream": True, **more})
        again = await caller.post(path, {**body, "stream": True, **more})
        whole = await caller.post(path, body)
        assert [one.cache for one in (first, again, whole)] == ["miss", "hit", "hit"]
        assert again.text == first.text
        assert whole.json == answer
        late = await caller.post(path, {**body, "stream": True, **more})
        assert late.cache == "hit"
        assert len(upstream.calls) == 1


async def test_a_stream_without_message_stop_is_not_stored(cached):
    """Some of Anthropic's SDKs take it for broken: who asks again must not get the same."""
    path, body, answer = CASES["anthropic_messages"]
    made = [event.encode() for event in DIALECTS["anthropic_messages"].replay(answer, include_usage=True)]
    async with FakeUpstream(events(*made[:-1]), events(*made)) as upstream:
        caller = await cached(upstream)
        got = [await caller.post(path, {**body, "stream": True}) for _ in range(3)]
        assert [one.cache for one in got] == ["miss", "miss", "hit"]
        assert [one.text.count("event: message_stop") for one in got] == [0, 1, 1]


async def test_a_masked_key_of_a_tools_input_comes_back_in_every_form(cached):
    _, body, answer = CASES["anthropic_messages"]
    call = {**answer["content"][1], "input": {"<EMAIL_1>": {"<EMAIL_1>": "to <EMAIL_1>"}}}
    async with FakeUpstream(default=reply({**answer, "content": [call]})) as upstream:
        above = [{"pii": {"entities": ["EMAIL"], "action": "mask", "restore": True}}]
        caller = await cached(upstream, above=above, scope="global")
        async with AsyncAnthropic(base_url=caller.proxy.url, api_key="sk-any") as client:
            asked = {**body, "messages": [{"role": "user", "content": "Write to ann@corp-mail.net"}]}
            whole = await client.messages.create(**asked)
            async with client.messages.stream(**asked) as stream:
                built = await stream.get_final_message()
            # The client says it again in its next turn, and it is masked again.
            turn = [{"role": "assistant", "content": [whole.content[0].to_dict()]}, *asked["messages"]]
            await client.messages.create(**{**asked, "messages": [*asked["messages"], *turn]})
        told = {"ann@corp-mail.net": {"ann@corp-mail.net": "to ann@corp-mail.net"}}
        assert whole.content[0].input == built.content[0].input == told
        assert not any(b"ann@" in call.body for call in upstream.calls)
        assert len(upstream.calls) == 2


@pytest.mark.parametrize(("name", "change"), [
    ("anthropic_messages", {"stop_reason": "max_tokens"}),
    ("openai_responses", {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}),
    ("openai_completions", {"choices": [{"index": 0, "text": "Hel", "finish_reason": "length"}]}),
])  # fmt: skip
async def test_an_answer_that_was_cut_short_is_not_stored(cached, name, change):
    path, body, answer = CASES[name]
    async with FakeUpstream(default=reply({**answer, **change})) as upstream:
        caller = await cached(upstream)
        assert [(await caller.post(path, body)).cache for _ in range(2)] == ["miss", "miss"]


@pytest.mark.parametrize("above", [["account"], ["account", "validate"]])
async def test_a_hit_and_a_follower_cost_nothing_and_are_booked_as_saved(cached, above):
    async with FakeUpstream(reply(chat_answer("Hi", model="gpt-4o"), delay=0.05)) as upstream:
        caller = await cached(upstream, above=above, below=["retry", {"budget": {"usd": 10, "window": "day"}}])
        await asyncio.gather(caller.say(), caller.say())
        await caller.say()
        by_status = {exchange.cache_status: exchange for exchange in caller.proxy.exchanges}
        paid = by_status["miss"]
        assert paid.cost_nanos > 0
        for status in ("hit", "coalesced"):
            assert by_status[status].cost_nanos == 0
            assert by_status[status].saved_nanos == paid.cost_nanos


@pytest.mark.parametrize("leader_streams", [True, False])
@pytest.mark.parametrize("name", CASES)
async def test_a_follower_gets_its_own_form_of_the_answer(cached, name, leader_streams):
    path, body, answer = CASES[name]
    made = DIALECTS[name].replay(answer, include_usage=True)
    step = events(*[event.encode() for event in made], held=True) if leader_streams else reply(answer, delay=0.2)
    async with FakeUpstream(step) as upstream:
        caller = await cached(upstream)
        streamed = {**body, "stream": True}
        if name == "openai_completions":
            streamed["stream_options"] = {"include_usage": True}
        leading = asyncio.ensure_future(caller.post(path, streamed if leader_streams else body))
        call = await upstream.call(0)
        following = asyncio.ensure_future(caller.post(path, body if leader_streams else streamed))
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        if leader_streams:
            call.release(99)
        leader, follower = await leading, await following
        assert (leader.cache, follower.cache) == ("miss", "coalesced")
        whole, told = (follower, leader) if leader_streams else (leader, follower)
        assert whole.json == answer
        assert told.text.encode() == b"".join([event.encode() for event in made])
        assert len(upstream.calls) == 1
