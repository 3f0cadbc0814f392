"""shed_load: more calls than this proxy or its upstream can take are refused early and clearly.

At most `max_in_flight` calls are below this policy at one time; a stream counts until it ends. A few more may wait in
`queue`, by priority; when that is full the least urgent of all gets 503 `overloaded`. With `adaptive` the limit follows
the latency of the upstream between a floor and a ceiling.

Counts in this process alone: what it guards is this process and its share of the upstream.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.units import Duration
from proxy.errors import ProxyError
from proxy.fair_queue import RANK, FairQueue
from proxy.gradient import Gradient
from proxy.policy import Later, Policy, PolicyOptions

if TYPE_CHECKING:
    from proxy.exchange import Exchange, Priority
    from proxy.services import Services

RETRY_AFTER: Final = 1.0
OVERLOADED: Final = frozenset({"timeout", "stalled"})


class Adaptive(PolicyOptions):
    """How the limit follows the latency."""

    floor: int = Field(default=4, ge=1, description="The limit never goes below this.")
    ceiling: int | None = Field(default=None, ge=1, description="And never above this. Default: max_in_flight.")
    tolerance: Annotated[float, Field(ge=1.0, le=10.0)] = Field(
        default=1.5, description="How many times the usual time to the first byte counts as normal."
    )


class ShedLoadOptions(PolicyOptions):
    """Options of `shed_load`."""

    max_in_flight: int = Field(default=100, ge=1, description="Calls at one time; with adaptive, the first guess.")
    queue: int = Field(default=0, ge=0, description="Calls that may wait for a place; more urgent ones go first.")
    max_wait: Duration = Field(default=5.0, description="The longest wait for a place.")
    priority_tag: str | None = Field(
        default=None,
        description="A tag, such as urgency, whose value (critical, high, normal, background) is the call's priority "
        "within what its key allows. Default: x-sidecar-priority alone.",
    )
    adaptive: Adaptive | None = Field(default=None, description="Let the limit follow the latency.")

    @model_validator(mode="after")
    def _bounds(self) -> ShedLoadOptions:
        if self.adaptive is not None and self.adaptive.floor > (self.adaptive.ceiling or self.max_in_flight):
            raise PydanticCustomError("adaptive", "adaptive.floor is above its ceiling")
        return self


class _Waiter:
    """A call in the queue. future: True, a place is yours; False, somebody more urgent came; None, time is over."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()


class ShedLoad(Policy):
    """Bounds the calls in flight."""

    name = "shed_load"
    Options: ClassVar[type[PolicyOptions]] = ShedLoadOptions

    options: ShedLoadOptions

    def __init__(self, options: Any, services: Services, *, label: str | None = None, observe: bool = False) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self._clock = services.clock
        self._queue: FairQueue[_Waiter] = FairQueue()
        self.in_flight = 0
        self.refused = 0
        adaptive = self.options.adaptive
        most = self.options.max_in_flight
        self._gradient = (
            None if adaptive is None else Gradient(adaptive.floor, adaptive.ceiling or most, most, adaptive.tolerance)
        )

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return self.options.max_in_flight if self._gradient is None else self._gradient.limit

    def on_request(self, exchange: Exchange) -> Later[None]:
        if self.in_flight < self.limit and not self._queue:
            self._enter(exchange)
        elif self.observe:
            exchange.note(self.label, f"would hold back or refuse: {self.in_flight} calls in flight")
            self._enter(exchange)
        else:
            return self._wait(exchange)
        return None

    def _enter(self, exchange: Exchange) -> None:
        self.in_flight += 1
        exchange.local[self] = self._clock.monotonic()

    async def _wait(self, exchange: Exchange) -> None:
        priority = self._priority(exchange)
        if len(self._queue) >= self.options.queue:
            gives_way = self._queue.drop_least_urgent(priority) if self.options.queue else None
            if gives_way is None:
                raise self._refusal("too many calls are in flight")
            if not gives_way.future.done():
                gives_way.future.set_result(False)
        waiter = _Waiter()
        owner = exchange.principal.id
        self._queue.add(waiter, owner, priority)
        longest = self.options.max_wait
        began = self._clock.monotonic()
        if exchange.deadline is not None:
            longest = max(0.0, min(longest, exchange.deadline - began))

        def out_of_time() -> None:
            if not waiter.future.done():
                waiter.future.set_result(None)

        timer = self._clock.call_later(longest, out_of_time)
        self._admit()  # a place may be free while others, who have left since, stood in the queue
        try:
            said = await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.result():
                self._leave()  # the place was given in the moment in which the client left
            raise
        finally:
            timer.cancel()
            self._queue.remove(waiter, owner, priority)
        if said:
            exchange.local[self] = self._clock.monotonic()
            exchange.note(self.label, f"waited {self._clock.monotonic() - began:.3f} s for a place")
        else:
            raise self._refusal("a more urgent call took the place" if said is False else "no place came free in time")

    def _admit(self) -> None:
        """Gives free places to those who wait. The place is counted here, so that nobody slips in between."""
        while self.in_flight < self.limit:
            waiter = self._queue.pop()
            if waiter is None:
                return
            if not waiter.future.done():
                self.in_flight += 1
                waiter.future.set_result(True)

    def _leave(self) -> None:
        self.in_flight -= 1
        self._admit()

    def on_done(self, exchange: Exchange) -> None:
        entered: float | None = exchange.local.pop(self, None)
        if entered is None:
            return
        if self._gradient is not None:
            self._learn(self._gradient, exchange)
        self._leave()

    def _learn(self, gradient: Gradient, exchange: Exchange) -> None:
        """Time to the first byte of the upstream, whatever came after: a long answer is no slow upstream."""
        attempt = exchange.served_by or (exchange.attempts[-1] if exchange.attempts else None)
        if attempt is None:
            return
        if attempt.failure in OVERLOADED or attempt.status in {503, 529}:
            gradient.overloaded()
        elif attempt.first_byte_at is not None and attempt.status is not None and attempt.status < 400:
            gradient.answered(attempt.first_byte_at - attempt.started_at, self.in_flight)

    def _priority(self, exchange: Exchange) -> Priority:
        tag = self.options.priority_tag
        claimed = exchange.tags.get(tag) if tag is not None else None
        if claimed not in RANK:
            return exchange.priority
        allowed = exchange.principal.priority
        if exchange.principal.method != "none" and RANK[claimed] < RANK[allowed]:
            return allowed
        return claimed

    def _refusal(self, why: str) -> ProxyError:
        self.refused += 1
        return ProxyError(
            "overloaded", f"The proxy is at its limit: {why}.", retry_after=RETRY_AFTER, policy=self.label
        )

    def snapshot(self) -> dict[str, Any]:
        """For operators: calls in flight, the limit now, who waits, how many were refused."""
        return {
            "policy": self.label,
            "in_flight": self.in_flight,
            "limit": self.limit,
            "waiting": {priority: self._queue.waiting(priority) for priority in RANK},
            "refused": self.refused,
        }
