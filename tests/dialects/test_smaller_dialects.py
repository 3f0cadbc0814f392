"""Completions, embeddings, everything else, and which request speaks what."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from proxy.accounting.usage import TOKENS_PER_IMAGE, Usage
from proxy.dialects import (
    DIALECTS,
    generic,
    openai_chat,
    openai_completions,
    openai_embeddings,
    resolve,
)
from proxy.dialects.base import Bound, Opaque
from proxy.dialects.counts import anthropic_usage, any_usage, openai_usage
from proxy.dialects.leaves import is_name, walk
from proxy.dialects.size import estimate_input
from proxy.stream.sse import Event

COMPLETION: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 7,
    "model": "gpt",
    "choices": [
        {"index": 0, "text": "Hello Ann", "logprobs": None, "finish_reason": "stop"},
        {"index": 1, "text": "Hi", "logprobs": None, "finish_reason": "length"},
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}


def places(dialect: Any, body: Any) -> list[str]:
    return [slot.place for slot in dialect.texts(body)]


@pytest.mark.parametrize(
    ("prompt", "found", "tokens"),
    [
        ("a", ["prompt"], []),
        (["a", "b"], ["prompt[0]", "prompt[1]"], []),
        ([1, 2], [], [("prompt",)]),
        (["a", [1, 2]], ["prompt[0]"], [("prompt", 1)]),
        ({"odd": "place"}, ["prompt.odd"], []),
    ],
)
def test_prompts_are_strings_lists_or_token_arrays(prompt: Any, found: list[str], tokens: list[Any]) -> None:
    body = {"model": "gpt", "prompt": prompt}
    assert places(openai_completions, body) == found
    assert list(openai_completions.opaque(body)) == [Opaque("tokens", path) for path in tokens]


def test_completions_replay_and_collect_are_inverse() -> None:
    stream = openai_completions.replay(COMPLETION, include_usage=True)
    assert openai_completions.collect(stream) == COMPLETION
    assert [slot.text for slot in openai_completions.answer_texts(COMPLETION)] == ["Hello Ann", "Hi"]
    assert openai_completions.finish(COMPLETION).reasons == ["stop", "length"]


def test_completion_chunks_add_text_to_their_choice() -> None:
    event = openai_completions.delta(Event.made({"id": "x", "object": "text_completion"}), (1, "text"), "more")
    reading = openai_completions.read(event)
    assert [(piece.channel, piece.text) for piece in reading.pieces] == [((1, "text"), "more")]
    assert event.json["object"] == "text_completion"
    (finish,) = openai_completions.ending().events(None, "length", 0)
    assert openai_completions.read(finish).finish == "length"


async def test_the_sdk_reads_a_replayed_completion(serve: Any) -> None:
    base = await serve(openai_completions.replay(COMPLETION, include_usage=True))
    async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="k", max_retries=0) as client:
        stream = await client.completions.create(model="gpt", prompt="x", stream=True)
        said = {}
        async for part in stream:
            for choice in part.choices:
                said[choice.index] = said.get(choice.index, "") + choice.text
    assert said == {0: "Hello Ann", 1: "Hi"}


def test_embeddings_inputs_and_answers() -> None:
    body = {"model": "e", "input": ["a", "b"], "encoding_format": "base64", "user": "u"}
    assert places(openai_embeddings, body) == ["input[0]", "input[1]"]
    assert [slot.text for slot in openai_embeddings.described(body)] == ["u"]
    answer = {"data": [{"embedding": "QUJD"}], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    assert list(openai_embeddings.answer_texts(answer)) == []
    assert openai_embeddings.usage(answer) == Usage(input=4)
    assert openai_embeddings.finish(answer).complete


def test_other_json_is_all_text_but_names() -> None:
    body = {
        "model": "m/x:1",
        "id": "req_1",
        "type": "text",
        "image_url": "https://x.org/a.png",
        "callback_url": "not a url",
        "prompt": "draw Ann",
        "deep": {"note": "for Ann", "kind": "my kind of note", "list": ["one", {"status": "ok"}]},
    }
    assert places(generic, body) == ["callback_url", "prompt", "deep.note", "deep.kind", "deep.list[0]"]


def test_a_key_alone_hides_nothing() -> None:
    assert is_name("id", "chatcmpl-1")
    assert is_name("user_id", "6f1a2b3c-0000-4000-8000-123456789abc")
    assert not is_name("id", "ann@example.org")
    assert not is_name("patient_id", "123-45-6789")
    assert not is_name("url", "mail to Ann")
    assert not is_name("signature", "Ann, with love")


SEAL = "c2lnbmVk" * 8


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"type": "reasoning", "encrypted_content": SEAL}, []),
        ({"type": "web_search_result", "encrypted_content": SEAL}, []),
        ({"type": "note", "signature": SEAL}, [SEAL]),
        ({"type": "reasoning", "signature": "4111111111111111"}, ["4111111111111111"]),
        ({"signature": "4111111111111111"}, ["4111111111111111"]),
    ],
)
def test_a_seal_is_long_and_stands_beside_reasoning(body: dict[str, Any], found: list[str]) -> None:
    assert [slot.text for slot in walk([body], 0, "user", ()) if slot.key != "type"] == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ({"media_type": "text/plain", "data": "4111111111111111"}, ["4111111111111111"]),
        ({"type": "text", "mime_type": "text/csv", "data": "4" * 300}, ["4" * 300]),
        ({"type": "base64", "media_type": "text/plain", "data": "4111111111111111"}, []),
        ({"media_type": "image/png", "data": "4111111111111111"}, []),
    ],
)
def test_data_of_a_text_type_is_text(source: dict[str, Any], found: list[str]) -> None:
    assert [slot.text for slot in walk([{"source": source}], 0, "user", ()) if slot.key == "data"] == found


def test_unknown_streams_grow_by_path() -> None:
    event = Event.made({"type": "x.delta", "words": "hello you", "items": [{"note": "of Ann"}]}, "x.delta")
    reading = generic.read(event)
    assert [piece.channel for piece in reading.pieces] == [("x.delta", "words"), ("x.delta", "items", 0, "note")]
    made = generic.delta(event, reading.pieces[1].channel, "more text")
    assert [(piece.channel, piece.text) for piece in generic.read(made).pieces] == [
        (("x.delta", "items", 0, "note"), "more text")
    ]
    assert generic.read(Event.made(b"[DONE]")).final


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "openai_chat"),
        ("/chat/completions", "openai_chat"),
        ("//v1/chat/completions/", "openai_chat"),
        ("/openai/deployments/my-gpt/chat/completions", "openai_chat"),
        ("/openai/v1/chat/completions", "openai_chat"),
        ("/v1beta/openai/chat/completions", "openai_chat"),
        ("/api/v1/chat/completions", "openai_chat"),
        ("/v1/completions", "openai_completions"),
        ("/openai/deployments/e/embeddings", "openai_embeddings"),
        ("/v1/responses", "openai_responses"),
        ("/v1/messages", "anthropic_messages"),
        ("/v1/messages/count_tokens", "anthropic_messages"),
        ("/v1/messages/batches", "generic"),
        ("/v1/moderations", "generic"),
        ("/v1/images/generations", "generic"),
        ("/v1/audio/speech", "generic"),
        ("/v1/threads/t1/messages", "generic"),
        ("/v1/brand/new", "generic"),
        ("/v1/audio/transcriptions", None),
        ("/v1/files", None),
        ("/v1/uploads/u1/parts", None),
        ("/v1/images/edits", None),
        ("/v1/realtime", None),
        ("/", None),
    ],
)
def test_which_dialect_a_path_speaks(path: str, name: str | None) -> None:
    found = resolve("POST", path, "openai")
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/v1/threads/t1/messages", True),
        ("/openai/v1/threads", True),
        ("/v1/conversations/c1/items", True),
        ("/v1/assistants/a1", True),
        ("/v1/moderations", False),
        ("/v1/threadsafe", False),
    ],
)
def test_a_path_that_names_what_the_provider_keeps_is_state(path: str, kept: bool) -> None:
    found = resolve("POST", path, "openai")
    assert found is not None
    assert found.stateful({}) is kept


def test_requests_without_a_body_have_no_dialect() -> None:
    assert resolve("GET", "/v1/models", "openai") is None


def test_every_dialect_says_its_name() -> None:
    assert all(dialect.name == name for name, dialect in DIALECTS.items())


@pytest.mark.parametrize("counts", [None, {}, [], "x", 5, {"prompt_tokens": None}])
def test_no_counts_are_no_usage(counts: Any) -> None:
    assert openai_usage(counts) is None
    assert anthropic_usage(counts) is None


@pytest.mark.parametrize("odd", ["many", "-4", True, -4, 1.5, 10**9 + 1, 4 * 10**18, 1e300, [1], {}])
def test_a_main_count_that_is_none_is_no_usage(odd: Any) -> None:
    assert openai_usage({"prompt_tokens": odd, "completion_tokens": 3}) is None
    assert openai_usage({"prompt_tokens": 3, "completion_tokens": odd}) is None
    assert anthropic_usage({"input_tokens": 3, "output_tokens": odd}) is None


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": None, "completion_tokens": 3}, {"prompt_tokens": 3, "completion_tokens": None}]
)
def test_null_for_one_of_two_counts_is_no_usage(usage: Any) -> None:
    assert openai_usage(usage) is None
    assert anthropic_usage({"input_tokens": 3, "output_tokens": None}) is None
    assert anthropic_usage({"input_tokens": None, "output_tokens": 3}) is None


def test_null_for_one_of_two_counts_is_what_the_total_leaves() -> None:
    assert openai_usage({"prompt_tokens": None, "completion_tokens": 3, "total_tokens": 9}) == Usage(input=6, output=3)
    assert openai_usage({"prompt_tokens": 6, "completion_tokens": None, "total_tokens": 9}) == Usage(input=6, output=3)


def test_counts_as_digits_or_with_a_point_are_read() -> None:
    assert openai_usage({"prompt_tokens": "9", "completion_tokens": "3"}) == Usage(input=9, output=3)
    assert openai_usage({"prompt_tokens": 9.0, "completion_tokens": 3.0}) == Usage(input=9, output=3)


def test_a_part_that_is_no_count_is_left_out() -> None:
    counts = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": True}}
    assert openai_usage(counts) == Usage(input=9, output=3)


def test_an_event_of_a_stream_may_tell_one_count_alone() -> None:
    assert anthropic_usage({"input_tokens": None, "output_tokens": 3}, part=True) == Usage(output=3)


def test_reasoning_that_stands_in_the_total_only_is_output() -> None:
    counts = {
        "prompt_tokens": 100,
        "completion_tokens": 500,
        "total_tokens": 900,
        "completion_tokens_details": {"reasoning_tokens": 300},
    }
    assert openai_usage(counts) == Usage(input=100, output=800, reasoning=300)


def test_anthropics_words_tell_its_way_of_counting() -> None:
    assert any_usage({"input_tokens": 1, "cache_read_input_tokens": 5}) == Usage(input=6, cached_input=5)
    assert any_usage({"input_tokens": 6, "input_tokens_details": {"cached_tokens": 5}}) == Usage(
        input=6, cached_input=5
    )
    nested = {"input_tokens": 1, "output_tokens": 2, "cache_creation": {"ephemeral_5m_input_tokens": 3}}
    assert anthropic_usage(nested) == Usage(input=4, cache_write=3, output=2)


def test_the_size_of_a_request_is_estimated() -> None:
    text = {"messages": [{"role": "user", "content": "x" * 400}]}
    assert estimate_input(openai_chat, text) == 107
    image = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/a"}}]}]}
    assert estimate_input(openai_chat, image) == TOKENS_PER_IMAGE + 3
    assert estimate_input(openai_embeddings, {"input": [[1] * 50, [2] * 7]}) == 57


def test_streamed_image_data_is_no_text() -> None:
    event = Event.made({"type": "image_generation.partial_image", "b64_json": "QUJD" * 100, "size": "1024x1024"})
    assert [piece.key for piece in generic.read(event).pieces] == ["size"]


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"prompt": "x"}, 1),
        ({"prompt": ["x", "y", "z"]}, 3),
        ({"prompt": [1, 2, 3]}, 1),  # one prompt of three tokens
        ({"prompt": [[1, 2], [3], [4]]}, 3),
        ({"prompt": "x", "n": 2}, 2),
        ({"prompt": "x", "n": 2, "best_of": 5}, 5),  # five are written and paid, two are shown
        ({"prompt": ["x", "y"], "n": 2, "best_of": 5}, 10),
        ({"prompt": [], "best_of": None}, 1),
        ({"prompt": None, "best_of": "5"}, 1),
        ({}, 1),
    ],
)
def test_completions_are_bound_by_the_answers_that_are_written(fields: dict[str, Any], answers: int) -> None:
    body = {"model": "gpt", "max_tokens": 400, **fields}
    assert openai_completions.bound(body) == Bound(400, answers)


def test_many_inputs_of_embeddings_write_nothing() -> None:
    assert openai_embeddings.bound({"model": "e", "input": ["x", "y", "z"]}).choices == 1
