"""A request or answer as a list of texts to inspect, and the same places written back.

Tool arguments are JSON inside a string: they are taken apart, judged leaf by leaf with their key as context, and
written anew only if something changed. So is any other text that is JSON with escapes in it (a tool's result), and such
a text within another. JSON without escapes is judged as it stands: it reads the same.
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
    """One text that was judged: where it stands, and what was found in it."""

    __slots__ = ("found", "holder", "key", "text")

    def __init__(self, holder: Any, key: Any, text: str, found: list[Found]) -> None:
        self.holder = holder
        self.key = key
        self.text = text
        self.found = found


class Inspected:
    """A slot, and the parts of it. `tree` is set when the slot holds JSON that was taken apart."""

    __slots__ = ("parts", "slot", "tree")

    def __init__(self, slot: Slot, parts: list[Part], tree: Any = None) -> None:
        self.slot = slot
        self.parts = parts
        self.tree = tree

    def written(self) -> str:
        """The slot's JSON text after its parts were edited."""
        return _written(self.tree)


def inspect(slot: Slot, detector: Detector) -> Inspected | None:
    """Judge a slot; None when nothing is in it, as in nearly all. Raises `WorkExceededError`."""
    text = slot.holder[slot.key]
    kind = slot.kind
    name = _key(slot.path) if kind == "leaf" else None
    tree = _parsed(text) if kind == "arguments" or (_may_nest(text) and (name or not detector.clean((text,)))) else None
    if tree is not None:
        parts = _parts(tree, detector, name)
        return Inspected(slot, parts, tree) if any(part.found for part in parts) else None
    found = detector.detect(text, name)
    return Inspected(slot, [Part(slot.holder, slot.key, text, found)]) if found else None


def texts_of(slot: Slot) -> list[str]:
    """All strings of a slot in which nothing was found: its text, and the leaves of the JSON in it."""
    text = slot.text
    tree = _parsed(text) if slot.kind == "arguments" or _may_nest(text) else None
    if tree is None:
        return [text]
    texts: list[str] = []
    stack: list[Any] = tree
    while stack:
        value = stack.pop()
        if type(value) is str:
            inner = _parsed(value) if _may_nest(value) else None
            if inner is None:
                texts.append(value)
            else:
                stack += inner
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


def _may_nest(text: str) -> bool:
    """Whether this may be JSON in which something is written with an escape."""
    return "\\" in text and text.lstrip()[:1] in _OPENS


class _Nested:
    """Stands in a tree for a text that was taken apart itself, until the whole is written."""

    __slots__ = ("tree",)

    def __init__(self, tree: list[Any]) -> None:
        self.tree = tree


def _written(tree: list[Any]) -> str:
    said = json.dumps(tree[0], ensure_ascii=False, separators=(",", ":"), default=_inner)
    try:
        said.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which only an escape can say
        return json.dumps(tree[0], separators=(",", ":"), default=_inner)
    return said


def _inner(nested: _Nested) -> str:
    return _written(nested.tree)


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


def _parts(tree: list[Any], detector: Detector, context: str | None = None) -> list[Part]:
    detect = detector.detect
    parts: list[Part] = []
    stack: list[tuple[Any, Any, str | None]] = [(tree, 0, context)]
    while stack:
        holder, key, name = stack.pop()
        value = holder[key]
        kind = type(value)
        if kind is str:
            nested = _parsed(value) if _may_nest(value) else None
            if nested is not None:
                inside = _parts(nested, detector, name)  # an escape for each quote: no more levels than doublings
                if any(part.found for part in inside):
                    holder[key] = _Nested(nested)
                parts += inside
            elif value:
                parts.append(Part(holder, key, value, detect(value, name)))
        elif kind is dict:
            for inner in reversed(list(value)):
                stack.append((value, inner, inner))
            for inner in list(value):
                found = detect(inner) if len(inner) > 5 else []
                if found or "_" in inner:  # which may read like a placeholder
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
