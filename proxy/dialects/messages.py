"""The texts of messages in the chat shape: strings, parts, tool calls, tool results, names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from proxy.dialects.base import Slot
from proxy.dialects.leaves import Path, is_name, walk

__all__ = ["call_texts", "message_texts"]

_CALLS: Final = frozenset({"tool_calls", "function_call"})


def message_texts(holder: Any, key: Any, path: Path, role: str = "user") -> Iterator[Slot]:
    """Every text of one message; its own ``role`` wins over ``role``."""
    message = holder[key]
    if type(message) is not dict:
        yield from walk(holder, key, role, path)
        return
    said = message.get("role")
    if type(said) is str and said:
        role = said
    for field in message:
        value = message[field]
        if type(value) is str:
            if field == "content":
                if value:
                    yield Slot(message, field, "text", role, (*path, field))
            elif field != "role" or not is_name(field, value):
                yield from walk(message, field, role, (*path, field))
        elif type(value) is list or type(value) is dict:
            if field in _CALLS:
                yield from call_texts(message, field, role, (*path, field))
            else:
                yield from walk(message, field, role, (*path, field))


def call_texts(holder: Any, key: Any, role: str, path: Path) -> Iterator[Slot]:
    """The texts of ``tool_calls`` (a list) or ``function_call`` (an object): arguments above all."""
    value = holder[key]
    if type(value) is list:
        for index in range(len(value)):
            yield from _one_call(value, index, role, (*path, index))
    else:
        yield from _one_call(holder, key, role, path)


def _one_call(holder: Any, key: Any, role: str, path: Path) -> Iterator[Slot]:
    call = holder[key]
    if type(call) is not dict:
        yield from walk(holder, key, role, path)
        return
    for field in call:
        value = call[field]
        if field == "arguments" and type(value) is str:
            if value:
                yield Slot(call, field, "arguments", role, (*path, field))
        elif field == "input" and type(value) is str:
            if value:
                yield Slot(call, field, "text", role, (*path, field))
        elif field in ("function", "custom") and type(value) is dict:
            yield from _one_call(call, field, role, (*path, field))
        else:
            yield from walk(call, field, role, (*path, field), names=_CALL_NAMES)


_CALL_NAMES: Final = frozenset({"name", "type", "id"})
