"""What stands below a split, for one call: where a policy that splits the chain lets the work begin.

    def on_flight(self, exchange, below):
        running = self.running.get(key)               # somebody else's, identical
        if running is not None and running.joinable:
            return running.join(exchange)
        self.running[key] = below
        if below.go_on():
            return None                               # the call goes on by itself, and others may join it
        return below.start().join(exchange)           # a flight

Nearly every piece of work brings one whole answer to one caller, who does nothing but wait for it. So that caller just
**goes on** down the chain and back up, as if nothing split it, and on its way up the policy is shown the answer
(``on_landing``). What sharing takes is made when it is needed: a ``Flight``, when somebody joins, or when the answer
turns out to be a stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.flight import Flight
from proxy.loan import fork

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from proxy.chain import Chain
    from proxy.document import Document
    from proxy.exchange import Answer
    from proxy.flow import Flow
    from proxy.policy import Policy

__all__ = ["Below"]


class Below:
    """What stands below a split, for one call. digest: of what the policies there do to this call, part of a cache's
    key. flight: None while nobody shares the work."""

    __slots__ = ("_kept", "_over", "_whole", "digest", "exchange", "flight", "flow")

    def __init__(self, flow: Flow, chain: Chain) -> None:
        self.flow = flow
        self.exchange = flow.exchange
        self.digest = chain.digest if chain.conditions is None else chain.digest + chain.conditions(flow.exchange)
        self.flight: Flight | None = None
        self._whole = chain
        self._over = False

    @property
    def chain(self) -> Chain:
        """What stands there."""
        below = self._whole.below
        assert below is not None
        return below

    @property
    def unmasked(self) -> bool:
        """Whether a policy above that protects by editing did not act on this call: it only observes, or its ``when``
        did not hold. Such a call must leave nothing in a store that others read (rule 9)."""
        skipped = self.exchange.skipped
        return any(
            step.policy.protects and step.policy.edits_request and (step.policy.observe or skipped >> index & 1)
            for index, step in enumerate(self._whole.steps)
        )

    @property
    def _splits(self) -> Policy:
        """The policy that splits the chain."""
        step = self._whole.split
        assert step is not None
        return step.policy

    # --- a flight ----------------------------------------------------------------------------------

    def start(
        self,
        *,
        deadline: float | None = None,
        shared: bool = True,
        body: Document | None = None,
        landed: Callable[[Flight], None] | None = None,
    ) -> Flight:
        """Start the work in a task of its own.

        deadline: seconds; with one it needs no subscriber: a revalidation. shared: others may join later, so what has
        come of a stream is kept for them. body: what to send in place of the caller's body. landed: called once with
        the flight when there is nothing more to come of it, before anybody is given its whole answer.
        """
        own = fork(self.exchange, body, alone=self.chain.edits_request)
        self.flight = flight = Flight(self.flow, self.chain, own, landed, shared=shared)
        return flight.start(deadline)

    @property
    def joinable(self) -> bool:
        """Whether another caller can still get everything from the start."""
        flight = self.flight
        return not self._over if flight is None else flight.joinable

    def join(self) -> Flight:
        """The flight, for another caller who wants the same answer: made for the first of them."""
        flight = self.flight
        if flight is None:
            request = self.exchange.request
            if request.body is not None and request.body.edited:
                request.raw_body = None  # what was received may hold what has been masked
            flight = self.flight = Flight(self.flow, self.chain, self.exchange, None, lent=self._kept)
        return flight

    # --- a call that goes on by itself -------------------------------------------------------------

    def go_on(self) -> bool:
        """The call goes on by itself, and can still be joined: the policy's ``on_landing`` is called with its whole
        answer, and calls ``land``. False: it cannot, and a flight has to do the work."""
        exchange = self.exchange
        if exchange.streaming or exchange.flight_of is not None or self.chain.edits_request:
            return False
        self._kept = len(exchange.local)
        self.flow.carries = self
        return True

    def came_again(self) -> None:
        """The call's answer was found: what is found out about its body is worth remembering."""
        self._whole.came_again(self.exchange)

    def land(self, answer: Answer) -> None:
        """Its whole answer has come to the split, and goes to those who joined. Raises CancelledError when its client
        left and it went on for them alone."""
        self.flow.carries = None
        self._over = True
        if self.flight is not None:
            self.flight.land(answer)

    def part(self, answer: Answer) -> Awaitable[Answer]:
        """Its answer is a stream: from here on it is a flight's, and the call a subscriber."""
        self.flow.carries = None
        return self.join().take_over(answer, self._whole, self._splits.on_parting(self.exchange))

    def lose(self) -> None:
        """It ends, and there was no answer."""
        self.flow.carries = None
        self._over = True
        self._splits.on_landing(self.exchange, None)
        if self.flight is not None:
            self.flight.lose()

    def left(self, task: asyncio.Task[Any]) -> bool:
        """Its client has left. False: nobody else is there, and its task is to be cancelled. True: the task goes on
        for the others, and its call ends as cancelled with it."""
        if self.flight is not None:
            return self.flight.left(task)
        self._over = True
        return False
