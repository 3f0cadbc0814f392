"""A budget that cuts a running stream: a finish event, then the error event, and what the providers' own SDKs make of it.

The same with a cache above the budget: what was cut reaches every caller as it left the budget.
"""

from __future__ import annotations

import aiohttp
import anthropic
import openai
import orjson
import pytest

from proxy.testing import FakeUpstream, collect_sse, events

WORDS = ["word and "] * 300
BUDGET = {"budget": {"tokens": 200, "assume_output": 20, "stop_stream": True}}
CHAINS = {"plain": [BUDGET], "below a cache": ["account", "cache", BUDGET], "nobody reads above": ["cache", BUDGET]}
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(params=CHAINS)
def start(request, sidecar, setting):
    async def run(upstream, api="openai"):
        base = upstream.url if api == "anthropic" else upstream.url + "/v1"
        return await sidecar(setting(base, *CHAINS[request.param], up={"api": api}))

    return run


def sse(*bodies):
    return [
        (f"event: {body['type']}\n".encode() if "type" in body else b"") + b"data: " + orjson.dumps(body) + b"\n\n"
        for body in bodies
    ]


def chat_chunks(choices):
    for word in WORDS:
        for number in choices:
            choice = {"index": number, "delta": {"content": word}, "finish_reason": None}
            yield {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt", "choices": [choice]}


def message_events():
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [], "stop_reason": None,
        "usage": {"input_tokens": 10, "output_tokens": 1},
    }  # fmt: skip
    yield {"type": "message_start", "message": message}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for word in WORDS:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}


def response_events():
    response = {
        "id": "resp_9", "object": "response", "created_at": 1, "status": "in_progress", "model": "gpt", "output": [],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    }  # fmt: skip
    item = {"id": "m1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    place = {"item_id": "m1", "output_index": 0, "content_index": 0}
    bodies = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **place, "part": part},
        *({"type": "response.output_text.delta", **place, "delta": word, "logprobs": []} for word in WORDS),
    ]
    for number, body in enumerate(bodies):
        yield {**body, "sequence_number": number}


async def test_chat_both_choices_finish_and_the_sdk_raises(start):
    async with FakeUpstream(events(*sse(*chat_chunks((0, 1))), then="hang")) as upstream:
        proxy = await start(upstream)
        finished = {}
        async with openai.AsyncOpenAI(base_url=proxy.base_url, api_key="k", max_retries=0) as sdk:
            stream = await sdk.chat.completions.create(model="gpt", messages=HELLO, n=2, stream=True)
            with pytest.raises(openai.APIError, match="stop_stream") as caught:
                async for chunk in stream:
                    assert chunk.id == "c1"
                    for choice in chunk.choices:
                        if choice.finish_reason:
                            finished[choice.index] = choice.finish_reason
        assert caught.value.code == "insufficient_quota"
        assert finished == {0: "length", 1: "length"}
        await upstream.calls[0].disconnected


async def test_messages_say_what_was_put_out_and_the_sdk_raises(start):
    async with FakeUpstream(events(*sse(*message_events()), then="hang")) as upstream:
        proxy = await start(upstream, api="anthropic")
        seen = []
        async with anthropic.AsyncAnthropic(base_url=proxy.url, api_key="k", max_retries=0) as sdk:
            with pytest.raises(anthropic.APIStatusError, match="stop_stream") as caught:
                async with sdk.messages.stream(model="claude", max_tokens=30, messages=HELLO) as stream:
                    async for event in stream:
                        seen.append(event)
            message = stream.current_message_snapshot
        told = caught.value.body["error"]
        assert (told["type"], told["code"]) == ("rate_limit_error", "insufficient_quota")
        assert [event.type for event in seen][-2:] == ["content_block_stop", "message_delta"]
        assert message.stop_reason == "max_tokens"
        assert 150 < message.usage.output_tokens < 250


async def test_a_response_ends_incomplete_with_what_came_and_the_sdk_raises(start):
    async with FakeUpstream(events(*sse(*response_events()), then="hang")) as upstream:
        proxy = await start(upstream)
        seen = []
        async with openai.AsyncOpenAI(base_url=proxy.base_url, api_key="k", max_retries=0) as sdk:
            stream = await sdk.responses.create(model="gpt", input="hi", stream=True)
            with pytest.raises(openai.APIError, match="stop_stream") as caught:
                async for event in stream:
                    seen.append(event)
        assert caught.value.code == "insufficient_quota"
        *deltas, last = seen
        text = "".join(event.delta for event in deltas if event.type == "response.output_text.delta")
        assert last.type == "response.incomplete"
        assert (last.response.id, last.response.model, last.response.status) == ("resp_9", "gpt", "incomplete")
        assert last.response.incomplete_details.reason == "max_output_tokens"
        assert last.response.output_text == text != ""


async def test_the_numbers_of_a_responses_events_go_on_to_its_end(start):
    async with FakeUpstream(events(*sse(*response_events()), then="hang")) as upstream:
        proxy = await start(upstream)
        body = {"model": "gpt", "input": "hi", "stream": True}
        async with aiohttp.ClientSession() as client, client.post(proxy.base_url + "/responses", json=body) as answer:
            told = collect_sse(await answer.read())
        assert [event["sequence_number"] for event in told] == list(range(len(told)))
        assert [event["type"] for event in told[-2:]] == ["response.incomplete", "error"]
        assert [exchange.outcome for exchange in proxy.exchanges] == ["refused"]
