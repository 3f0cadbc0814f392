"""Flights: the work below a split, run once for everyone who waits for the same answer (rule 4).

The policy that splits the chain (``cache``) is called in the place of what stands below it:

    async def on_flight(self, exchange, below):
        flight = self.flying.get(key)                 # somebody else's, identical
        if flight is None or not flight.joinable:
            flight = self.flying[key] = below.start()
        return await flight.join(exchange)

A flight runs in a task of its own with its own exchange: identity, target and the masked body go
into it, originals never. Every caller, the first too, is a subscriber and may leave without harm
to the others; when the last one has left, the flight is cancelled. Its cost belongs to the caller
that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.chain import refuse
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer, Exchange, Request
from proxy.flow import Flow
from proxy.stream.fanout import FanOut

if TYPE_CHECKING:
    from proxy.chain import Chain
    from proxy.snapshot import Snapshot
    from proxy.stream.fanout import Subscription


class Below:
    """What stands below a split, for one call."""

    __slots__ = ("chain", "exchange", "snapshot")

    def __init__(self, snapshot: Snapshot, exchange: Exchange, chain: Chain) -> None:
        assert chain.below is not None
        self.snapshot = snapshot
        self.exchange = exchange
        self.chain = chain.below

    @property
    def digest(self) -> str:
        """Of the policies below that change bodies: part of a cache's key."""
        return self.chain.digest

    def start(self, *, deadline: float | None = None) -> Flight:
        """Start the work. With ``deadline`` (seconds) it needs no subscriber: a revalidation."""
        return Flight(self.snapshot, self.exchange, self.chain, deadline=deadline)


class Flight:
    """One run of the chain below a split.

    ``joinable``: a new caller can still get the whole answer. ``exchange``: the flight's own, with attempts, usage
    and cost. ``landed``: called once with the flight when it ended, whatever came of it.
    """

    def __init__(self, snapshot: Snapshot, starter: Exchange, chain: Chain, *, deadline: float | None) -> None:
        self.snapshot = snapshot
        self.starter = starter
        self.exchange = _fork(starter)
        self.chain = chain
        self.flow = Flow(snapshot, self.exchange)
        self.fan = FanOut(self._empty)
        self.landed: list[Callable[[Flight], None]] = []
        self.answer: Answer | None = None
        self.subscribers = 0
        self._detached = deadline is not None
        self._head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over = False
        self._task = asyncio.create_task(self._run(deadline), name=f"flight {starter.id}")
        snapshot.flights.add(self)

    @property
    def joinable(self) -> bool:
        """Whether a new caller can get everything from the start."""
        if self._task.cancelling() or (self._over and self.answer is None):
            return False
        answer = self.answer
        if answer is None or answer.source is None:
            return answer is None or answer.status < 400
        return self.fan.joinable

    @property
    def over(self) -> bool:
        """Whether the flight has ended."""
        return self._over

    async def join(self, exchange: Exchange) -> Answer:
        """This caller's own Answer. Raises ProxyError when the flight failed without an answer."""
        subscription = self.fan.subscribe()
        self.subscribers += 1
        try:
            if not self._head.done():
                # Shielded by hand: cancelling one caller must not cancel the head for the others.
                waiter = asyncio.get_running_loop().create_future()

                def wake(_: asyncio.Future[None]) -> None:
                    if not waiter.done():
                        waiter.set_result(None)

                self._head.add_done_callback(wake)
                try:
                    await waiter
                finally:
                    self._head.remove_done_callback(wake)
        except BaseException:
            subscription.abort()
            raise
        self._lend(exchange)
        answer = self.answer
        if answer is None:
            subscription.abort()
            error = self.exchange.error or ProxyError("internal_error", "The shared call was given up.")
            raise _again(error)
        if answer.source is None:
            subscription.abort()
            return _copy(answer)
        return _streaming(answer, subscription)

    def _lend(self, exchange: Exchange) -> None:
        """What the flight found out belongs to every caller; what it cost to its starter only."""
        mine = self.exchange
        exchange.served_by = mine.served_by
        exchange.target = mine.target
        exchange.flight_of = mine
        if exchange is self.starter:
            exchange.attempts = mine.attempts

    # --- the flight's own task -----------------------------------------------------------------------

    async def _run(self, deadline: float | None) -> None:
        exchange, flow = self.exchange, self.flow
        try:
            async with asyncio.timeout(deadline):
                try:
                    answer = await flow.down(self.chain)
                except ProxyError as error:
                    answer = refuse(exchange, error)
                if answer.source is None:
                    answer = await flow.up_whole(answer)
                    await self._end("answered" if answer.status < 400 else "failed")
                    self._arrive(answer)
                else:
                    await self._stream(answer)
        except asyncio.CancelledError:
            exchange.outcome = "cancelled"
            self._cut()
        except TimeoutError:
            exchange.outcome = "cancelled"
            self._cut()
        except Exception as error:
            exchange.outcome = "failed"
            self.snapshot.log.exception("internal error in a shared call", extra={"request_id": exchange.id})
            exchange.error = ProxyError("internal_error", f"The proxy failed ({type(error).__name__}).")
            self._cut()
        finally:
            await self._close()

    async def _stream(self, answer: Answer) -> None:
        flow, chain, exchange = self.flow, self.chain, self.exchange
        assert answer.source is not None
        pipe = flow.pipe
        if pipe is None:
            pipe = flow.pipe = self.snapshot.pipe_for(exchange, answer)
            answer.source.start(pipe)
        stages = chain.open_stages(exchange, answer)
        self.fan.source = answer.source
        self._arrive(answer)
        pipe.attach(stages, self.fan)
        end = await pipe.wait_end()
        error = await flow.end_stream(end)
        if chain.settles:
            await chain.settle(exchange)
        if exchange.usage is not None and self.starter.usage is None:
            self.starter.usage = exchange.usage
        pipe.release()
        if end.reason == "finished":
            self.fan.end()
        else:
            self.fan.fail(end.cause or error or ProxyError("upstream_invalid_response", "The shared answer broke off."))

    async def _end(self, outcome: str) -> None:
        self.exchange.outcome = "answered" if outcome == "answered" else "failed"
        if self.chain.settles:
            await self.chain.settle(self.exchange)
        if self.exchange.usage is not None:
            self.starter.usage = self.exchange.usage

    def _arrive(self, answer: Answer) -> None:
        self.answer = answer
        if not self._head.done():
            self._head.set_result(None)

    def _cut(self) -> None:
        if self.flow.pipe is not None:
            self.flow.pipe.cancel()
        elif self.flow.answer is not None and self.flow.answer.source is not None:
            self.flow.answer.source.abort()
        if not self._head.done():
            self._head.set_result(None)
        if not self.fan.ended:
            self.fan.fail(self.exchange.error or ProxyError("internal_error", "The shared call was given up."))

    async def _close(self) -> None:
        self._over = True
        with contextlib.suppress(Exception):
            await self.flow.end_attempt("cancelled")
            self.flow.measure()
        self.exchange.ended_at = asyncio.get_running_loop().time()
        await self.chain.done(self.exchange)
        self.snapshot.flights.discard(self)
        for callback in self.landed:
            callback(self)

    def cancel(self) -> None:
        """Give the work up; subscribers learn of it."""
        self._task.cancel()

    def _empty(self) -> None:
        """The last subscriber has left."""
        if not self._detached and not self._over:
            self._task.cancel()


