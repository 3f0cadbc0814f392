"""The texts of the responses API's items, the same in a request's ``input`` and in an answer's ``output``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from proxy.dialects.base import Slot
from proxy.dialects.family import text_of
from proxy.dialects.leaves import Path, is_name, walk

__all__ = ["item_texts", "items_texts"]

_PROSE: Final = frozenset({"input", "output", "content", "code"})


def items_texts(holder: Any, key: Any, role: str, path: Path) -> Iterator[Slot]:
    """Every text of a string, a list of items, or whatever else stands there."""
    value = holder[key]
    if type(value) is list:
        for index in range(len(value)):
            yield from item_texts(value, index, role, (*path, index))
    elif type(value) is str:
        if value:
            yield Slot(holder, key, "text", role, path)
    else:
        yield from item_texts(holder, key, role, path)


def item_texts(holder: Any, key: Any, role: str, path: Path) -> Iterator[Slot]:
    """Every text of one item. Reasoning with ``encrypted_content`` is sealed and left alone, its summary too."""
    item = holder[key]
    if type(item) is not dict:
        if type(item) is str and item:
            yield Slot(holder, key, "text", role, path)
        else:
            yield from walk(holder, key, role, path)
        return
    kind = text_of(item.get("type")) or "message"
    if kind == "reasoning" and text_of(item.get("encrypted_content")):
        return
    role = text_of(item.get("role")) or ("tool" if kind.endswith("_output") else role)
    for field in item:
        value = item[field]
        inner = (*path, field)
        if type(value) is str:
            if not value or (field in ("name", "role") and is_name("id", value)):
                continue
            if field == "arguments":
                yield Slot(item, field, "arguments", role, inner)
            elif field in _PROSE:
                yield Slot(item, field, "text", role, inner)
            elif field != "result" or kind != "image_generation_call":
                yield from walk(item, field, role, inner)
        elif type(value) is dict or type(value) is list:
            yield from walk(item, field, role, inner)
