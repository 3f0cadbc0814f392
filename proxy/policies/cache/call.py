"""One call on its way through the cache. It goes along with the flight that it starts, and may outlive its caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from proxy.below import Below
    from proxy.dialects.base import Dialect
    from proxy.exchange import Answer, Exchange, Target
    from proxy.policies.cache.control import Control
    from proxy.policies.cache.items import Items

__all__ = ["CURABLE", "Call", "curable", "not_cached"]

CURABLE: Final = frozenset(
    {"upstream_unreachable", "upstream_timeout", "upstream_invalid_response", "circuit_open", "no_key_available"}
)
"""Errors in reaching the provider that a later try may cure: what ``stale_if_error`` helps against."""


class Call:
    """One call's way through the cache.

    name: of its answer. items: for embeddings, the inputs of the request; ``name`` is then that of all that are
    missing.
    target: what the provider is asked for; epoch: the store's when the call looked there, or asked.
    """

    __slots__ = ("below", "control", "dialect", "epoch", "exchange", "items", "name", "target")

    def __init__(
        self,
        exchange: Exchange,
        below: Below,
        dialect: Dialect,
        control: Control,
        name: bytes = b"",
        items: Items | None = None,
    ) -> None:
        self.exchange = exchange
        self.below = below
        self.dialect = dialect
        self.control = control
        self.name = name
        self.items = items
        self.target: Target = exchange.target
        self.epoch: int

    def was_refused(self, error: ProxyError | None) -> bool:
        """Whether an answer that could not be read was the provider's word that it will not do this."""
        if error is None or error.code != "upstream_invalid_response":
            return False
        attempts = self.exchange.attempts
        status = attempts[-1].status if attempts else None
        return status is not None and 400 <= status < 500 and status != 429

    def forget_failure(self) -> None:
        """What failed, for whomever it was asked and of whatever target, is not what this call is answered with."""
        exchange = self.exchange
        exchange.target = self.target
        exchange.served_by = exchange.flight_of = exchange.saved_usage = exchange.error = None


def curable(answer: Answer) -> bool:
    """Whether an answer is an error that a later try may cure: of the provider's own, or in reaching it."""
    if answer.error is not None:
        return answer.error.code in CURABLE
    return answer.origin == "upstream" and (answer.status >= 500 or answer.status == 429)


def not_cached(why: str) -> ProxyError:
    return ProxyError("not_cached", f"x-sidecar-cache: only-if-cached: {why}.", param="x-sidecar-cache")
