"""One call on its way through the cache, and what must be known when its flight lands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from proxy.dialects.base import Dialect
    from proxy.exchange import Answer, Exchange, Target
    from proxy.flight import Below, Flight
    from proxy.policies.cache.control import Control
    from proxy.policies.cache.items import Items
    from proxy.policies.cache.policy import Cache

__all__ = ["CURABLE", "Call", "Landing", "curable", "not_cached"]

CURABLE: Final = frozenset(
    {"upstream_unreachable", "upstream_timeout", "upstream_invalid_response", "circuit_open", "no_key_available"}
)
"""Errors in reaching the provider that a later try may cure: what ``stale_if_error`` helps against."""


class Call:
    """One call's way through the cache."""

    __slots__ = ("below", "control", "dialect", "exchange")

    def __init__(self, exchange: Exchange, below: Below, dialect: Dialect, control: Control) -> None:
        self.exchange = exchange
        self.below = below
        self.dialect = dialect
        self.control = control


class Landing:
    """What must be known when a flight lands; it outlives the caller who started it.

    items: for embeddings, the names and inputs that were sent; ``name`` is then the whole request's.
    """

    __slots__ = ("_exchange", "_policy", "dialect", "epoch", "items", "name", "shape", "stores", "target")

    def __init__(self, policy: Cache, call: Call, name: bytes, shape: Hashable, items: Items | None) -> None:
        self._policy = policy
        self._exchange = call.exchange
        self.dialect: Dialect = call.dialect
        self.target: Target = call.exchange.target
        self.stores = call.control.keep
        self.name = name
        self.shape = shape
        self.items = items
        self.epoch = policy.store.epoch

    @property
    def tags(self) -> list[bytes]:
        """The entries' tags."""
        return self._policy.keys.tags(self._exchange)

    def __call__(self, flight: Flight) -> None:
        self._policy.landed(self, flight)


def curable(answer: Answer) -> bool:
    """Whether an answer is an error that a later try may cure: of the provider's own, or in reaching it."""
    if answer.error is not None:
        return answer.error.code in CURABLE
    return answer.origin == "upstream" and (answer.status >= 500 or answer.status == 429)


def not_cached(why: str) -> ProxyError:
    return ProxyError("not_cached", f"x-sidecar-cache: only-if-cached: {why}.", param="x-sidecar-cache")
