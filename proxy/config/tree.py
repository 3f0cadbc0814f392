"""The configuration as a tree in which every value knows where it was written.

Three kinds of node: `Scalar`, `Sequence`, `Mapping`. The tree is what includes and overrides work on and what
positions in messages come from; the typed models are built from its plain values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from proxy.config.problem import Path, Place

_INT = re.compile(r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,2})?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "false": False}

Value: TypeAlias = str | int | float | bool | None


def typed(text: str) -> Value:
    """What an unquoted YAML scalar means: YAML 1.2's core types, without infinities, and with two booleans only.

    `off`, `yes`, `1:30` and `2024-01-01` are texts.
    """
    if text in _WORDS:
        value: Value = _WORDS[text]
        return value
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


class Scalar:
    """A single value.

    `text` is what stood in the source after interpolation. `loose` marks a value whose type could not be written
    down (an environment variable, a flag): it takes whatever type its field has. `origin` is the text before
    interpolation when the result must not be shown, because it came from outside the file.
    """

    __slots__ = ("loose", "origin", "place", "text", "value")

    def __init__(
        self, value: Value, text: str, place: Place, *, loose: bool = False, origin: str | None = None
    ) -> None:
        self.value = value
        self.text = text
        self.place = place
        self.loose = loose
        self.origin = origin

    size = 1

    def plain(self) -> Any:
        return self.value

    def copy(self) -> Scalar:
        return Scalar(self.value, self.text, self.place, loose=self.loose, origin=self.origin)


class Sequence:
    """A list. `text` is set when the list was given from outside, where it may have been meant as a text."""

    __slots__ = ("items", "place", "size", "text")

    def __init__(self, place: Place, items: list[Node] | None = None) -> None:
        self.items: list[Node] = [] if items is None else items
        self.place = place
        self.size = 1
        self.text: str | None = None

    def plain(self) -> Any:
        return [item.plain() for item in self.items]

    def copy(self) -> Sequence:
        return Sequence(self.place, [item.copy() for item in self.items])


class Mapping:
    """A map from texts to nodes; `keys` says where each key stands."""

    __slots__ = ("items", "keys", "place", "size", "text")

    def __init__(self, place: Place) -> None:
        self.items: dict[str, Node] = {}
        self.keys: dict[str, Place] = {}
        self.place = place
        self.size = 1
        self.text: str | None = None

    def put(self, key: str, place: Place, node: Node) -> None:
        self.items[key] = node
        self.keys[key] = place

    def plain(self) -> Any:
        return {key: item.plain() for key, item in self.items.items()}

    def copy(self) -> Mapping:
        twin = Mapping(self.place)
        twin.keys = dict(self.keys)
        twin.items = {key: item.copy() for key, item in self.items.items()}
        return twin


Node: TypeAlias = Scalar | Sequence | Mapping


def child(node: Node, segment: str | int) -> Node | None:
    if isinstance(node, Mapping):
        return node.items.get(str(segment))
    if isinstance(node, Sequence) and isinstance(segment, int) and 0 <= segment < len(node.items):
        return node.items[segment]
    return None


def find(node: Node, path: Path) -> Node | None:
    """The node at exactly this path, or None."""
    here: Node | None = node
    for segment in path:
        if here is None:
            return None
        here = child(here, segment)
    return here


def follow(node: Node, path: Path) -> tuple[Node, Path]:
    """The deepest node on this path and the part of the path that leads to it.

    Segments that name nothing are skipped: validators put names of union members and of functions among them.
    """
    reached: list[str | int] = []
    for segment in path:
        below = child(node, segment)
        if below is not None:
            node = below
            reached.append(segment)
    return node, tuple(reached)


def place_of(node: Node, path: Path) -> Place:
    """Where the value at `path` stands; for a key of a map, the key; for what is not there, what would hold it."""
    place = node.place
    for segment in path:
        below = child(node, segment)
        if below is None:
            break
        place = node.keys[str(segment)] if isinstance(node, Mapping) else below.place
        node = below
    return place


def value_place(node: Node, path: Path) -> Place:
    """Like `place_of`, but for a single value the value itself, not its key."""
    found = find(node, path)
    return found.place if isinstance(found, Scalar) else place_of(node, path)


def scalars(node: Node) -> Iterator[Scalar]:
    """Every single value at and below a node."""
    if isinstance(node, Scalar):
        yield node
    else:
        for item in node.items.values() if isinstance(node, Mapping) else node.items:
            yield from scalars(item)
