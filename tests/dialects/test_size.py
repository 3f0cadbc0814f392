"""The estimate of a plain request, taken the short way, is the one that walking it gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.usage import TOKENS_PER_IMAGE, estimate_tokens
from proxy.dialects import openai_chat, openai_completions
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
