"""Values set from outside the files: `--set server.port=9000` and `LLM_SIDECAR__SERVER__PORT=9000`.

Both name a path. Its segments are keys, the index of a list's entry, or the entry's name: the policy's in a chain,
the `id` or `name` elsewhere (`--set chains.default.rate_limit.rpm=60`). In a flag a segment that holds a dot stands in
quotes; in a variable segments are in any case and every character but letters and digits may be an underscore
(`LLM_SIDECAR__UPSTREAMS__MY_AZURE__BASE_URL` sets `upstreams.my-azure.base_url`).
Flags win over variables, variables over files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingType

from proxy.config.compose import MAX_DEPTH, Report
from proxy.config.problem import Path, Place, Problem, suggest
from proxy.config.source import parse_value
from proxy.config.tree import Mapping, Node, Scalar, Sequence

PREFIX = "LLM_SIDECAR__"
_SEGMENT = re.compile(r'"([^"]+)"|([^."\[\]]+)')


class _Wrong(Exception):  # noqa: N818 - a signal within this module
    """The path leads nowhere; the message says where it ended."""


def apply(tree: Mapping, overrides: Iterable[str], env: MappingType[str, str], report: Report) -> None:
    """Set the values in place; mistakes name the flag or the variable."""
    for name in sorted(variable for variable in env if variable.upper().startswith(PREFIX)):
        segments = tuple(name[len(PREFIX) :].split("__"))
        _apply(tree, segments, env[name], Place(name), report, _normal, hidden=True)
    for override in overrides:
        path, equals, value = override.partition("=")
        place = Place(f"--set {path.strip()[:200]}")
        if not equals:
            report(Problem.at(place, (), "needs a value: --set server.port=9000"))
            continue
        _apply(tree, _split(path.strip()), value, place, report, str, hidden=False)


def _apply(
    tree: Mapping,
    segments: tuple[str, ...],
    value: str,
    place: Place,
    report: Report,
    normal: Callable[[str], str],
    *,
    hidden: bool,
) -> None:
    if not segments or not all(segments) or len(segments) > MAX_DEPTH:
        report(Problem.at(place, (), "names no path: write it like server.port, or LLM_SIDECAR__SERVER__PORT"))
        return
    if any("\ud800" <= character <= "\udfff" for character in "".join(segments) + value):
        report(Problem.at(place, (), "is not UTF-8 text"))
        return
    if segments[0].lower() == "include":
        report(Problem.at(place, (), "include can only be set in a file"))
        return
    try:
        _set(tree, segments, parse_value(value, place, hidden=hidden), place, normal)
    except _Wrong as error:
        report(Problem.at(place, (), str(error)))


def _split(path: str) -> tuple[str, ...]:
    """`routes.0.chain`, `routes[0].chain` and `models."gpt-4.1".model` to segments; nothing when it is malformed."""
    segments: list[str] = []
    position = 0
    text = re.sub(r"\[(\d{1,6})\]", r".\1", path)
    while position < len(text):
        found = _SEGMENT.match(text, position)
        if found is None:
            return ()
        segments.append(found[1] or found[2])
        position = found.end()
        if position < len(text):
            if text[position] != ".":
                return ()
            position += 1
    return () if text.endswith(".") else tuple(segments)


def _normal(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _set(tree: Mapping, segments: tuple[str, ...], value: Node, place: Place, normal: Callable[[str], str]) -> None:
    node: Node = tree
    walked: list[str | int] = []
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        if isinstance(node, Mapping):
            key = _key(node, segment, normal)
            walked.append(key)
            below = node.items.get(key)
            if last:
                node.put(key, place, value)
                return
            if below is None or (isinstance(below, Scalar) and below.value is None):
                below = Mapping(place)
                node.put(key, place, below)
        elif isinstance(node, Sequence):
            index = _index(node, segment, walked, normal)
            walked.append(index)
            if last:
                node.items[index : index + 1] = [value]
                return
            if index == len(node.items):
                node.items.append(Mapping(place))
            below = _opened(node, index, segment, segments[number + 1], place, normal)
        else:
            raise _Wrong(f"{'.'.join(map(str, walked))} is a single value: nothing stands below it")
        node = below


def _key(node: Mapping, segment: str, normal: Callable[[str], str]) -> str:
    if segment in node.items:
        return segment
    if normal is str:
        return segment
    close = [key for key in node.items if normal(key) == normal(segment)]
    exact = [key for key in close if key == segment.lower()]
    if len(close) > 1 and not exact:
        raise _Wrong(f"{segment} may mean {' or '.join(sorted(close))}: use --set, which tells them apart")
    return (exact or close or [segment.lower()])[0]


def _index(node: Sequence, segment: str, walked: Path | list[str | int], normal: Callable[[str], str]) -> int:
    names = [_name(item) for item in node.items]
    if segment.isascii() and segment.isdigit() and len(segment) < 7:
        if int(segment) <= len(names):
            return int(segment)
    else:
        found = [index for index, name in enumerate(names) if name and normal(name) == normal(segment)]
        if len(found) == 1:
            return found[0]
        if found:
            numbers = " and ".join(map(str, found))
            raise _Wrong(f"{'.'.join(map(str, walked))} has {segment} at {numbers}: give the number instead")
    known = [name for name in names if name]
    raise _Wrong(
        f"{'.'.join(map(str, walked))} has no entry {segment}: "
        f"allowed are 0 to {len(names)}, where {len(names)} appends"
        + (f", or a name{suggest(segment, known)}" if known else "")
    )


def _name(item: Node) -> str:
    """What an entry of a list is called: a policy by its name, other things by their `id` or `name`."""
    if isinstance(item, Scalar):
        return item.text
    if isinstance(item, Mapping):
        for key in ("id", "name"):
            named = item.items.get(key)
            if isinstance(named, Scalar):
                return named.text
        if len(item.items) == 1:
            return next(iter(item.items))
    return ""


def _opened(
    node: Sequence, index: int, segment: str, following: str, place: Place, normal: Callable[[str], str]
) -> Node:
    """The node that the next segment applies to: a policy named in a chain stands for its options."""
    item = node.items[index]
    by_name = not segment.isdigit() or (isinstance(item, Scalar) and normal(item.text) == normal(following))
    if isinstance(item, Scalar) and isinstance(item.value, str) and by_name:
        entry = Mapping(item.place)
        entry.put(item.value, item.place, Mapping(item.place))
        node.items[index] = item = entry
    if isinstance(item, Mapping) and not segment.isdigit() and normal(next(iter(item.items), "")) == normal(segment):
        key = next(iter(item.items))
        below = item.items[key]
        if isinstance(below, Scalar) and below.value is None:
            item.items[key] = below = Mapping(place)
        return below
    return item
