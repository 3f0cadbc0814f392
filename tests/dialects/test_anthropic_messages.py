"""Anthropic's messages: blocks, signed thinking, usage in its own way of counting, real event sequences."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from proxy.accounting.usage import Usage
from proxy.dialects import anthropic_messages as dialect
from proxy.dialects.base import NOTHING
from proxy.errors import ProxyError
from proxy.stream.sse import Event

BODY: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [
        {"type": "thinking", "thinking": "let me think of Ann", "signature": "c2ln"},
        {
            "type": "text",
            "text": "Hello Ann",
            "citations": [
                {
                    "type": "char_location",
                    "cited_text": "Ann was here",
                    "document_index": 0,
                    "document_title": "Diary",
                    "start_char_index": 0,
                    "end_char_index": 12,
                }
            ],
        },
        {"type": "tool_use", "id": "tu_1", "name": "find", "input": {"who": "Ann", "n": [1, 2]}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 7,
        "output_tokens": 5,
    },
}


def named(body: dict[str, Any]) -> Event:
    return Event.made(body, body["type"])


def delta(index: int, **fields: Any) -> Event:
    return named({"type": "content_block_delta", "index": index, "delta": fields})


def test_texts_of_system_blocks_tool_use_and_tool_results() -> None:
    body = {
        "model": "claude",
        "system": [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Ann?", "signature": "c2ln"},
                    {"type": "thinking", "thinking": "unsigned"},
                    {"type": "redacted_thinking", "data": "b3BhcXVl"},
                    {"type": "tool_use", "id": "tu_1", "name": "find", "input": {"id": "Ann", "deep": [{"type": "x"}]}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "tu_1", "content": [{"type": "text", "text": "found"}]},
                    {"type": "tool_result", "tool_use_id": "tu_2", "content": "lost"},
                    {
                        "type": "document",
                        "title": "my diary",
                        "source": {"type": "text", "media_type": "text/plain", "data": "dear"},
                    },
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}},
                ],
            },
        ],
    }
    assert [(slot.place, slot.kind, slot.text) for slot in dialect.texts(body)] == [
        ("system[0].text", "text", "be kind"),
        ("messages[0].content", "text", "hi"),
        ("messages[1].content[1].thinking", "text", "unsigned"),
        ("messages[1].content[3].input.id", "leaf", "Ann"),
        ("messages[1].content[3].input.deep[0].type", "leaf", "x"),
        ("messages[2].content[0].content[0].text", "text", "found"),
        ("messages[2].content[1].content", "text", "lost"),
        ("messages[2].content[2].title", "leaf", "my diary"),
        ("messages[2].content[2].source.data", "text", "dear"),
    ]
    assert [opaque.kind for opaque in dialect.opaque(body)] == ["image"]


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (None, "rule"),
        ("old", "rule\n\nold"),
        ([{"type": "text", "text": "old"}], [{"type": "text", "text": "rule"}, {"type": "text", "text": "old"}]),
    ],
)
def test_a_system_prompt_stands_first(system: Any, expected: Any) -> None:
    body = {"messages": []} if system is None else {"system": system}
    dialect.add_system(body, "rule")
    assert body["system"] == expected


def test_input_counts_what_the_cache_gave_and_took() -> None:
    assert dialect.usage(BODY) == Usage(input=117, cached_input=100, cache_write=7, output=5)


def test_a_late_count_of_output_alone_keeps_the_input() -> None:
    first = dialect.read(named({"type": "message_start", "message": {**BODY, "content": []}}))
    last = dialect.read(
        named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 50}})
    )
    assert first.usage is not None
    assert last.usage is not None
    assert dialect.join_usage(first.usage, last.usage) == Usage(input=117, cached_input=100, cache_write=7, output=50)


def test_what_each_event_means() -> None:
    start = dialect.read(
        named({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}})
    )
    assert (list(start.pieces), start.commits) == ([], False)
    tool = {"type": "tool_use", "id": "t", "name": "find", "input": {}}
    assert dialect.read(named({"type": "content_block_start", "index": 1, "content_block": tool})).commits
    text = dialect.read(delta(1, type="text_delta", text="hi"))
    assert [(piece.channel, piece.kind, piece.text) for piece in text.pieces] == [((1, "text"), "text", "hi")]
    json = dialect.read(delta(2, type="input_json_delta", partial_json='{"a'))
    assert [(piece.channel, piece.kind) for piece in json.pieces] == [((2, "partial_json"), "arguments")]
    thinking = dialect.read(delta(0, type="thinking_delta", thinking="Ann"))
    assert (thinking.pieces, thinking.commits) == ((), True)
    assert not dialect.read(delta(0, type="signature_delta", signature="abc def")).pieces
    cited = dialect.read(delta(1, type="citations_delta", citation={"type": "x", "cited_text": "Ann was here"}))
    assert [piece.text for piece in cited.pieces] == ["Ann was here"]
    assert cited.closed(cited.pieces[0].channel)
    stop = dialect.read(named({"type": "content_block_stop", "index": 1}))
    assert stop.closed((1, "text"))
    assert not stop.closed((2, "text"))
    finish = dialect.read(named({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}))
    assert (finish.finish, finish.commits, finish.closes) == ("max_tokens", True, None)
    assert dialect.read(named({"type": "message_stop"})).final
    assert dialect.read(named({"type": "ping"})) is NOTHING
    assert dialect.read(named({"type": "error", "error": {"type": "overloaded_error"}})).error


@pytest.mark.parametrize("channel", [(3, "text"), (1, "partial_json")])
def test_a_delta_of_our_own_is_read_back_in_its_channel(channel: tuple[int, str]) -> None:
    event = dialect.delta(delta(0, type="text_delta", text="x"), channel, "more")
    assert event.name == "content_block_delta"
    assert [(piece.channel, piece.text) for piece in dialect.read(event).pieces] == [(channel, "more")]


def test_replay_and_collect_are_inverse() -> None:
    assert dialect.collect(dialect.replay(BODY, include_usage=False)) == BODY


def test_a_stream_without_its_stop_or_with_an_error_is_not_collected() -> None:
    whole = dialect.replay(BODY, include_usage=False)
    assert dialect.collect(whole[:-1]) is None
    error = dialect.error_event(ProxyError("overloaded", "busy"))
    assert error is not None
    assert dialect.collect([*whole[:3], error, *whole[3:]]) is None


def test_the_texts_of_an_answer_leave_signed_thinking_alone() -> None:
    assert [slot.text for slot in dialect.answer_texts(BODY)] == ["Hello Ann", "Ann was here", "Diary", "Ann"]


def test_the_keys_of_a_tools_input_are_texts_too_and_keep_their_places() -> None:
    told = {"<EMAIL_1>": {"<EMAIL_2>": "a"}, "short": 1, "path": [{"<EMAIL_1>": "<EMAIL_2>"}]}
    body = {**BODY, "content": [{"type": "tool_use", "id": "tu_1", "name": "find", "input": told}]}
    for slot in dialect.answer_texts(body):
        slot.text = slot.text.replace("<EMAIL_1>", "ann@x.io").replace("<EMAIL_2>", "bob@x.io")
    assert list(told.items()) == [
        ("ann@x.io", {"bob@x.io": "a"}),
        ("short", 1),
        ("path", [{"ann@x.io": "bob@x.io"}]),
    ]


@pytest.mark.parametrize("more", [0, 1000])
def test_two_keys_that_become_one_lose_neither_value(more: int) -> None:
    told = {"<EMAIL_1>": 1, "ann@x.io": 2, "<EMAIL_2>": 3, **dict.fromkeys(map(str, range(more)), 0)}
    body = {**BODY, "content": [{"type": "tool_use", "id": "tu_1", "name": "find", "input": told}]}
    for slot in dialect.answer_texts(body):
        slot.text = "ann@x.io"
    assert sorted(told.values()) == [*[0] * more, 1, 2, 3]
    assert "ann@x.io" in told
    assert not any("EMAIL" in key for key in told)


@pytest.mark.parametrize("field", ["stop_details", "container"])
def test_what_is_known_at_the_end_alone_is_said_with_the_reason(field: str) -> None:
    message = {**BODY, field: {"id": "x"}}
    (last,) = [event.json for event in dialect.replay(message, include_usage=True) if event.name == "message_delta"]
    assert last["delta"][field] == {"id": "x"}
    assert dialect.collect(dialect.replay(message, include_usage=True)) == message


def test_a_container_that_the_end_does_not_repeat_is_kept() -> None:
    stream = dialect.replay({**BODY, "container": {"id": "x"}}, include_usage=True)
    (last,) = [event for event in stream if event.name == "message_delta"]
    last.json["delta"]["container"] = None
    last.touch()
    assert dialect.collect([event.fork() for event in stream])["container"] == {"id": "x"}


async def test_the_sdk_reads_details_of_the_stop_and_the_container_from_a_replay(serve: Any) -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "no"}
    held = {"id": "c_1", "expires_at": "2026-11-01T00:00:00Z"}
    message = {**BODY, "stop_reason": "refusal", "stop_details": details, "container": held}
    base = await serve(dialect.replay(message, include_usage=True))
    async with (
        anthropic.AsyncAnthropic(base_url=base, api_key="k", max_retries=0) as client,
        client.messages.stream(model="c", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream,
    ):
        built = (await stream.get_final_message()).to_dict(mode="json")
    assert (built["stop_details"], built["container"]) == (details, held)


async def test_a_fallback_block_names_the_model_as_it_does_for_the_sdk(serve: Any) -> None:
    hop = {"type": "fallback", "from": {"model": "claude-x"}, "to": {"model": "claude-y"}}
    stream = dialect.replay({**BODY, "content": [hop, *BODY["content"]]}, include_usage=True)
    base = await serve(stream)
    async with (
        anthropic.AsyncAnthropic(base_url=base, api_key="k", max_retries=0) as client,
        client.beta.messages.stream(model="c", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as told,
    ):
        built = await told.get_final_message()
    assert dialect.collect(stream)["model"] == built.model == "claude-y"


async def test_the_sdk_builds_from_a_replay_what_was_replayed(serve: Any) -> None:
    base = await serve(dialect.replay(BODY, include_usage=True))
    async with (
        anthropic.AsyncAnthropic(base_url=base, api_key="k", max_retries=0) as client,
        client.messages.stream(model="c", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream,
    ):
        built = (await stream.get_final_message()).to_dict(mode="json")
    assert built["content"] == BODY["content"]
    for key in ("id", "model", "stop_reason", "usage"):
        assert built[key] == BODY[key]


async def test_the_sdk_raises_on_an_error_event(serve: Any) -> None:
    error = dialect.error_event(ProxyError("insufficient_quota", "the budget is spent"))
    base = await serve([*dialect.replay(BODY, include_usage=True)[:3], error])
    async with anthropic.AsyncAnthropic(base_url=base, api_key="k", max_retries=0) as client:
        with pytest.raises(anthropic.APIStatusError, match="the budget is spent"):
            async with client.messages.stream(model="c", max_tokens=9, messages=[]) as stream:
                await stream.get_final_message()


async def test_the_sdk_reads_our_error(serve: Any) -> None:
    base = await serve(dialect.error(ProxyError("rate_limit_exceeded", "slow down")))
    async with anthropic.AsyncAnthropic(base_url=base, api_key="k", max_retries=0) as client:
        with pytest.raises(anthropic.RateLimitError, match="slow down") as caught:
            await client.messages.create(model="c", max_tokens=9, messages=[])
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "slow down", "code": "rate_limit_exceeded"},
    }
    assert dialect.upstream_error(caught.value.body) == "rate_limit_error"
