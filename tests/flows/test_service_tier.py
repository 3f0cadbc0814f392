"""Which class of service a call is paid in: the one that the answer says it had, in every dialect. What the request asks
for is only reserved, and paid where the answer says nothing.
"""

from __future__ import annotations

import aiohttp
import orjson
import pytest

from proxy.accounting.segments import read_lines
from proxy.testing import FakeUpstream, chat_answer, chat_events, events, reply

PRICE = {"input": 1, "output": 1, "flex": 0.5, "priority": 2, "batch": 0.25}  # a nano-dollar is a thousandth of a token
PLAIN, FLEX, PRIORITY = 200_000, 100_000, 400_000  # of 100 tokens in and 100 out
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 100}
COUNTS = {"prompt_tokens": 100, "completion_tokens": 100}


@pytest.fixture
def cost_of(sidecar, setting):
    """``await cost_of(step, path, body)``: nano-dollars in the ledger's row of one call to an upstream so scripted."""

    async def run(step, path, body, *chain, api="openai"):
        async with FakeUpstream(step) as upstream:
            base = upstream.url if api == "anthropic" else upstream.url + "/v1"
            proxy = await sidecar(setting(base, "account", *chain, up={"api": api}, prices={"m": PRICE}))
            async with aiohttp.ClientSession() as client, client.post(proxy.url + path, json=body) as answer:
                await answer.read()
                said = answer.headers.get("x-sidecar-cost-usd")
            journal = proxy.app.snapshot.services.get("accounting").store.journal
            directory = journal.directory
            lines = [
                line
                for number in directory.segments()
                for line in read_lines(directory.file(number).read_bytes(), "test")
            ]
            end = [line for line in lines if line[0] == "e"][-1]
            if said is not None:
                assert round(float(said) * 1e9) == end[11]
            return end[11]

    return run


def whole(served, counts=COUNTS):
    tier = {} if served is None else {"service_tier": served}
    return chat_answer("Hi") | {"usage": counts} | tier


def streamed(served, usage=(100, 100), **more):
    """Every event of OpenAI's says the class that serves it."""
    tier = {} if served is None else {"service_tier": served}
    *chunks, last = chat_events(["one", " two"], usage=usage, **more)
    return [*(b"data: " + orjson.dumps(orjson.loads(data[6:]) | tier) + b"\n\n" for data in chunks), last]


@pytest.mark.parametrize(
    ("asked", "served", "cost"),
    [
        ("flex", "default", PLAIN),  # no place for it at the lower price
        ("flex", "flex", FLEX),
        ("priority", "default", PLAIN),
        ("priority", "priority", PRIORITY),
        ("auto", "priority", PRIORITY),  # the project's own setting
        ("auto", "default", PLAIN),
        ("default", "flex", FLEX),
        ("priority", "scale", PLAIN),  # no price list has it
        (None, "priority", PRIORITY),
        (None, "batch", 50_000),
        # nothing is said: what was asked for
        ("priority", None, PRIORITY),
        ("flex", None, FLEX),
        ("flex", "auto", FLEX),  # a wish, repeated
        (None, None, PLAIN),
        # a batch is another API, whatever a client writes
        ("batch", None, PLAIN),
        ("batch", "default", PLAIN),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_paid_in_the_class_that_served_it(cost_of, asked, served, cost, stream):
    body = CHAT | ({} if asked is None else {"service_tier": asked}) | {"stream": stream}
    step = events(*streamed(served)) if stream else reply(whole(served))
    assert await cost_of(step, "/v1/chat/completions", body, {"budget": {"usd": 1}}) == cost


COMPLETION = {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}
RESPONSE = {
    "id": "r",
    "object": "response",
    "status": "completed",
    "model": "m",
    "output": [],
    "usage": {"input_tokens": 100, "output_tokens": 100},
    "service_tier": "default",
}
CREATED = RESPONSE | {"status": "in_progress", "usage": None, "service_tier": "auto"}
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 100, "output_tokens": 100, "service_tier": "priority"},
}


def named(*bodies):
    return events(*[b"event: %s\ndata: %s\n\n" % (body["type"].encode(), orjson.dumps(body)) for body in bodies])


async def test_completions_say_it_as_chat_does(cost_of):
    body = {"model": "m", "prompt": "Say", "service_tier": "flex"}
    step = reply(COMPLETION | {"usage": COUNTS, "service_tier": "default"})
    assert await cost_of(step, "/v1/completions", body) == PLAIN


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_says_it_when_it_is_complete(cost_of, stream):
    body = {"model": "m", "input": "Hello", "service_tier": "flex", "stream": stream}
    said = [{"type": "response.created", "response": CREATED}, {"type": "response.completed", "response": RESPONSE}]
    step = named(*said) if stream else reply(RESPONSE)
    assert await cost_of(step, "/v1/responses", body) == PLAIN


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("says", "cost"),
    [({"service_tier": "priority"}, PRIORITY), ({"service_tier": "standard"}, PLAIN), ({"service_tier": None}, PLAIN)],
)
async def test_anthropic_says_it_in_the_usage(cost_of, stream, says, cost):
    counts = {"input_tokens": 100, "output_tokens": 100} | says
    begun = MESSAGE | {"content": [], "stop_reason": None, "usage": counts | {"output_tokens": 1}}
    said = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}},
        {"type": "message_stop"},
    ]
    step = named(*said) if stream else reply(MESSAGE | {"usage": counts})
    body = CHAT | {"stream": stream, "service_tier": "auto"}
    assert await cost_of(step, "/v1/messages", body, api="anthropic") == cost


async def test_the_estimate_of_a_cut_stream_has_the_price_of_the_class_its_events_name(cost_of):
    asked = CHAT | {"stream": True, "service_tier": "flex"}
    plain, flex = [
        await cost_of(events(*streamed(served, usage=None)[:3]), "/v1/chat/completions", asked)
        for served in ("default", None)
    ]
    assert plain == 2 * flex > 0


async def test_a_model_without_a_price_stays_without_one(cost_of):
    body = CHAT | {"model": "unknown", "service_tier": "flex"}
    assert await cost_of(reply(whole("priority")), "/v1/chat/completions", body) == 0
