"""The files of a configuration, read, interpolated, and merged into one tree.

`include:` names further files, relative to the file it stands in: one path, a list, or patterns with `*` (sorted by
name; a pattern may match nothing). Included files are the ground on which the including file stands:

- maps are merged key by key, at every depth: an including file can change one value of an included upstream;
- `routes` are joined, the including file's first, because the first match wins;
- any other list (a chain, a key pool's keys) and any single value is replaced as a whole by the including file's;
- two files included side by side that both set the same value or chain are a mistake, since neither is above the
  other, unless the file that includes them settles it by setting it too.

A file that is reached on two ways counts once.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping as MappingType
from pathlib import Path
from typing import NamedTuple

from proxy.config.compose import MAX_TEXT, Report, compose
from proxy.config.interpolate import Context, InterpolationError, interpolate
from proxy.config.problem import Path as KeyPath
from proxy.config.problem import Place, Problem
from proxy.config.tree import Mapping, Node, Scalar, Sequence, find, typed

MAX_FILES = 200
JOINED = {("routes",)}


class _Conflict(NamedTuple):
    path: KeyPath
    first: Place
    second: Place


class _Loaded(NamedTuple):
    tree: Mapping
    conflicts: list[_Conflict]


class Sources:
    """Reads files. `read` lists every file that was used, secrets included; `broken` says that one was unreadable;
    `warnings` are of includes that bring nothing."""

    def __init__(self, env: MappingType[str, str], report: Report) -> None:
        self.context = Context(env)
        self.report = report
        self.read: dict[Path, None] = {}
        self.broken = False
        self.warnings: list[Problem] = []
        self._done: dict[Path, _Loaded] = {}
        self._stack: list[Path] = []

    def load(self, path: Path) -> Mapping:
        """The merged tree of a file and all that it includes; an empty one when it cannot be read."""
        loaded = self._load(path, Place(str(path)), (), main=True)
        for conflict in loaded.conflicts:
            first = Place(conflict.first.file, conflict.first.line, conflict.first.column)
            self.report(
                Problem.at(
                    conflict.second,
                    conflict.path,
                    f"also set in {first}; two included files must not set the same thing: "
                    "remove one, or set it in the file that includes both",
                )
            )
        self.read.update(self.context.files)
        return loaded.tree

    def _load(self, path: Path, asked: Place, asked_path: KeyPath, *, main: bool = False) -> _Loaded:
        empty = _Loaded(Mapping(Place(str(path), 1, 1)), [])
        try:
            identity = path.resolve()
            text = _read(path, main=main)
        except (OSError, ValueError, RuntimeError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            # The place names the file already where nobody included it.
            what = "this file" if main else str(path)
            hint = "; give another with --config" if main else ""
            self._break(Problem.at(asked, asked_path, f"{what} cannot be read: {reason}{hint}"))
            return empty
        if identity in self._stack:
            names = [step.name for step in [*self._stack[self._stack.index(identity) :], identity]]
            self._break(Problem.at(asked, asked_path, "files include one another in a circle: " + " -> ".join(names)))
            return empty
        if identity in self._done:
            return self._done[identity]
        if len(self.read) >= MAX_FILES or len(self._stack) >= 30:
            self._break(Problem.at(asked, asked_path, f"more than {MAX_FILES} files, or includes more than 30 deep"))
            return empty
        self.read[path] = None
        self._stack.append(identity)
        loaded = self._merge_file(path, text)
        self._stack.pop()
        self._done[identity] = loaded
        return loaded

    def _break(self, problem: Problem) -> None:
        self.broken = True
        self.report(problem)

    def _merge_file(self, path: Path, text: str) -> _Loaded:
        unreadable: list[Problem] = []
        own = compose(text, str(path), self.report, unreadable.append)
        self.broken = self.broken or bool(unreadable)
        for problem in unreadable:
            self.report(problem)
        if own is None or (isinstance(own, Scalar) and own.value is None):
            return _Loaded(Mapping(Place(str(path), 1, 1)), [])
        if not isinstance(own, Mapping):
            self._break(Problem.at(own.place, (), "a configuration file must be a map (key: value)"))
            return _Loaded(Mapping(own.place), [])
        self.context.folder = path.parent
        self._interpolate(own, ())
        merged: Mapping | None = None
        conflicts: list[_Conflict] = []
        for included, place, at in self._includes(own, path.parent):
            below = self._load(included, place, at)
            conflicts += below.conflicts
            merged = below.tree.copy() if merged is None else merged
            if below.tree is not merged:
                _merge(merged, below.tree.copy(), (), conflicts)
        own.items.pop("include", None)
        own.keys.pop("include", None)
        if merged is None:
            return _Loaded(own, [])
        conflicts = [conflict for conflict in dict.fromkeys(conflicts) if not _settled(own, conflict.path)]
        _merge(merged, own, (), None)
        merged.place = own.place
        return _Loaded(merged, conflicts)

    def _interpolate(self, node: Node, path: KeyPath) -> None:
        if isinstance(node, Mapping):
            for key, item in node.items.items():
                self._interpolate(item, (*path, key))
        elif isinstance(node, Sequence):
            for index, item in enumerate(node.items):
                self._interpolate(item, (*path, index))
        elif isinstance(node.value, str) and "$" in node.value:
            try:
                result = interpolate(node.value, self.context)
            except InterpolationError as error:
                self.report(Problem.at(node.place, path, str(error)))
                # The text as written would only cause a second, misleading mistake about its type.
                node.loose = True
                node.origin = node.text
                node.value = node.text = UNRESOLVED
                return
            node.loose = "${" in node.value
            node.origin = node.value if result.outside else None
            node.value = node.text = result.text

    def _includes(self, own: Mapping, folder: Path) -> list[tuple[Path, Place, KeyPath]]:
        node = own.items.get("include")
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return []
        entries = list(enumerate(node.items)) if isinstance(node, Sequence) else [(-1, node)]
        found: list[tuple[Path, Place, KeyPath]] = []
        for index, entry in entries:
            at: KeyPath = ("include", index) if index >= 0 else ("include",)
            if not (isinstance(entry, Scalar) and isinstance(entry.value, str) and entry.value):
                self._break(Problem.at(entry.place, at, "must be the path of a YAML file, or a list of paths"))
                continue
            if entry.value == UNRESOLVED:
                self.broken = True
                continue
            found += [(path, entry.place, at) for path in self._expand(entry.value, folder, entry.place, at)]
        return found

    def _expand(self, pattern: str, folder: Path, place: Place, at: KeyPath) -> list[Path]:
        try:
            path = folder / (Path(pattern).expanduser() if pattern.startswith("~") else pattern)
            if "*" not in pattern and "?" not in pattern:
                return [path]
            if "**" in pattern:
                self._break(Problem.at(place, at, "** is not allowed: name the folders, such as policies/*.yaml"))
                return []
            anchor = Path(path.anchor) if path.is_absolute() else Path()
            relative = str(path.relative_to(anchor) if path.is_absolute() else path)
            found = sorted(match for match in anchor.glob(relative) if match.is_file())
            if not found:
                self.warnings.append(Problem.at(place, at, f'"{pattern}" matches no file: nothing is included'))
            return found
        except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
            self._break(Problem.at(place, at, f"is no usable path: {error}"))
            return []


UNRESOLVED = "\x00unresolved"
"""Stands for a value whose reference failed; mistakes about it are not reported a second time."""


def _read(path: Path, *, main: bool) -> str:
    status = path.stat()
    # The file named on the command line may be a pipe; an included device would hang the start.
    if stat.S_ISDIR(status.st_mode) or (not main and not stat.S_ISREG(status.st_mode)):
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        content = file.read(MAX_TEXT * 4 + 1)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"it is not UTF-8 text (line {line})") from None


def _merge(into: Mapping, over: Mapping, path: KeyPath, conflicts: list[_Conflict] | None) -> None:
    """Lay `over` on `into`. With `conflicts` both stand side by side and what both set is noted there."""
    for key, node in over.items.items():
        here: KeyPath = (*path, key)
        under = into.items.get(key)
        if isinstance(under, Mapping) and isinstance(node, Mapping):
            _merge(under, node, here, conflicts)
            continue
        if here in JOINED and isinstance(under, Sequence) and isinstance(node, Sequence):
            first, second = (under, node) if conflicts is not None else (node, under)
            seen = {item.place for item in first.items}
            into.put(
                key,
                over.keys[key],
                Sequence(first.place, first.items + [i for i in second.items if i.place not in seen]),
            )
            continue
        if conflicts is None and isinstance(under, Mapping | Sequence) and _nothing(node):
            # A section whose lines are all commented out says nothing.
            continue
        if under is not None and conflicts is not None:
            if under.place != node.place:
                conflicts.append(_Conflict(here, under.place, node.place))
            continue
        into.put(key, over.keys[key], node)


def _nothing(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


def _settled(own: Mapping, path: KeyPath) -> bool:
    """Whether the including file sets this path itself, or replaces something above it as a whole."""
    for depth in range(1, len(path) + 1):
        node = find(own, path[:depth])
        if node is None:
            return False
        if not isinstance(node, Mapping):
            return True
    return True


def parse_value(text: str, place: Place, *, hidden: bool) -> Node:
    """A value given outside of the files, by a flag or a variable: YAML's flow forms, else a single value.

    Whatever does not parse is a text: the field it is for will say what it wants.
    """
    stripped = text.strip()
    node: Node | None = None
    if stripped[:1] in {"[", "{", '"', "'"}:
        node = compose(stripped, place.file, _ignore, _ignore)
    origin = place.file if hidden else None
    if node is None:
        return Scalar(typed(stripped), stripped, place, loose=True, origin=origin)
    _outside(node, place, origin)
    if not isinstance(node, Scalar):
        node.text = stripped
    return node


def _ignore(problem: Problem) -> None:
    """What is not YAML is a text."""


def _outside(node: Node, place: Place, origin: str | None) -> None:
    node.place = place
    if isinstance(node, Scalar):
        node.loose = True
        node.origin = origin
    elif isinstance(node, Mapping):
        node.keys = dict.fromkeys(node.keys, place)
        for item in node.items.values():
            _outside(item, place, origin)
    else:
        for item in node.items:
            _outside(item, place, origin)
