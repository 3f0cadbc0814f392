"""The calls that have ended lately, for the admin port: a bounded list, and whoever wants to hear of each at once.

A call is kept as a tuple of figures and names (0.3 us), never with its bodies, headers or query; it becomes an object
when somebody looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from proxy.exchange import Exchange

__all__ = ["RecentCalls", "running"]

KEPT: Final = 500

Row = tuple[Any, ...]


class RecentCalls:
    """listeners: called with each ended call's row, on the way of the call: they only put it somewhere."""

    def __init__(self, kept: int = KEPT) -> None:
        self._rows: deque[Row] = deque(maxlen=kept)
        self.listeners: list[Callable[[Row], None]] = []

    def record(self, exchange: Exchange) -> None:
        """Keep a call that has ended."""
        request = exchange.request
        answer = exchange.answer
        served = exchange.served_by
        if served is None and exchange.error is not None:
            served = exchange.failed_at
        error = exchange.error
        # Names and figures only: an attempt or an error would keep bodies alive through what they refer to.
        row = (
            exchange.id,
            exchange.started_wall,
            exchange.started_at,
            exchange.ended_at,
            request.method,
            request.path,
            exchange.route_name,
            exchange.chain_name,
            exchange.principal.id,
            exchange.project,
            exchange.model_known,
            exchange.target.upstream if served is None else served.upstream,
            exchange.key_id if served is not None else None,
            None if served is None else served.first_byte_at,
            None if answer is None else answer.status,
            exchange.outcome,
            len(exchange.attempts),
            exchange.usage,
            exchange.cost_nanos,
            exchange.saved_nanos,
            exchange.cache_status,
            None if error is None else (error.code, error.message, error.policy, error.kind.fault),
            exchange.notes,
            exchange.tags,
        )
        self._rows.append(row)
        if self.listeners:
            for listener in self.listeners:
                listener(row)

    def latest(self, count: int = KEPT) -> list[dict[str, Any]]:
        """The newest first."""
        rows = list(self._rows)[-count:] if count > 0 else []
        return [shown(row) for row in reversed(rows)]

    def __repr__(self) -> str:
        return f"<RecentCalls {len(self._rows)}, {len(self.listeners)} listeners>"


def shown(row: Row) -> dict[str, Any]:
    """A row as an object for people. Times in milliseconds; ``started`` in Unix seconds."""
    (
        name, started, began, ended, method, path, route, chain, principal, project, model, upstream, key, first,
        status, outcome, attempts, usage, cost, saved, cache, error, notes, tags,
    ) = row  # fmt: skip
    return {
        "id": name,
        "started": started,
        "duration_ms": None if ended is None else round((ended - began) * 1000, 3),
        "first_byte_ms": None if first is None or first < began else round((first - began) * 1000, 3),
        "method": method,
        "path": path[:200],
        "route": route,
        "chain": chain,
        "principal": principal,
        "project": project,
        "tags": dict(tags),
        "model": model,
        "upstream": upstream,
        "key": key,
        "status": status,
        "outcome": outcome,
        "attempts": attempts,
        "input_tokens": None if usage is None else usage.input,
        "output_tokens": None if usage is None else usage.output,
        "estimated": None if usage is None else usage.estimated,
        "cost_usd": None if cost is None else cost / 1e9,
        "saved_usd": None if saved is None else saved / 1e9,
        "cache": cache,
        "error": None if error is None else dict(zip(("code", "message", "policy", "fault"), error, strict=True)),
        "notes": [f"{policy}: {text}" for policy, text in notes[:20]],
    }


def running(exchange: Exchange, now: float) -> dict[str, Any]:
    """A call in flight. now: loop time."""
    served = exchange.served_by or (exchange.attempts[-1] if exchange.attempts else None)
    key = None if served is None else served.key
    return {
        "id": exchange.id,
        "started": exchange.started_wall,
        "running_ms": round((now - exchange.started_at) * 1000, 3),
        "method": exchange.request.method,
        "path": exchange.request.path[:200],
        "route": exchange.route_name,
        "chain": exchange.chain_name,
        "principal": exchange.principal.id,
        "project": exchange.project,
        "model": exchange.model_known,
        "upstream": exchange.target.upstream if served is None else served.upstream,
        "key": None if key is None else key.id,
        "attempts": len(exchange.attempts),
        "cache": exchange.cache_status,
        "committed": exchange.committed,
    }
