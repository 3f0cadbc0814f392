"""The table of all circuit breakers of this process: made when first needed, bounded, shown to the operator."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from proxy.upstream.breaker import Breaker, Change, Listener, Per, Settings
from proxy.upstream.circuit import CLOSED, OPEN

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.state.interface import State

MAX_BREAKERS: Final = 5000
"""Of one group: clients choose model names, so their number needs a bound."""

log = logging.getLogger("llm_sidecar.breaker")

Key = tuple[str, str]


class Group(dict[Key, Breaker]):
    """The breakers of one ``per`` and one set of settings, by (upstream, detail); made when first asked for.

    detail: the model for ``per: model``, the key's id for ``per: key``, empty for ``per: upstream``.
    """

    def __init__(self, table: Breakers, per: Per, settings: Settings) -> None:
        super().__init__()
        self._table = table
        self.per: Per = per
        self.settings = settings
        # The same settings on every replica, and after a reload, mean the same circuit.
        self._digest = hashlib.blake2s(repr(settings).encode(), digest_size=4).hexdigest()

    def __missing__(self, key: Key) -> Breaker:
        upstream, detail = key
        table = self._table
        if len(self) >= table.limit:
            self._forget()
        breaker = self[key] = Breaker(
            f"breaker:{self.per}:{upstream}:{detail}:{self._digest}",
            self.settings,
            table.clock,
            per=self.per,
            upstream=upstream,
            detail=detail,
            state=table.state,
            listeners=table.listeners,
        )
        return breaker

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def _forget(self) -> None:
        """Clients choose model names: what has nothing to tell goes first, then the oldest."""
        for key in [key for key, breaker in self.items() if breaker.idle]:
            del self[key]
        while len(self) >= self._table.limit:
            del self[next(iter(self))]

    def first_open(self, keys: Iterable[Key]) -> Breaker | None:
        """Of these, when not one is closed, the breaker that opened first. None when one is closed."""
        first: Breaker | None = None
        for key in keys:
            breaker = self.get(key)
            if breaker is None or breaker.closed:
                return None
            if first is None or breaker.opened_at < first.opened_at:
                first = breaker
        return first


class Breakers:
    """Every breaker of this process. Circuits with equal settings are one circuit, in whichever chain they stand, and
    live on through a reload if this object does.

    listeners: called synchronously after each change of state; they must not raise.
    """

    def __init__(self, clock: Clock, state: State | None = None, *, limit: int = MAX_BREAKERS) -> None:
        self.clock = clock
        self.state = state
        self.limit = limit
        self.listeners: list[Listener] = [log_change]
        self._groups: dict[tuple[Per, Settings], Group] = {}

    def group(self, per: Per, settings: Settings) -> Group:
        """The breakers of one policy."""
        found = self._groups.get((per, settings))
        if found is None:
            found = self._groups[per, settings] = Group(self, per, settings)
        return found

    def checked(self, upstream: str, ok: bool, why: str = "health check") -> None:
        """Tell every breaker of an upstream what a background check found (``per: upstream`` only: a check with one
        key and one model says nothing about the others)."""
        now = self.clock.monotonic()
        for (per, _), group in self._groups.items():
            if per == "upstream":
                group[upstream, ""].checked(ok, now, why)

    def snapshot(self) -> list[dict[str, Any]]:
        """All breakers, the ones that are not closed first, then by name."""
        now = self.clock.monotonic()
        every = [breaker.snapshot(now) for group in self._groups.values() for breaker in group.values()]
        return sorted(every, key=lambda one: (one["state"] == CLOSED, one["name"]))


def log_change(breaker: Breaker, change: Change) -> None:
    """One log line a change: a warning when it opens, else information."""
    log.log(
        logging.WARNING if change.new == OPEN else logging.INFO,
        "circuit breaker %s",
        change.new,
        extra={
            "breaker": breaker.name,
            "upstream": breaker.upstream,
            "detail": breaker.detail,
            "from": change.old,
            "to": change.new,
            "reason": change.reason,
        },
    )
