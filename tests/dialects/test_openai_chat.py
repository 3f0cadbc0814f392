"""Chat completions: where texts are, what events mean, and that whole and streamed answers are the same."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from proxy.accounting.usage import Usage
from proxy.dialects import openai_chat
from proxy.dialects.base import NOTHING, Bound, Opaque
from proxy.dialects.merge import joined, merge
from proxy.errors import ProxyError
from proxy.stream.sse import Event


def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
    return {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "gpt", "choices": choices, **more}


def choice(delta: dict[str, Any], index: int = 0, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    return {"index": index, **more, "function": {"arguments": arguments}}


BODY: dict[str, Any] = {
    "id": "c1",
    "object": "chat.completion",
    "created": 7,
    "model": "gpt",
    "system_fingerprint": "fp",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "reasoning_content": "let me think",
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "find", "arguments": '{"q": "a"}'}},
                    {"id": "t2", "type": "function", "function": {"name": "send", "arguments": "{}"}},
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        },
        {
            "index": 1,
            "message": {"role": "assistant", "content": "Hi Ann", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        },
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
}


def texts(body: Any) -> list[tuple[str, str, str, str]]:
    return [(slot.place, slot.kind, slot.role, slot.text) for slot in openai_chat.texts(body)]


def test_texts_of_every_role_part_and_tool_call() -> None:
    body = {
        "model": "gpt",
        "messages": [
            {"role": "system", "content": "be kind"},
            {
                "role": "user",
                "name": "Ann",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "https://x.org/a.png", "detail": "low"}},
                    {"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "wav"}},
                    {
                        "type": "file",
                        "file": {"filename": "cv of Ann.pdf", "file_data": "data:application/pdf;base64,QQ=="},
                    },
                    {"type": "surprise", "words": "new part"},
                    "bare",
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "refusal": "no",
                "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "find", "arguments": "{}"}}],
                "function_call": {"name": "old", "arguments": "[]"},
            },
            {"role": "tool", "tool_call_id": "t1", "content": "found Bob"},
            "not a message",
        ],
        "stop": ["The End"],
        "temperature": "as warm as Ann",
        "user": "u1",
    }
    assert texts(body) == [
        ("messages[0].content", "text", "system", "be kind"),
        ("messages[1].name", "leaf", "user", "Ann"),
        ("messages[1].content[0].text", "text", "user", "look"),
        ("messages[1].content[3].file.filename", "leaf", "user", "cv of Ann.pdf"),
        ("messages[1].content[4].words", "leaf", "user", "new part"),
        ("messages[1].content[5]", "text", "user", "bare"),
        ("messages[2].refusal", "text", "assistant", "no"),
        ("messages[2].tool_calls[0].function.arguments", "arguments", "assistant", "{}"),
        ("messages[2].function_call.arguments", "arguments", "assistant", "[]"),
        ("messages[3].content", "text", "tool", "found Bob"),
        ("messages[4]", "leaf", "user", "not a message"),
        ("stop[0]", "leaf", "input", "The End"),
        ("temperature", "leaf", "input", "as warm as Ann"),
    ]
    assert [opaque.kind for opaque in openai_chat.opaque(body)] == ["image", "audio", "file"]
    assert next(iter(openai_chat.opaque(body))) == Opaque("image", ("messages", 1, "content", 1))
    assert [slot.place for slot in openai_chat.described(body)] == ["user"]


def test_a_slot_edits_the_body() -> None:
    body = {"messages": [{"role": "user", "content": "a"}]}
    next(iter(openai_chat.texts(body))).text = "b"
    assert body == {"messages": [{"role": "user", "content": "b"}]}


def test_what_bounds_and_steers_a_request() -> None:
    body: dict[str, Any] = {"model": "a", "stream": True, "max_completion_tokens": 5, "max_tokens": 9, "n": 2}
    assert openai_chat.bound(body) == Bound(5, 2)
    assert openai_chat.wants_stream(body)
    assert not openai_chat.asks_usage(body)
    openai_chat.ask_usage(body)
    assert openai_chat.asks_usage(body)
    openai_chat.set_model(body, "b")
    assert openai_chat.model(body) == "b"
    assert not openai_chat.stateful(body)
    assert openai_chat.stateful({"store": True})


def test_a_system_prompt_stands_first() -> None:
    body = {"messages": [{"role": "user", "content": "a"}]}
    openai_chat.add_system(body, "be kind")
    assert body["messages"][0] == {"role": "system", "content": "be kind"}


def test_tool_descriptions_and_metadata_are_described_texts() -> None:
    body = {
        "tools": [{"type": "function", "function": {"name": "find", "description": "finds Ann", "parameters": {}}}],
        "metadata": {"who": "Ann"},
    }
    assert [slot.text for slot in openai_chat.described(body)] == ["finds Ann", "Ann"]
    assert texts(body) == []


def test_a_content_chunk() -> None:
    reading = openai_chat.read(Event.made(chunk([choice({"content": "hi"})])))
    (piece,) = reading.pieces
    assert (piece.text, piece.channel, piece.kind, piece.place) == (
        "hi",
        (0, "content"),
        "text",
        "choices[0].delta.content",
    )
    assert reading.commits
    assert not reading.closes
    assert reading.model == "gpt"


def test_an_azure_first_chunk_and_a_role_chunk_do_not_commit() -> None:
    first = openai_chat.read(Event.made(chunk([], prompt_filter_results=[{"prompt_index": 0}])))
    assert (first.commits, first.usage_only, first.pieces) == (False, False, [])
    assert not openai_chat.read(Event.made(chunk([choice({"role": "assistant", "content": ""})]))).commits


def test_a_usage_chunk_exists_only_for_usage() -> None:
    counts = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 3},
    }
    reading = openai_chat.read(Event.made(chunk([], usage=counts)))
    assert reading.usage_only
    assert reading.usage == Usage(input=10, output=5, cached_input=4, audio_input=1, reasoning=2, audio_output=3)


def test_tool_calls_grow_by_choice_and_call() -> None:
    event = Event.made(chunk([choice({"tool_calls": [call(0, "{"), call(2, "[", id="x", type="function")]}, index=1)]))
    reading = openai_chat.read(event)
    assert [(piece.channel, piece.kind) for piece in reading.pieces] == [
        ((1, "tool_calls", 0, "function", "arguments"), "arguments"),
        ((1, "tool_calls", 2, "function", "arguments"), "arguments"),
    ]
    named = openai_chat.read(Event.made(chunk([choice({"tool_calls": [call(0, "", id="x", type="function")]})])))
    assert named.commits


def test_a_finish_closes_the_channels_of_its_choice_only() -> None:
    reading = openai_chat.read(Event.made(chunk([choice({}, index=1, finish="stop")])))
    assert (reading.finish, reading.commits) == ("stop", True)
    assert reading.closed((1, "content"))
    assert reading.closed((1, "tool_calls", 0, "function", "arguments"))
    assert not reading.closed((0, "content"))


def test_done_is_final_and_garbage_is_nothing() -> None:
    done = openai_chat.read(Event(b"data: [DONE]\n\n"))
    assert done.final
    assert done.closed((0, "content"))
    assert openai_chat.read(Event(b"data: {oops\n\n")) is NOTHING
    assert openai_chat.read(Event(b": hi\n\n")) is NOTHING


def test_unknown_string_deltas_have_channels_of_their_own() -> None:
    delta = {
        "reasoning_content": "hm",
        "audio": {"transcript": "hello you", "id": "a1"},
        "reasoning_details": [{"text": "x"}],
    }
    reading = openai_chat.read(Event.made(chunk([choice(delta)])))
    assert [(piece.channel, piece.text) for piece in reading.pieces] == [
        ((0, "reasoning_content"), "hm"),
        ((0, "audio", "transcript"), "hello you"),
    ]


@pytest.mark.parametrize(
    "channel",
    [
        (0, "content"),
        (2, "reasoning_content"),
        (1, "tool_calls", 3, "function", "arguments"),
        (0, "audio", "transcript"),
    ],
)
def test_a_delta_of_our_own_is_read_back_in_its_channel(channel: tuple[Any, ...]) -> None:
    like = Event.made(chunk([choice({"content": "a"})], usage={"prompt_tokens": 1}, obfuscation="xx", x_more=1))
    event = openai_chat.delta(like, channel, "some text")
    reading = openai_chat.read(event)
    assert [(piece.channel, piece.text) for piece in reading.pieces] == [(channel, "some text")]
    assert (event.json["id"], event.json["model"], event.json["x_more"]) == ("c1", "gpt", 1)
    assert reading.usage is None
    assert "obfuscation" not in event.json


def test_a_stream_of_several_choices_and_calls_is_collected(events: Any) -> None:
    stream = events(
        chunk([]),
        chunk([choice({"role": "assistant", "content": None})], system_fingerprint="fp"),
        chunk([choice({"role": "assistant", "content": ""}, index=1)]),
        chunk([choice({"reasoning_content": "let me "}), choice({"content": "Hi "}, index=1)]),
        chunk([choice({"reasoning_content": "think"})]),
        chunk([choice({"tool_calls": [{**call(0, ""), "id": "t1", "type": "function"}]})]),
        chunk([choice({"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": '{"q"'}}]})]),
        chunk([choice({"tool_calls": [call(0, ': "a"}')]}), choice({"content": "Ann"}, index=1, finish="stop")]),
        chunk([choice({}, finish="tool_calls")]),
        chunk([], usage={"prompt_tokens": 9, "completion_tokens": 4}),
        done=True,
    )
    whole = openai_chat.collect(stream)
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "t1", "type": "function", "function": {"arguments": '{"q": "a"}', "name": "find"}}],
        "reasoning_content": "let me think",
    }
    assert whole["choices"][1]["message"]["content"] == "Hi Ann"
    assert whole["system_fingerprint"] == "fp"
    assert openai_chat.usage(whole) == Usage(input=9, output=4)
    assert openai_chat.finish(whole).complete
    whole["choices"][0]["message"]["tool_calls"].clear()
    assert openai_chat.collect(stream)["choices"][0]["message"]["tool_calls"]


def test_what_describes_a_choice_is_said_anew_and_does_not_grow(events: Any) -> None:
    """Azure judges in every chunk what was said so far; others repeat their own finish reason."""
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    pieces = [{**choice({"content": text}), "content_filter_results": safe} for text in "abc"]
    late = {**choice({}, finish="stop"), "native_finish_reason": "done", "content_filter_results": {}}
    again = {**choice({"content": ""}), "native_finish_reason": "done", "content_filter_offsets": {"end_offset": 3}}
    whole = openai_chat.collect(events(*[chunk([one]) for one in (*pieces, late, again)], done=True))
    assert whole["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "abc"},
            "logprobs": None,
            "content_filter_results": safe,
            "content_filter_offsets": {"end_offset": 3},
            "native_finish_reason": "done",
            "finish_reason": "stop",
        }
    ]


def test_lists_of_logprobs_and_token_ids_grow_with_the_text(events: Any) -> None:
    said = [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []} for text in "ab"]
    chunks = [
        chunk(
            [{**choice({"content": one["token"]}), "logprobs": {"content": [one], "refusal": None}, "token_ids": [n]}]
        )
        for n, one in enumerate(said)
    ]
    whole = openai_chat.collect(events(*chunks, chunk([{**choice({}, finish="stop"), "logprobs": None}]), done=True))
    assert whole["choices"][0]["logprobs"] == {"content": said, "refusal": None}
    assert whole["choices"][0]["token_ids"] == [0, 1]


def test_a_late_chunk_with_an_empty_frame_blanks_nothing(events: Any) -> None:
    empty = {"id": "", "object": "", "created": 0, "model": "", "usage": None, "system_fingerprint": ""}
    first = {**empty, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    middle = chunk([choice({"content": "a"}, finish="stop")], created=7, system_fingerprint="fp")
    late = {**empty, "choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"check_offset": 44}}]}
    whole = openai_chat.collect(events(first, middle, late, done=True))
    assert (whole["id"], whole["object"], whole["created"]) == ("c1", "chat.completion", 7)
    assert (whole["model"], whole["system_fingerprint"]) == ("gpt", "fp")
    assert whole["prompt_filter_results"] == [{"prompt_index": 0}]


def test_what_grows_is_listed_and_joined_once() -> None:
    """Or the work would grow with the square of the pieces."""
    whole: dict[str, Any] = {}
    for _ in range(1000):
        merge(whole, {"tool_calls": [{"index": 0, "function": {"arguments": "x"}}], "text": "y"})
    assert len(whole["tool_calls"][0]["function"]["arguments"]) == len(whole["text"]) == 1000
    assert not isinstance(whole["text"], str)
    assert joined(whole)["tool_calls"][0]["function"]["arguments"] == "x" * 1000
    assert whole["text"] == "y" * 1000


def test_an_incomplete_stream_or_one_with_an_error_is_not_collected(events: Any) -> None:
    assert openai_chat.collect(events(chunk([choice({"content": "a"})]), done=True)) is None
    assert openai_chat.collect(events(chunk([choice({}, finish="stop")]), {"error": {"message": "x"}})) is None
    assert openai_chat.collect([]) is None


def test_replay_and_collect_are_inverse() -> None:
    stream = openai_chat.replay(BODY, include_usage=True)
    assert stream[-1].done
    assert openai_chat.collect(stream) == BODY
    silent = openai_chat.replay(BODY, include_usage=False)
    assert not any(openai_chat.read(event).usage for event in silent)


async def test_the_sdk_builds_from_a_replay_what_was_replayed(serve: Any) -> None:
    base = await serve(openai_chat.replay(BODY, include_usage=True))
    async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="k", max_retries=0) as client:
        state = ChatCompletionStreamState()
        stream = await client.chat.completions.create(
            model="gpt",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        async for part in stream:
            state.handle_chunk(part)
    built = state.get_final_completion().to_dict()
    for mine, theirs in zip(BODY["choices"], built["choices"], strict=True):
        assert theirs["finish_reason"] == mine["finish_reason"]
        for key in ("content", "reasoning_content"):
            assert theirs["message"].get(key) == mine["message"].get(key)
        for wanted, got in zip(
            mine["message"].get("tool_calls", ()), theirs["message"].get("tool_calls") or (), strict=True
        ):
            assert (got["id"], got["function"]["name"]) == (wanted["id"], wanted["function"]["name"])
            assert got["function"]["arguments"] == wanted["function"]["arguments"]
    assert built["usage"] == BODY["usage"]


async def test_the_sdk_raises_on_an_error_event(serve: Any) -> None:
    error = openai_chat.error_event(ProxyError("insufficient_quota", "the budget is spent"))
    base = await serve([Event.made(chunk([choice({"content": "a"})])), error])
    async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="k", max_retries=0) as client:
        stream = await client.chat.completions.create(model="g", messages=[], stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "insufficient_quota"


async def test_the_sdk_reads_our_error(serve: Any) -> None:
    base = await serve(openai_chat.error(ProxyError("rate_limit_exceeded", "slow down", param="model")))
    async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="k", max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="g", messages=[])
    assert (caught.value.code, caught.value.type, caught.value.param) == (
        "rate_limit_exceeded",
        "rate_limit_error",
        "model",
    )


def test_a_providers_own_error_code() -> None:
    assert (
        openai_chat.upstream_error({"error": {"code": "context_length_exceeded", "type": "x"}})
        == "context_length_exceeded"
    )
    assert openai_chat.upstream_error({"error": {"code": None, "type": "server_error"}}) == "server_error"
    assert openai_chat.upstream_error({"choices": []}) is None
