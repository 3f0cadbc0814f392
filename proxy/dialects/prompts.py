"""A field that is a string, a list of strings, or token arrays: the prompt of completions, the input of embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.dialects.base import Json, Opaque, Slot
from proxy.dialects.leaves import walk

__all__ = ["add_before", "prompt_count", "prompt_texts", "token_arrays"]


def prompt_texts(body: dict[str, Any], key: str) -> Iterator[Slot]:
    """The strings of the field."""
    value = body[key]
    if type(value) is str:
        if value:
            yield Slot(body, key, "text", "user", (key,))
    elif type(value) is list:
        for index, item in enumerate(value):
            if type(item) is str:
                if item:
                    yield Slot(value, index, "text", "user", (key, index))
            elif type(item) is dict or (type(item) is list and not _is_tokens(item)):
                yield from walk(value, index, "user", (key, index))
    elif type(value) is dict:
        yield from walk(body, key, "user", (key,))


def prompt_count(value: Json) -> int:
    """How many prompts the field holds: a text or one token array is one, as is a value that is no prompt."""
    return len(value) if type(value) is list and value and not _is_tokens(value) else 1


def token_arrays(body: dict[str, Any], key: str) -> Iterator[Opaque]:
    """Token arrays in the field: one for the field, or one for each item."""
    value = body.get(key)
    if type(value) is not list:
        return
    if _is_tokens(value):
        yield Opaque("tokens", (key,))
        return
    for index, item in enumerate(value):
        if type(item) is list and _is_tokens(item):
            yield Opaque("tokens", (key, index))


def add_before(body: dict[str, Any], key: str, text: str) -> None:
    """Put ``text`` before every prompt of the field."""
    value = body.get(key)
    if type(value) is str:
        body[key] = f"{text}\n\n{value}"
    elif type(value) is list:
        body[key] = [f"{text}\n\n{item}" if type(item) is str else item for item in value]


def _is_tokens(value: list[Any]) -> bool:
    return bool(value) and all(type(item) is int for item in value)
