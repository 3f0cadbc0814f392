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
that started it: what a policy above the split left in ``exchange.local`` that has a method ``landed`` (a ``Rider``:
the accounting's ticket) goes along and is told when the flight is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from proxy.chain import refuse
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer, Exchange, Request
from proxy.flow import Flow, outcome_of, waited
from proxy.stream.fanout import FanOut, Tap
from proxy.stream.plain import PlainSink

if TYPE_CHECKING:
    from proxy.chain import Chain
    from proxy.exchange import Outcome
    from proxy.snapshot import Snapshot
    from proxy.stream.fanout import Subscription


class Rider(Protocol):
    """What goes along with a flight for a policy above the split."""

    def landed(self, exchange: Exchange) -> None:
        """The flight is over; ``exchange`` is the flight's own."""


class Below:
    """What stands below a split, for one call."""

    __slots__ = ("_above", "chain", "exchange", "snapshot")

    def __init__(self, snapshot: Snapshot, exchange: Exchange, chain: Chain) -> None:
        assert chain.below is not None
        self.snapshot = snapshot
        self.exchange = exchange
        self.chain = chain.below
        self._above = chain

    @property
    def unmasked(self) -> bool:
        """Whether a policy above that protects by editing did not act on this call: it only observes, or its ``when``
        did not hold. Such a call must leave nothing in a store that others read (rule 9)."""
        skipped = self.exchange.skipped
        return any(
            step.policy.protects and step.policy.edits_request and (step.policy.observe or skipped >> index & 1)
            for index, step in enumerate(self._above.steps)
        )

    @property
    def digest(self) -> str:
        """Of the policies below that change bodies: part of a cache's key."""
        return self.chain.digest

    def start(self, *, deadline: float | None = None, shared: bool = True, body: Document | None = None) -> Flight:
        """Start the work.

        deadline: seconds; with one it needs no subscriber: a revalidation. shared: others may join later, so what has
        come of a stream is kept for them. body: what to send in place of the caller's body.
        """
        return Flight(self.snapshot, self.exchange, self.chain, deadline=deadline, shared=shared, body=body)


class Flight:
    """One run of the chain below a split.

    ``joinable``: a new caller can still get the whole answer. ``exchange``: the flight's own, with attempts, usage
    and cost. ``landed``: called once with the flight when it ended, whatever came of it.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        starter: Exchange,
        chain: Chain,
        *,
        deadline: float | None = None,
        shared: bool = True,
        body: Document | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.starter = starter
        self.exchange = _fork(starter, body, alone=chain.edits_request)
        self.chain = chain
        self.flow = Flow(snapshot, self.exchange)
        self.fan = FanOut(self._empty, keep=shared)
        self.landed: list[Callable[[Flight], None]] = []
        self.answer: Answer | None = None
        self.subscribers = 0
        self._followers: list[Exchange] = []
        self._detached = deadline is not None
        self._arrived = False
        self._waiting: list[asyncio.Future[None]] = []
        self._over = False
        self._task = asyncio.get_running_loop().create_task(self._run(deadline))
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
        if not self._arrived:
            # Each caller waits for a future of its own: cancelling one must not cancel the others.
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
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
            copy = _copy(answer)
            exchange.error = copy.error
            return copy
        return _streaming(answer, subscription)

    def _lend(self, exchange: Exchange) -> None:
        """What the flight found out belongs to every caller; what it cost to its starter only."""
        mine = self.exchange
        exchange.served_by = mine.served_by
        exchange.target = mine.target
        exchange.flight_of = mine
        if exchange is self.starter:
            exchange.attempts = mine.attempts
        else:
            exchange.saved_usage = mine.usage
            self._followers.append(exchange)

    # --- the flight's own task -----------------------------------------------------------------------

    async def _run(self, deadline: float | None) -> None:
        exchange = self.exchange
        try:
            if deadline is None:
                await self._fly()
            else:
                async with asyncio.timeout(deadline):
                    await self._fly()
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

    async def _fly(self) -> None:
        flow = self.flow
        try:
            answer = await flow.down(self.chain)
        except ProxyError as error:
            answer = refuse(self.exchange, error)
        if answer.source is None:
            answer = await flow.up_whole(answer)
            await self._end(outcome_of(answer))
            self._arrive(answer)
        elif answer.events:
            await self._stream(answer)
        else:
            await self._plain(answer)

    async def _plain(self, answer: Answer) -> None:
        """Bytes that nobody reads: a file, speech, an error too large to judge."""
        flow, chain = self.flow, self.chain
        source = answer.source
        assert source is not None
        sink = PlainSink(self.fan, hold_last=chain.settles, length=answer.content_length)
        self.fan.source = source
        self._arrive(answer)
        source.start(sink)
        failure = await sink.ended()
        await flow.end_plain(answer, failure)
        self._share_usage()
        if failure is None:
            sink.release()
            self.fan.end()
        else:
            self.fan.fail(failure)

    async def _stream(self, answer: Answer) -> None:
        flow, chain, exchange = self.flow, self.chain, self.exchange
        assert answer.source is not None
        pipe = flow.pipe
        if pipe is None:
            pipe = flow.pipe = self.snapshot.pipe_for(exchange, answer)
            answer.source.start(pipe)
        try:
            stages = chain.open_stages(exchange, answer)
        except ProxyError as refused:
            pipe.cancel()
            await waited(flow.end_attempt("stopped"))
            flow.measure()
            answer = refuse(exchange, refused)
            await self._end(outcome_of(answer))
            self._arrive(answer)
            return
        self.fan.source = answer.source
        self._arrive(answer)
        stages.append(Tap(self.fan))
        pipe.attach(stages, self.fan)
        end = await pipe.wait_end()
        error = await flow.end_stream(end)
        await waited(flow.settle())
        self._share_usage()
        pipe.release()
        if end.reason == "finished":
            self.fan.end()
        else:
            self.fan.fail(end.cause or error or ProxyError("upstream_invalid_response", "The shared answer broke off."))

    async def _end(self, outcome: Outcome) -> None:
        self.exchange.outcome = outcome
        await waited(self.flow.settle())
        self._share_usage()

    def _share_usage(self) -> None:
        """The starter pays, the others are saved. A revalidation's starter was served from the store and has used
        nothing itself."""
        usage = self.exchange.usage
        if usage is None:
            return
        if not self._detached:
            self.starter.usage = usage
        for follower in self._followers:
            follower.saved_usage = usage

    def _arrive(self, answer: Answer) -> None:
        self.answer = answer
        self._wake()

    def _wake(self) -> None:
        """There is an answer, or there will be none."""
        self._arrived = True
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _cut(self) -> None:
        if self.flow.pipe is not None:
            self.flow.pipe.cancel()
        elif self.flow.answer is not None and self.flow.answer.source is not None:
            self.flow.answer.source.abort()
        self._wake()
        if not self.fan.ended:
            self.fan.fail(self.exchange.error or ProxyError("internal_error", "The shared call was given up."))

    async def _close(self) -> None:
        self._over = True
        self.fan.let_go()
        exchange = self.exchange
        try:
            await waited(self.flow.end_attempt("cancelled"))
            self.flow.measure()
            await waited(self.flow.settle())
            exchange.ended_at = asyncio.get_running_loop().time()
            if self.chain.finishes:
                await waited(self.chain.done(exchange))
        except Exception:  # what waits for the landing must learn of it whatever happens here
            self.snapshot.log.exception("internal error at the end of a shared call", extra={"request_id": exchange.id})
        finally:
            self.snapshot.flights.discard(self)
            for callback in self.landed:
                callback(self)
        riders = [rider for rider in exchange.local.values() if hasattr(rider, "landed")]
        while riders and self._detached and self.starter.ended_at is None:  # noqa: ASYNC110 - rare; no hook to wait for
            await asyncio.sleep(0.05)  # a revalidation may be faster than the call that started it
        for rider in riders:
            rider.landed(exchange)

    @property
    def task(self) -> asyncio.Task[None]:
        """What the work runs in."""
        return self._task

    def cancel(self) -> None:
        """Give the work up; subscribers learn of it."""
        self._task.cancel()

    def _empty(self) -> None:
        """The last subscriber has left."""
        if not self._detached and not self._over:
            self._task.cancel()


def _fork(starter: Exchange, body: Document | None, *, alone: bool) -> Exchange:
    """The flight's own exchange: what the caller's looks like at the split, without what policies above keep for it.

    body: in place of the caller's. alone: somebody edits the body, so that the caller's own must not be lent.
    """
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
    )
    document = mine.body
    if body is not None:
        request.body, request.raw_body = body, None
    elif document is not None:
        request.raw_body = None if document.edited else mine.raw_body
        request.body = document.fork() if alone else document
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
    other.timings = starter.timings
    other.estimated_input = starter.estimated_input
    other.timings = starter.timings
    other.before_send = starter.before_send
    other._model, other._streaming = starter._model, starter._streaming
    for key, value in starter.local.items():
        if hasattr(value, "landed"):
            other.local[key] = value
    return other


def _copy(answer: Answer) -> Answer:
    body = answer.body
    return Answer(
        answer.status,
        list(answer.headers),
        origin=answer.origin,
        body=None if body is None else Document(body.encode()),
        raw=answer.raw,
        error=None if answer.error is None else _again(answer.error),
        encoding=answer.encoding,
        content_length=answer.content_length,
    )


def _streaming(answer: Answer, subscription: Subscription) -> Answer:
    return Answer(
        answer.status,
        list(answer.headers),
        origin=answer.origin,
        source=subscription,
        events=answer.events,
        encoding=answer.encoding,
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
