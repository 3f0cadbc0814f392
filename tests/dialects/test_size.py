"""The estimate of a plain request, taken the short way, is the one that walking it gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.usage import TOKENS_PER_IMAGE, estimate_tokens
from proxy.dialects import openai_chat, openai_completions, openai_responses
from proxy.dialects.base import Dialect
from proxy.dialects.size import estimate_input

MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "my_role"])},
    optional={
        "content": st.text(max_size=30) | st.none() | st.lists(st.fixed_dictionaries({"text": st.text(max_size=9)})),
        "name": st.text(max_size=5),
    },
)
BODY = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(MESSAGE, max_size=4)},
    optional={
        "stop": st.lists(st.text(max_size=5), max_size=2),
        "prediction": st.fixed_dictionaries({"content": st.text(max_size=9)}),
        "user": st.text(max_size=5),
        "stream_options": st.just({"include_usage": True}),
        "temperature": st.floats(0, 1),
        "guided": st.text(max_size=9),
    },
)


def walked(dialect: Dialect, body: Any) -> int:
    around = 3 if dialect.operation == "chat" else 0
    return around + sum(estimate_tokens(slot.text) + 4 for slot in dialect.texts(body))


@given(BODY)
def test_a_chat_without_tools_and_media_is_its_texts(body: dict[str, Any]) -> None:
    assert estimate_input(openai_chat, body) == walked(openai_chat, body)


@pytest.mark.parametrize("prompt", ["Hello there", ["Hello", "there"]])
def test_the_prompt_of_a_completion_is_what_its_user_says(prompt: Any) -> None:
    body = {"model": "m", "prompt": prompt}
    slots = list(openai_completions.texts(body))
    assert [(slot.kind, slot.role) for slot in slots] == [("text", "user")] * len(slots)
    assert estimate_input(openai_completions, body) == walked(openai_completions, body) > 0


def test_token_arrays_and_images_count() -> None:
    assert estimate_input(openai_completions, {"model": "m", "prompt": [1, 2, 3]}) == 3
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [image]}]}
    assert estimate_input(openai_chat, body) == TOKENS_PER_IMAGE + 3
    assert [one.kind for one in openai_chat.opaque(body)] == ["image"]


SCHEMA = {
    "name": "weather",
    "schema": {"type": "object", "properties": {"sky": {"type": "string", "description": "How the sky looks " * 20}}},
}
MESSAGES = [{"role": "user", "content": "Hello"}]


def test_the_schema_of_an_answer_counts_as_the_description_of_a_tool_does() -> None:
    plain = {"model": "m", "messages": MESSAGES}
    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA["schema"]}}
    asked = estimate_input(openai_chat, plain | {"response_format": {"type": "json_schema", "json_schema": SCHEMA}})
    assert asked == estimate_input(openai_chat, plain | {"tools": [tool]})
    assert asked > estimate_input(openai_chat, plain) + 80


def test_so_does_the_format_of_a_response() -> None:
    plain = {"model": "m", "input": "Hello"}
    asked = estimate_input(openai_responses, plain | {"text": {"format": {"type": "json_schema", **SCHEMA}}})
    assert asked > estimate_input(openai_responses, plain) + 80


@pytest.mark.parametrize("form", [{"type": "json_object"}, {"type": "text"}, None])
def test_a_format_without_a_schema_is_no_prompt(form: Any) -> None:
    plain = {"model": "m", "messages": MESSAGES}
    assert estimate_input(openai_chat, plain | {"response_format": form}) == estimate_input(openai_chat, plain)


def test_who_asks_and_what_is_written_beside_the_call_is_no_prompt() -> None:
    plain = {"model": "m", "messages": MESSAGES, "tools": [{"type": "function", "function": {"name": "f"}}]}
    beside = {"user": "somebody", "metadata": {"note": "for the books " * 50}}
    assert estimate_input(openai_chat, plain | beside) == estimate_input(openai_chat, plain)
