"""What no single value can tell: names that must exist, ids that must differ, routes that no call reaches.

Mistakes are looked for in the tree and not in the typed models, so that they are found although other values are
wrong, and all are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from proxy.config.chains import Reference
from proxy.config.fields import references
from proxy.config.match import Match
from proxy.config.model import Config, Route
from proxy.config.problem import Place, Problem, listing, suggest
from proxy.config.server import is_loopback
from proxy.config.source import UNRESOLVED
from proxy.config.tree import Mapping, Scalar, Sequence, find, place_of, value_place

_ONE = {"upstreams": "upstream", "keys": "key pool", "chains": "chain"}


def mistakes(tree: Mapping, from_chains: Iterable[Reference]) -> Iterator[Problem]:
    """Every mistake between the parts of a configuration."""
    own = (Reference(path, kind, node) for path, kind, node in references(Config, tree))
    yield from _unknown_names(tree, [*own, *from_chains])
    yield from _repeated_ids(tree)
    yield from _open_admin(tree)


def _unknown_names(tree: Mapping, found: Iterable[Reference]) -> Iterator[Problem]:
    for path, kind, node in found:
        section = tree.items.get(kind)
        known = list(section.items) if isinstance(section, Mapping) else []
        if node.value is None or node.value == UNRESOLVED or node.text in known:
            continue
        one = _ONE.get(kind, kind)
        allowed = f"allowed: {listing(known)}" if known else f"{kind}: defines none"
        if node.origin is not None:
            message = f"there is no {one} of the name that {node.origin} brought in; {allowed}"
        else:
            message = f'there is no {one} "{node.text[:60]}"{suggest(node.text, known)}; {allowed}'
        yield Problem.at(node.place, path, message)


def _repeated_ids(tree: Mapping) -> Iterator[Problem]:
    seen: dict[str, Place] = {}
    pools = tree.items.get("keys")
    for pool in pools.items if isinstance(pools, Mapping) else ():
        keys = find(tree, ("keys", pool, "keys"))
        for index in range(len(keys.items)) if isinstance(keys, Sequence) else ():
            path = ("keys", pool, "keys", index, "id")
            node = find(tree, path)
            if not isinstance(node, Scalar) or node.value is None or node.value == UNRESOLVED:
                continue
            first = seen.setdefault(node.text, node.place)
            if first is not node.place:
                named = node.origin or f'"{node.text[:60]}"'
                message = f"the key id {named} is already taken in {first}; ids are unique over all pools"
                yield Problem.at(node.place, path, message)


def _open_admin(tree: Mapping) -> Iterator[Problem]:
    host = find(tree, ("admin", "host"))
    token = find(tree, ("admin", "token"))
    enabled = find(tree, ("admin", "enabled"))
    if not isinstance(host, Scalar) or not isinstance(host.value, str) or host.value == UNRESOLVED:
        return
    off = isinstance(enabled, Scalar) and enabled.text == "false"
    if (
        is_loopback(host.value)
        or off
        or (token is not None and not (isinstance(token, Scalar) and token.value is None))
    ):
        return
    said = "is required because admin.host is not loopback: set it, such as token: ${ADMIN_TOKEN}, or host: 127.0.0.1"
    yield Problem.at(value_place(tree, ("admin", "host")), ("admin", "token"), said)


def warnings(config: Config, tree: Mapping) -> Iterator[Problem]:
    """What is allowed and hardly meant."""
    if not any(route.enabled for route in config.routes):
        yield Problem.at(tree.place, ("routes",), "no route is enabled: every call will get 404")
    for index, route in enumerate(config.routes):
        above = _shadow(config.routes[:index], route) if route.enabled else None
        if above is not None:
            first = place_of(tree, ("routes", above))
            message = f"no call reaches this route: all that it matches is taken by route {above} in {first}"
            yield Problem.at(place_of(tree, ("routes", index)), ("routes", index), message)


def _shadow(above: tuple[Route, ...], route: Route) -> int | None:
    for index, earlier in enumerate(above):
        if earlier.enabled and covers(earlier.match, route.match):
            return index
    return None


def covers(wide: Match, narrow: Match) -> bool:
    """Whether every call that `narrow` matches is matched by `wide` too; False where that cannot be told."""
    if wide.not_ is not None and wide.not_ != narrow.not_:
        return False
    for name in ("path", "method", "model", "project", "task", "ip"):
        if not _any_covers(getattr(wide, name), getattr(narrow, name), exact=name == "ip", fold=name == "method"):
            return False
    for kind, fold in (("headers", True), ("tags", False)):
        inner = {(key.lower() if fold else key): patterns for key, patterns in getattr(narrow, kind).items()}
        for key, patterns in getattr(wide, kind).items():
            there = inner.get(key.lower() if fold else key, ())
            if not there or not _any_covers(patterns, there, exact=False, fold=False):
                return False
    return True


def _any_covers(wide: tuple[str, ...], narrow: tuple[str, ...], *, exact: bool, fold: bool) -> bool:
    if not wide:
        return True
    if fold:
        wide, narrow = tuple(map(str.upper, wide)), tuple(map(str.upper, narrow))
    # A star of the narrow pattern can only be taken by a star of the wide one, so it counts as a character here.
    return bool(narrow) and all(any(p == q or (not exact and _glob(p, q)) for p in wide) for q in narrow)


def _glob(pattern: str, text: str) -> bool:
    # The parts between stars are found one after the other: linear, where a regex with many stars is not.
    if "*" not in pattern:
        return pattern == text
    first, *middle, last = re.split(r"\*+", pattern)
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
        return False
    position, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
