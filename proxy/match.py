"""Rules that say which calls: compiled once at load, first match wins, a match never changes a call.

A list means any of its values, all keys must hold, ``not`` turns one around, and ``*`` is any run of
characters, ``/`` included. Most patterns are an exact text or ``prefix*`` and are compiled to just that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config.match import Match, When
    from proxy.config.model import Route
    from proxy.exchange import Exchange

Test = Callable[[str], bool]
Rule = Callable[["Exchange"], bool]


def glob(pattern: str) -> Test:
    """A test for one pattern."""
    if "*" not in pattern:
        return pattern.__eq__
    if pattern == "*":
        return lambda text: True
    if pattern.count("*") == 1 and pattern.endswith("*"):
        prefix = pattern[:-1]
        return lambda text: text.startswith(prefix)
    # No regular expression: several stars would backtrack for ever over a long text that a client chose.
    first, *middle, last = pattern.split("*")
    between = [part for part in middle if part]
    least = len(first) + len(last)

    def test(text: str) -> bool:
        if len(text) < least or not text.startswith(first) or not text.endswith(last):
            return False
        at, end = len(first), len(text) - len(last)
        for part in between:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return test


def any_glob(patterns: Sequence[str]) -> Test:
    """A test that holds when any pattern does."""
    exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
    tests = [glob(pattern) for pattern in patterns if "*" in pattern]
    if not tests:
        return exact.__contains__
    if not exact and len(tests) == 1:
        return tests[0]
    return lambda text: text in exact or any(test(text) for test in tests)


def networks(values: Sequence[str]) -> Test:
    """A test that an address lies in any of the networks."""
    if "*" in values:
        return lambda address: True
    nets = [ipaddress.ip_network(value, strict=False) for value in values]

    def test(address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False  # a unix socket's peer has no address
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip in net for net in nets)

    return test


def needs_model(match: Match) -> bool:
    """Whether the body has to be read before this rule can be judged."""
    return bool(match.model) or (match.not_ is not None and needs_model(match.not_))


def compile_match(match: Match) -> Rule | None:
    """The rule of a match; None for one that matches every call."""
    rules: list[tuple[str, Rule]] = _rules(match)
    if not rules:
        return None
    if len(rules) == 1:
        return rules[0][1]
    tests = tuple(rule for _, rule in rules)
    return lambda exchange: all(test(exchange) for test in tests)


def compile_when(when: When) -> Rule:
    """The rule of a ``when:``."""
    return compile_match(when) or (lambda exchange: True)


def conditions(matches: Iterable[Match]) -> Callable[[Exchange], str] | None:
    """What tells two calls apart for these matches: which of their single conditions hold for a call, a ``0`` or ``1``
    each, those inside of ``not`` too. None: there are none."""
    rules = [rule for match in matches for rule in _single(match)]
    if not rules:
        return None
    return lambda exchange: "".join(["1" if rule(exchange) else "0" for rule in rules])


def _single(match: Match) -> Iterator[Rule]:
    turned = match.not_
    yield from (rule for _, rule in _rules(match if turned is None else match.model_copy(update={"not_": None})))
    if turned is not None:
        yield from _single(turned)


def why_not(match: Match, exchange: Exchange) -> str | None:
    """The first condition that does not hold, for people; None when all do."""
    for name, rule in _rules(match):
        if not rule(exchange):
            return name
    return None


def _header(name: str, exchange: Exchange) -> str | None:
    return exchange.request.header(name)


def _rules(match: Match) -> list[tuple[str, Rule]]:
    rules: list[tuple[str, Rule]] = []

    def add(name: str, values: Sequence[str], read: Callable[[Exchange], str | None], test: Test | None = None) -> None:
        if not values:
            return
        holds = test or any_glob(values)

        def rule(exchange: Exchange) -> bool:
            value = read(exchange)
            return value is not None and holds(value)

        rules.append((f"{name}: {', '.join(values)}", rule))

    add("method", [value.upper() for value in match.method], lambda x: x.request.method)
    add("path", match.path, lambda x: x.request.path)
    for header, patterns in match.headers.items():
        add(f"headers.{header}", patterns, partial(_header, header.lower()))
    add("ip", match.ip, lambda x: x.request.peer, networks(match.ip) if match.ip else None)
    add("project", match.project, lambda x: x.project)
    add("task", match.task, lambda x: x.tags.get("task"))
    for tag, patterns in match.tags.items():
        add(f"tags.{tag}", patterns, lambda x, name=tag: x.tags.get(name))  # type: ignore[misc]
    add("model", match.model, lambda x: x.model_asked)
    principal: Sequence[str] = getattr(match, "principal", ())
    add("principal", principal, lambda x: x.principal.id)
    tokens: tuple[int, int | None] | None = getattr(match, "tokens", None)
    if tokens is not None:
        least, most = tokens

        def in_range(exchange: Exchange) -> bool:
            count = exchange.input_estimate()
            return count >= least and (most is None or count <= most)

        rules.append((f"tokens: {least}-{'' if most is None else most}", in_range))
    if match.not_ is not None:
        inner = compile_match(match.not_)
        rules.append(("not: ...", lambda x: inner is not None and not inner(x)))
    return rules


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """One route, ready to ask. rule None matches every call."""

    name: str
    config: Route
    rule: Rule | None
    needs_model: bool


def compile_routes(routes: Sequence[Route]) -> tuple[CompiledRoute, ...]:
    """Every enabled route, in order; a route without a name is called by its number, from 1."""
    return tuple(
        CompiledRoute(route.name or f"#{number}", route, compile_match(route.match), needs_model(route.match))
        for number, route in enumerate(routes, 1)
        if route.enabled
    )
