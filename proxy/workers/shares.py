"""Limits that are too small to be divided among the workers, found at load. Pure: a configuration in, sentences out.

With ``state: memory`` every limit is divided by ``server.workers`` and what remains goes to the first ones, so that the
shares add up to the limit. A limit below their number leaves workers without any share: calls that the kernel gives to
those would all be refused, whatever the others have left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from proxy.config.model import ChainEntry, Config

Path = tuple[str | int, ...]

_OF_A_KEY: Final = ("max_rpm", "max_tpm", "max_concurrent")
_OF_A_RATE: Final = ("rpm", "tpm", "burst", "max_concurrent")
_OF_A_BUDGET: Final = ("calls", "tokens")


def mistakes(config: Config) -> Iterator[tuple[Path, str]]:
    """The path of each such limit, and what to do about it."""
    workers = config.server.workers
    if workers == 1 or config.state != "memory":
        return
    found = {path: limit for path, limit in _limits(config) if limit < workers}
    for path, limit in found.items():
        yield (
            path,
            f"with state: memory a limit of {limit} cannot be divided among {workers} workers: set server.workers to "
            f"at most {limit}, this limit to at least {workers}, or state: redis://...",
        )


def _limits(config: Config) -> Iterator[tuple[Path, int]]:
    for name, pool in config.keys.items():
        for index, key in enumerate(pool.keys):
            yield from _given(key, ("keys", name, "keys", index), _OF_A_KEY)
    for entries in config.chains.values():
        for entry in entries:
            if entry.mode != "off":
                yield from _of_policy(entry)


def _of_policy(entry: ChainEntry) -> Iterator[tuple[Path, int]]:
    if entry.policy == "budget":
        yield from _given(entry.options, entry.path, _OF_A_BUDGET)
    elif entry.policy == "rate_limit":
        yield from _rate(entry.options, entry.path)
        for index, inner in enumerate(getattr(entry.options, "limits", ())):
            yield from _rate(inner, (*entry.path, "limits", index))


def _rate(limit: Any, path: Path) -> Iterator[tuple[Path, int]]:
    """What is taken at once comes out of the bucket, so with a `burst` that is what must be divided."""
    names = _OF_A_RATE if limit.burst is None else [name for name in _OF_A_RATE if name != "rpm"]
    yield from _given(limit, path, names)


def _given(options: Any, path: Path, names: Sequence[str]) -> Iterator[tuple[Path, int]]:
    for name in names:
        limit = getattr(options, name)
        if limit is not None:
            yield (*path, name), limit
