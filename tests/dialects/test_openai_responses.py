"""The responses API: items of every type, events that add and events that repeat, the final response."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from proxy.accounting.usage import Usage
from proxy.dialects import openai_responses as dialect
from proxy.dialects.base import Bound
from proxy.errors import ProxyError
from proxy.stream.sse import Event

BODY: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 7,
    "model": "gpt",
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": "be kind to Ann",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "thought of Ann"}],
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Hello Ann", "annotations": [], "logprobs": []},
                {"type": "refusal", "refusal": "not that"},
            ],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "find",
            "arguments": '{"who": "Ann"}',
            "status": "completed",
        },
    ],
    "usage": {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 8},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 18,
    },
}


def named(body: dict[str, Any]) -> Event:
    return Event.made(body, body["type"])


def test_texts_of_items_of_every_type() -> None:
    body = {
        "model": "gpt",
        "instructions": "be kind",
        "input": [
            {"role": "user", "content": "hi"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "look"},
                    {"type": "input_image", "image_url": "data:image/png;base64,aGVsbG8="},
                ],
            },
            {"type": "function_call", "call_id": "c1", "name": "find", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "found"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "more"}]},
            {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "thought"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "sealed"}], "encrypted_content": "eA=="},
            {"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "who is Ann"}},
            "bare words",
        ],
        "prompt": {"id": "p1", "variables": {"name": "my Ann"}},
    }
    assert [(slot.place, slot.kind, slot.role, slot.text) for slot in dialect.texts(body)] == [
        ("instructions", "text", "instructions", "be kind"),
        ("input[0].content", "text", "user", "hi"),
        ("input[1].content[0].text", "text", "user", "look"),
        ("input[2].arguments", "arguments", "user", "{}"),
        ("input[3].output", "text", "tool", "found"),
        ("input[4].output[0].text", "text", "tool", "more"),
        ("input[5].summary[0].text", "text", "user", "thought"),
        ("input[7].action.query", "leaf", "user", "who is Ann"),
        ("input[8]", "text", "user", "bare words"),
        ("prompt.variables.name", "leaf", "input", "my Ann"),
    ]
    assert [opaque.kind for opaque in dialect.opaque(body)] == ["image"]
    assert [slot.text for slot in dialect.texts({"input": "hello"})] == ["hello"]


def test_what_bounds_and_steers_a_request() -> None:
    body: dict[str, Any] = {"max_output_tokens": 5, "instructions": "old", "input": "x"}
    assert dialect.bound(body) == Bound(5)
    dialect.add_system(body, "rule")
    assert body["instructions"] == "rule\n\nold"
    assert not dialect.stateful(body)
    assert dialect.stateful({"previous_response_id": "r"})
    assert dialect.stateful({"store": True})


def test_an_item_that_is_referred_to_is_state() -> None:
    assert dialect.stateful({"input": [{"role": "user", "content": "hi"}, {"type": "item_reference", "id": "msg_1"}]})


@pytest.mark.parametrize(
    ("family", "key", "kind"),
    [
        ("output_text", "text", "text"),
        ("refusal", "refusal", "text"),
        ("function_call_arguments", "arguments", "arguments"),
        ("reasoning_summary_text", "text", "text"),
        ("reasoning_text", "text", "text"),
        ("custom_tool_call_input", "input", "text"),
        ("brand_new", "text", "text"),
    ],
)
def test_deltas_add_to_a_channel_and_done_repeats_and_closes_it(family: str, key: str, kind: str) -> None:
    place = {"item_id": "i", "output_index": 2, "content_index": 1}
    added = dialect.read(named({"type": f"response.{family}.delta", **place, "delta": "he"}))
    done = dialect.read(named({"type": f"response.{family}.done", **place, key: "hello"}))
    channel = (2, family, 1)
    assert [(p.channel, p.kind, p.whole, p.text) for p in added.pieces] == [(channel, kind, False, "he")]
    assert [(p.channel, p.kind, p.whole, p.text) for p in done.pieces] == [(channel, kind, True, "hello")]
    assert done.closed(channel)
    assert not added.closed(channel)


def test_parts_and_items_repeat_the_channels_they_hold() -> None:
    part = {"type": "output_text", "text": "Hello Ann", "annotations": []}
    read = dialect.read(
        named({"type": "response.content_part.done", "output_index": 1, "content_index": 0, "part": part})
    )
    assert [(piece.channel, piece.whole) for piece in read.pieces] == [((1, "output_text", 0), True)]
    for index, item in enumerate(BODY["output"]):
        read = dialect.read(named({"type": "response.output_item.done", "output_index": index, "item": item}))
        assert all(piece.whole for piece in read.pieces)
        assert read.closed((index, "output_text", 0))
        expected = [
            [(0, "reasoning_summary_text", 0)],
            [(1, "output_text", 0), (1, "refusal", 1)],
            [(2, "function_call_arguments", 0)],
        ]
        assert [piece.channel for piece in read.pieces] == expected[index]


def test_the_final_response_repeats_everything() -> None:
    read = dialect.read(named({"type": "response.completed", "response": BODY}))
    assert (read.final, read.finish, read.closes, read.commits) == (True, "completed", None, True)
    assert read.usage == Usage(input=12, cached_input=8, output=6, reasoning=2)
    assert [piece.text for piece in read.pieces] == [
        "be kind to Ann",
        "thought of Ann",
        "Hello Ann",
        "not that",
        '{"who": "Ann"}',
    ]
    short = {**BODY, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert dialect.read(named({"type": "response.incomplete", "response": short})).finish == "max_output_tokens"
    failed = dialect.read(named({"type": "response.failed", "response": {"status": "failed"}}))
    assert (failed.error, failed.final) == (True, False)


@pytest.mark.parametrize(
    "channel", [(1, "output_text", 0), (2, "function_call_arguments", 0), (0, "reasoning_summary_text", 3)]
)
def test_a_delta_of_our_own_is_read_back_in_its_channel(channel: tuple[int, str, int]) -> None:
    like = named({"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "delta": "x"})
    event = dialect.delta(like, channel, "more")
    assert event.json["item_id"] == "m"
    assert [(piece.channel, piece.text) for piece in dialect.read(event).pieces] == [(channel, "more")]


def test_replay_and_collect_are_inverse() -> None:
    stream = dialect.replay(BODY, include_usage=False)
    assert dialect.collect(stream) == BODY
    assert dialect.collect(stream[:-1]) is None
    assert [event.json["sequence_number"] for event in stream] == list(range(len(stream)))


def test_items_missing_in_the_last_event_are_taken_from_their_own() -> None:
    stream = dialect.replay(BODY, include_usage=False)
    stream[-1].json["response"]["output"] = []
    stream[-1].touch()
    assert dialect.collect(stream) == BODY


async def test_the_sdk_builds_from_a_replay_what_was_replayed(serve: Any) -> None:
    base = await serve(dialect.replay(BODY, include_usage=True))
    async with (
        openai.AsyncOpenAI(base_url=base + "/v1", api_key="k", max_retries=0) as client,
        client.responses.stream(model="gpt", input="x") as stream,
    ):
        added = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        built = (await stream.get_final_response()).to_dict()
    assert added == "Hello Ann"
    for mine, theirs in zip(BODY["output"], built["output"], strict=True):
        assert {key: theirs[key] for key in mine if key != "content"} == {
            k: v for k, v in mine.items() if k != "content"
        }
    assert built["output"][1]["content"][0]["text"] == "Hello Ann"
    assert built["usage"] == BODY["usage"]


async def test_the_sdk_raises_on_an_error_event(serve: Any) -> None:
    error = dialect.error_event(ProxyError("upstream_timeout", "too slow"))
    base = await serve([*dialect.replay(BODY, include_usage=True)[:3], error])
    async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="k", max_retries=0) as client:
        stream = await client.responses.create(model="gpt", input="x", stream=True)
        with pytest.raises(openai.APIError, match="too slow"):
            async for _ in stream:
                pass