def _fork(starter: Exchange) -> Exchange:
    """The flight's own exchange: what the caller's looks like at the split, without what policies above keep for it."""
    mine = starter.request
    request = Request(
        mine.method,
        mine.target,
        mine.path,
        mine.raw_path,
        mine.query,
        mine.headers,
        mine.raw_headers,
        mine.peer,
        secure=mine.secure,
    )
    request.body = None if mine.body is None else mine.body.fork()
    request.raw_body = None if mine.body is not None and mine.body.edited else mine.raw_body
    request.stream = mine.stream
    request.content_length = mine.content_length
    request.edits = None if mine.edits is None else dict(mine.edits)
    other = Exchange(starter.id, request, starter.started_at, starter.started_wall)
    other.dialect = starter.dialect
    other.route_name = starter.route_name
    other.chain_name = starter.chain_name
    other.principal = starter.principal
    other.project = starter.project
    other.tags = dict(starter.tags)
    other.priority = starter.priority
    other.target = starter.target
    other.deadline = starter.deadline
    other.estimated_input = starter.estimated_input
    return other


def _copy(answer: Answer) -> Answer:
    body = answer.body
    return Answer(
        answer.status,
        list(answer.headers),
        origin=answer.origin,
        body=None if body is None else Document(body.encode()),
        raw=answer.raw,
        error=answer.error,
        content_length=answer.content_length,
    )


def _streaming(answer: Answer, subscription: Subscription) -> Answer:
    return Answer(
        answer.status,
        list(answer.headers),
        origin=answer.origin,
        source=subscription,
        events=answer.events,
        content_length=answer.content_length,
    )


def _again(error: ProxyError) -> ProxyError:
    """The same error for another caller: errors are edited on their way up, so each gets its own."""
    other = ProxyError(
        error.code,
        error.message,
        param=error.param,
        retry_after=error.retry_after,
        policy=error.policy,
        headers=error.headers,
    )
    other.should_retry = error.should_retry
    return other
