"""A request or answer as a list of texts to inspect, and the same places written back.

Tool arguments are JSON inside a string: they are taken apart, judged leaf by leaf with their key as context, and
written anew only if something changed. Other texts are judged as they stand, also those that are JSON (a tool's
result): what was found is replaced in its place, and a value that an escape was written into is kept without it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from proxy.dialects.base import Slot
from proxy.policies.pii.detector import Detector
from proxy.policies.pii.found import Found

_OPENS: Final = frozenset('{["')
_BRACKETS: Final = re.compile(r"[\[\]{}]")
_NESTED: Final = 200
"""Brackets that may be open at once in JSON that is taken apart."""
_INFINITE: Final = float("inf")


class Part:
    """One text that was judged: where it stands, and what was found in it. `escaped`: the text is JSON, and a value in
    it is written with an escape."""

    __slots__ = ("escaped", "found", "holder", "key", "text")

    def __init__(self, holder: Any, key: Any, text: str, found: list[Found]) -> None:
        self.holder = holder
        self.key = key
        self.text = text
        self.found = found
        self.escaped = bool(found) and "\\" in text and _holds_escapes(text, found)


class Inspected:
    """A slot, and the parts of it. `tree` is set when the slot holds JSON that was taken apart."""

    __slots__ = ("parts", "slot", "tree")

    def __init__(self, slot: Slot, parts: list[Part], tree: Any = None) -> None:
        self.slot = slot
        self.parts = parts
        self.tree = tree

    def written(self) -> str:
        """The slot's JSON text after its parts were edited."""
        said = json.dumps(self.tree[0], ensure_ascii=False, separators=(",", ":"))
        try:
            said.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which only an escape can say
            return json.dumps(self.tree[0], separators=(",", ":"))
        return said


def inspect(slot: Slot, detector: Detector) -> Inspected | None:
    """Judge a slot; None when nothing is in it, as in nearly all. Raises `WorkExceededError`."""
    text = slot.holder[slot.key]
    kind = slot.kind
    if kind == "arguments":
        tree = _parsed(text)
        if tree is not None:
            parts = _parts(tree, detector)
            return Inspected(slot, parts, tree) if any(part.found for part in parts) else None
    found = detector.detect(text, _key(slot.path) if kind == "leaf" else None)
    return Inspected(slot, [Part(slot.holder, slot.key, text, found)]) if found else None


def texts_of(slot: Slot) -> list[str]:
    """All strings of a slot in which nothing was found: its text, and the leaves of the JSON in it."""
    text = slot.text
    tree = _parsed(text) if slot.kind == "arguments" else None
    if tree is None:
        return [text]
    texts: list[str] = []
    stack: list[Any] = tree
    while stack:
        value = stack.pop()
        if type(value) is str:
            texts.append(value)
        elif type(value) is dict:
            stack += [*value, *value.values()]
        elif type(value) is list:
            stack += value
    return texts


def _parsed(text: str) -> list[Any] | None:
    """The JSON in `text` inside a list (so that the top has a holder too); None if it is none or ambiguous, or cannot
    be written again as it is."""
    if text.count("[") + text.count("{") > _NESTED and not _is_flat(text):
        return None
    try:
        tree = json.loads(text, object_pairs_hook=_pairs, parse_float=_float)
    except (ValueError, RecursionError):
        return None
    return [tree]


def _is_flat(text: str) -> bool:
    """Whether what is nested in `text` can be written by a parser that calls itself."""
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth += 1 if bracket in "[{" else -1
        if depth > _NESTED:
            return False
    return True


def _float(text: str) -> float:
    value = float(text)
    if value in (_INFINITE, -_INFINITE):
        raise ValueError("beyond what a float holds")
    return value


def _holds_escapes(text: str, found: list[Found]) -> bool:
    if not any("\\" in text[one.start : one.end] for one in found):
        return False
    return text.lstrip()[:1] in _OPENS and _parsed(text) is not None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key stands twice")  # judged as plain text then, so that neither value slips by
    return tree


def _key(path: tuple[str | int, ...]) -> str | None:
    for step in reversed(path):
        if isinstance(step, str):
            return step
    return None


def _parts(tree: list[Any], detector: Detector) -> list[Part]:
    detect = detector.detect
    parts: list[Part] = []
    stack: list[tuple[Any, Any, str | None]] = [(tree, 0, None)]
    while stack:
        holder, key, name = stack.pop()
        value = holder[key]
        kind = type(value)
        if kind is str:
            if value:
                parts.append(Part(holder, key, value, detect(value, name)))
        elif kind is dict:
            for inner in reversed(list(value)):
                stack.append((value, inner, inner))
            for inner in list(value):
                found = detect(inner) if len(inner) > 5 else []
                if found:
                    parts.append(Part(value, _Key(inner), inner, found))
        elif kind is list:
            stack.extend((value, i, name) for i in range(len(value) - 1, -1, -1))
        elif kind is int and (value > 99_999 or value < -99_999):
            text = str(value)
            found = [one for one in detect(text, name or "number") if one.end - one.start == len(text)]
            if found:
                parts.append(Part(holder, key, text, found))
    return parts


class _Key:
    """Marks a part that is an object's key, not a value."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def write(parts: list[tuple[Part, str]]) -> None:
    """Put each text where its part stood. Keys are renamed last, since values are reached by their old keys."""
    renames: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}
    for part, text in parts:
        if isinstance(part.key, _Key):
            renames.setdefault(id(part.holder), (part.holder, {}))[1][part.key.name] = text
        else:
            part.holder[part.key] = text
    for holder, names in renames.values():
        items = list(holder.items())
        holder.clear()
        for name, value in items:
            new = names.get(name, name)
            while new in holder:  # two keys may get the same stand-in; neither value may be lost
                new += "_"
            holder[new] = value
