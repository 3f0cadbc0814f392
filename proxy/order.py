"""Orders of a chain that leak or cannot work, found at load (rule 9). Pure: names and options in, sentences out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from proxy.browser import is_loopback
from proxy.policy import find

if TYPE_CHECKING:
    from proxy.config.model import ChainEntry, Config

_ATTEMPT_PHASES: Final = ("select_key", "circuit_breaker", "retry", "fallback", "hedge", "budget")
_BY_CALLER: Final = frozenset({"principal", "project"})

Found = tuple[tuple[str | int, ...], str]
"""A path into the configuration and what is wrong there."""


def of_chains(chains: Iterable[Sequence[ChainEntry]]) -> Iterator[Found]:
    """What is refused, whatever else the configuration says: also of chains some of whose entries could not be read."""
    for entries in chains:
        yield from _chain_mistakes(entries)


def between(config: Config) -> Iterator[Found]:
    """What is refused of chains that are whole, with their listener and their upstreams."""
    yield from _open_door(config)
    for number, route in enumerate(config.routes):
        if not route.enabled:
            continue
        for name in (route.chain, *route.allow_chains):
            if name in config.chains:
                yield from _keys_mistakes(config, number, route.upstream, name, config.chains[name])


def warnings(config: Config) -> Iterator[Found]:
    """What is allowed and said."""
    for entries in config.chains.values():
        live = [entry for entry in entries if entry.mode != "off"]
        caches = [index for index, entry in enumerate(live) if entry.policy == "cache"]
        for index, entry in enumerate(live):
            if entry.policy != "pii" or not caches or index > caches[0]:
                continue
            if entry.mode == "observe" or entry.when is not None:
                why = "in observe mode" if entry.mode == "observe" else "under `when`"
                yield (
                    entry.path,
                    f"pii {why} stands above a shared cache: calls that it does not mask bypass the cache's store, "
                    "unless nobody but their own caller is answered from it",
                )


def _open_door(config: Config) -> Iterator[Found]:
    """Bound where others can reach it, with neither authentication nor known host names."""
    server = config.server
    if server.unix is not None or is_loopback(server.host) or server.hosts:
        return
    for name in dict.fromkeys(route.chain for route in config.routes if route.enabled):
        guarded = any(
            entry.policy == "authenticate"
            and entry.mode != "off"
            and getattr(entry.options, "method", "none") != "none"
            for entry in config.chains.get(name, ())
        )
        if not guarded and name in config.chains:
            yield (
                ("server", "host"),
                f"{server.host} is reachable by others, and chain {name!r} lets everybody in: give the chain "
                "`authenticate` with method keys, jwt or passthrough, or list the names under server.hosts, or bind "
                "127.0.0.1",
            )
            return


def _chain_mistakes(entries: Sequence[ChainEntry]) -> Iterator[Found]:
    live = [entry for entry in entries if entry.mode != "off"]
    for entry in live:
        if entry.mode == "observe" and not find(entry.policy).observable:
            yield (
                (*entry.path, "mode"),
                f"{entry.policy} cannot only observe: use enforce, or off to leave it out",
            )
    places: dict[str, int] = {}
    for index, entry in enumerate(live):
        places.setdefault(entry.policy, index)
    splits = [index for index, entry in enumerate(live) if find(entry.policy).splits]
    for index in splits[1:]:
        yield live[index].path, "a chain can hold one cache: take this one or the one above it out"
    if splits:
        cache = splits[0]
        for above in ("pii", "authenticate"):
            place = places.get(above)
            if place is not None and place > cache:
                yield (
                    live[cache].path,
                    f"cache stands above {above}, so that it would keep and share what {above} protects: "
                    f"move cache below {above}",
                )
        for index, entry in enumerate(live[:cache]):
            if entry.policy in _ATTEMPT_PHASES:
                yield (
                    live[index].path,
                    f"{entry.policy} acts on attempts, which are made below the cache: move it below cache",
                )
    authenticate = places.get("authenticate")
    if authenticate is None:
        return
    for entry in live[:authenticate]:
        per = getattr(entry.options, "per", None)
        by = {per} if isinstance(per, str) else set(per or ())
        if entry.policy == "cache" and getattr(entry.options, "scope", "principal") != "global":
            by = {"principal"}
        if by & _BY_CALLER and entry.policy in ("rate_limit", "budget", "cache"):
            yield (
                entry.path,
                f"{entry.policy} counts by {' and '.join(sorted(by & _BY_CALLER))}, which is known only below "
                "authenticate: move it below authenticate",
            )


def _keys_mistakes(
    config: Config, number: int, upstream: str, chain: str, entries: Sequence[ChainEntry]
) -> Iterator[Found]:
    target = config.upstreams.get(upstream)
    if target is None or target.keys is None:
        return
    live = [entry for entry in entries if entry.mode != "off"]
    if any(find(entry.policy).selects_key for entry in live):
        return
    auth = next((entry for entry in live if entry.policy == "authenticate"), None)
    if auth is not None and getattr(auth.options, "method", None) == "passthrough":
        return
    yield (
        ("routes", number, "chain"),
        f"upstream {upstream!r} has keys, and chain {chain!r} has no select_key to choose one: add `- select_key`, or "
        "use authenticate: {method: passthrough}",
    )
