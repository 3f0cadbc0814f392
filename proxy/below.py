"""What stands below a split, for one call: where a policy that splits the chain starts the work from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.flight import Flight
from proxy.loan import fork, lent

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.chain import Chain
    from proxy.document import Document
    from proxy.flow import Flow

__all__ = ["Below"]


class Below:
    """What stands below a split, for one call. digest: of the policies there that change bodies, part of a cache's
    key."""

    __slots__ = ("_above", "_lent", "chain", "digest", "exchange", "flow")

    def __init__(self, flow: Flow, chain: Chain) -> None:
        assert chain.below is not None
        self.flow = flow
        self.exchange = flow.exchange
        self.chain = below = chain.below
        self.digest = below.digest
        self._above = chain
        self._lent = False

    @property
    def unmasked(self) -> bool:
        """Whether a policy above that protects by editing did not act on this call: it only observes, or its ``when``
        did not hold. Such a call must leave nothing in a store that others read (rule 9)."""
        skipped = self.exchange.skipped
        return any(
            step.policy.protects and step.policy.edits_request and (step.policy.observe or skipped >> index & 1)
            for index, step in enumerate(self._above.steps)
        )

    def start(
        self,
        *,
        deadline: float | None = None,
        shared: bool = True,
        body: Document | None = None,
        landed: Callable[[Flight], None] | None = None,
    ) -> Flight:
        """Start the work.

        deadline: seconds; with one it needs no subscriber: a revalidation. shared: others may join later, so what has
        come of a stream is kept for them. body: what to send in place of the caller's body. landed: called once with
        the flight when there is nothing more to come of it, before anybody is given its whole answer.
        """
        flow = self.flow
        if deadline is None and body is None and not (self._lent or self.chain.edits_request) and lent(self.exchange):
            self._lent = True
            return Flight(flow, self.chain, self.exchange, landed, shared=shared)
        own = fork(self.exchange, body, alone=self.chain.edits_request)
        return Flight(flow, self.chain, own, landed, shared=shared).start(deadline)
