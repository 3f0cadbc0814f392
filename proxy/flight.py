"""Flights: the work below a split, run once for everyone who waits for the same answer (rule 4).

The policy that splits the chain (``cache``) is called in the place of what stands below it:

    def on_flight(self, exchange, below):
        flight = self.flying.get(key)                 # somebody else's, identical
        if flight is None or not flight.joinable:
            flight = self.flying[key] = below.start()
        return flight.join(exchange)

A flight runs in a task of its own, with its caller's exchange on loan or with one of its own (``proxy.loan``):
identity, target and the masked body go into it, originals never. Every caller, the first too, is a subscriber and may
leave without harm to the others; when the last one has left, the flight is cancelled. Its cost belongs to the caller
that started it: what a policy above the split left in ``exchange.local`` that has a method ``landed`` (a ``Rider``: the
accounting's ticket) goes along and is told when the flight is over.

Nearly every flight carries one whole answer to one caller, so a flight begins as little more than that: a task, and a
future for each caller who waits. Whatever sharing takes is made when it is needed:

* A **whole** answer is handed to those who wait when it has come: itself to a caller who is alone, a copy to each of
  several. From then on the flight cannot be joined (what can be kept has just been stored), so that nobody ever sees an
  answer that its owner edits, for instance by putting masked values back.
* A **stream** gets its fan-out when its head has come, and each caller a subscription to it in the same moment.

Why a task, and not the starter's own: cancelling a task cancels what it waits for, and ``asyncio.timeout`` is bound to
the task it was entered in, so work that is to outlive its first caller needs a task identity of its own from the start.
Driving the coroutine by hand under such an identity was tried and costs what a task costs (1.6 us of 1.7). To run in
the starter's task for as long as nobody else waits would save 3 to 4 us of a miss by instruction counts, but whoever
cancels a call (its connection, a drain) would have to ask the flight first whether it may: that was not built.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from proxy.chain import refuse
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.flow import Flow, outcome_of
from proxy.loan import fork, lent, part, riders_of
from proxy.policy import called
from proxy.stream.fanout import FanOut, Tap
from proxy.stream.plain import PlainSink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from proxy.chain import Chain
    from proxy.exchange import Exchange
    from proxy.stream.fanout import Subscription


class Below:
    """What stands below a split, for one call."""

    __slots__ = ("_above", "_lent", "chain", "exchange", "flow")

    def __init__(self, flow: Flow, chain: Chain) -> None:
        assert chain.below is not None
        self.flow = flow
        self.exchange = flow.exchange
        self.chain = chain.below
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

    @property
    def digest(self) -> str:
        """Of the policies below that change bodies: part of a cache's key."""
        return self.chain.digest

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
        lend = False
        if deadline is None and body is None and not (self._lent or self.chain.edits_request):
            lend = self._lent = lent(self.exchange)
        return Flight(self.flow, self.chain, deadline, body, landed, shared=shared, lend=lend)


class Flight:
    """One run of the chain below a split.

    ``exchange``: what it works with: attempts, usage and cost. ``answer``: what came. ``fan``: of a stream that has
    come. ``subscribers``: how many joined.
    """

    __slots__ = (
        "_above", "_arrived", "_begun", "_detached", "_followers", "_given_up", "_landed", "_lent", "_loop", "_over",
        "_shared", "_task", "_timer", "_told", "_waiting", "answer", "chain", "exchange", "fan", "flow", "riders",
        "snapshot", "starter", "subscribers",
    )  # fmt: skip

    def __init__(
        self,
        above: Flow,
        chain: Chain,
        deadline: float | None,
        body: Document | None,
        landed: Callable[[Flight], None] | None,
        *,
        shared: bool,
        lend: bool,
    ) -> None:
        snapshot = self.snapshot = above.snapshot
        self.starter = starter = above.exchange
        self.chain = chain
        self.exchange = starter if lend else fork(starter, body, alone=chain.edits_request)
        self.riders = riders_of(starter)
        self._above = above
        self._lent: tuple[Hashable, ...] | None = tuple(starter.local) if lend else None
        self.flow = Flow(snapshot, self.exchange)
        self.fan: FanOut | None = None
        self.answer: Answer | None = None
        self.subscribers = 0
        self._followers: list[Exchange] = []
        self._waiting: dict[asyncio.Future[Answer | None], Exchange] = {}
        self._landed = landed
        self._shared = shared
        self._detached = deadline is not None
        self._begun = self._arrived = self._over = self._given_up = self._told = False
        self._loop = loop = asyncio.get_running_loop()
        # With a name: to make one up costs half a microsecond.
        self._task = asyncio.Task(self._run(), loop=loop, name="flight")
        self._timer = None if deadline is None else loop.call_later(deadline, self.cancel)
        snapshot.flights.add(self)

    @property
    def joinable(self) -> bool:
        """Whether a new caller can still get everything from the start."""
        if self._over or self._given_up:
            return False
        return not self._arrived or (self.fan is not None and self.fan.joinable)

    @property
    def over(self) -> bool:
        """Whether the flight has ended."""
        return self._over

    async def join(self, exchange: Exchange) -> Answer:
        """This caller's own Answer. Raises ProxyError when the flight failed without an answer."""
        self.subscribers += 1
        answer: Answer | None
        if not self._arrived:
            # Each caller waits for a future of its own: cancelling one must not cancel the others.
            waiter: asyncio.Future[Answer | None] = self._loop.create_future()
            self._waiting[waiter] = exchange
            try:
                answer = await waiter
            except BaseException:
                self._leave(waiter, exchange)
                raise
        elif self.fan is not None and self.answer is not None and self.fan.joinable:
            answer = _streaming(self.answer, self._subscription(self.fan, exchange))
        else:
            answer = None
        mine = self.exchange
        if exchange is not mine:
            # What the flight found out belongs to every caller; what it cost to its starter only.
            exchange.flight_of = mine
            exchange.served_by, exchange.target = mine.served_by, mine.target
            if exchange is self.starter:
                exchange.attempts = mine.attempts
            else:
                exchange.saved_usage = mine.usage
                self._followers.append(exchange)
        if answer is None:
            raise _again(mine.error or ProxyError("internal_error", "The shared call was given up."))
        if answer.error is not None:
            exchange.error = answer.error
        return answer

    def _leave(self, waiter: asyncio.Future[Answer | None], exchange: Exchange) -> None:
        """One who waited has gone."""
        if exchange is self.exchange:
            self._part()
        if waiter in self._waiting:
            del self._waiting[waiter]
            if not self._waiting:
                self._empty()
        elif not waiter.cancelled():
            # In the very moment in which the answer came.
            answer = waiter.result()
            if answer is not None and answer.source is not None:
                answer.source.abort()

    def _part(self) -> None:
        """The caller who lent its exchange leaves it to the flight, unless that has ended."""
        above = self._lent
        if above is None or self._over:
            return
        self._lent = None
        mine, snapshot = self.exchange, self.snapshot
        self.starter = self._above.exchange = caller = part(mine, above)
        if mine in snapshot.in_flight:
            snapshot.in_flight.remove(mine)
            snapshot.in_flight.add(caller)

    def _subscription(self, fan: FanOut, exchange: Exchange) -> Subscription:
        """One caller's part in a stream."""
        subscription = fan.subscribe()
        if exchange is self.exchange:
            subscription.leaves = self._part
        return subscription

    # --- the flight's own task -----------------------------------------------------------------------

    async def _run(self) -> None:
        self._begun = True
        flow, exchange = self.flow, self.exchange
        try:
            try:
                answer = await flow.down(self.chain)
            except ProxyError as error:
                answer = refuse(exchange, error)
            if answer.source is None:
                said = flow.up_whole(answer)
                await self._whole(said if isinstance(said, Answer) else await said)
            elif answer.events:
                await self._stream(answer)
            else:
                await self._plain(answer)
        except asyncio.CancelledError:
            exchange.outcome = "cancelled"
            self._cut()
        except Exception as error:
            exchange.outcome = "failed"
            self.snapshot.log.exception("internal error in a shared call", extra={"request_id": exchange.id})
            exchange.error = ProxyError("internal_error", f"The proxy failed ({type(error).__name__}).")
            self._cut()
        finally:
            wait = self._close()
            if wait is not None:
                await wait

    async def _whole(self, answer: Answer) -> None:
        self.exchange.outcome = outcome_of(answer)
        wait = self.flow.settle()
        if wait is not None:
            await wait
        self._share_usage()
        self.answer = answer
        if self._landed is not None:
            self._land(self._landed)
        self._arrive(answer)
        self.answer = self.flow.answer = None  # a caller's own from now on

    async def _plain(self, answer: Answer) -> None:
        """Bytes that nobody reads: a file, speech, an error too large to judge."""
        flow, chain = self.flow, self.chain
        source = answer.source
        assert source is not None
        fan = self._open(answer)
        attempt = flow.attempt if chain.needs_usage else None
        sink = PlainSink(fan, hold_last=chain.settles, length=answer.content_length, attempt=attempt)
        source.start(sink)
        failure = await sink.ended()
        await flow.end_plain(answer, failure)
        self._share_usage()
        if failure is None:
            sink.release()
            fan.end()
        else:
            fan.fail(failure)

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
            await called(flow.end_attempt("stopped"))
            flow.measure()
            await self._whole(refuse(exchange, refused))
            return
        fan = self._open(answer)
        stages.append(Tap(fan))
        pipe.attach(stages, fan)
        end = await pipe.wait_end()
        error = await flow.end_stream(end)
        await called(flow.settle())
        self._share_usage()
        pipe.release()
        if end.reason == "finished":
            fan.end()
        else:
            fan.fail(end.cause or error or ProxyError("upstream_invalid_response", "The shared answer broke off."))

    def _open(self, answer: Answer) -> FanOut:
        """A stream has begun: whoever waits subscribes to it."""
        self.answer = answer
        self.fan = fan = FanOut(self._empty, keep=self._shared)
        fan.source = answer.source
        self._arrive(answer)
        return fan

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

    def _arrive(self, answer: Answer | None) -> None:
        """Each of those who wait gets an answer of its own; None: there is none."""
        self._arrived = True
        waiting = [waiter for waiter in self._waiting if not waiter.done()]
        fan = self.fan
        if fan is not None and answer is not None:
            for waiter in waiting:
                waiter.set_result(_streaming(answer, self._subscription(fan, self._waiting[waiter])))
            if self.subscribers and not waiting:
                self._empty()  # all were cancelled in this very moment
        elif answer is None or len(waiting) == 1:
            for waiter in waiting:
                waiter.set_result(answer)
        else:
            for waiter in waiting:
                waiter.set_result(_copy(answer))
        self._waiting.clear()

    def _cut(self) -> None:
        flow = self.flow
        if flow.pipe is not None:
            flow.pipe.cancel()
        elif flow.answer is not None and flow.answer.source is not None:
            flow.answer.source.abort()
        if not self._arrived:
            self.answer = None
            self._arrive(None)
        if self.fan is not None and not self.fan.ended:
            self.fan.fail(self.exchange.error or ProxyError("internal_error", "The shared call was given up."))

    def _close(self) -> Awaitable[None] | None:
        """The end, whatever came of it. None: nothing has to be waited for."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self.fan is not None:
            self.fan.let_go()
        if self._lent is not None:
            self._tell()  # before the caller settles, whose account of it is then complete
        flow = self.flow
        if self._detached or not flow.settled or (flow.attempt is not None and not flow.attempt.ended):
            return self._close_late()
        self.exchange.ended_at = monotonic()
        wait = self.chain.done(self.exchange) if self.chain.finishes else None
        if wait is not None:
            return self._close_late(wait)
        self._gone()
        self._tell()
        return None

    async def _close_late(self, done: Awaitable[None] | None = None) -> None:
        """The same where something has to be waited for. done: the last phase, where it has begun."""
        exchange, chain = self.exchange, self.chain
        try:
            if done is None:
                await called(self.flow.end_attempt("cancelled"))
                self.flow.measure()
                await called(self.flow.settle())
                exchange.ended_at = monotonic()
                done = chain.done(exchange) if chain.finishes else None
            await called(done)
        except Exception:  # what waits for the landing must learn of it whatever happens here
            self.snapshot.log.exception("internal error at the end of a shared call", extra={"request_id": exchange.id})
        finally:
            self._gone()
        while self.riders and self._detached and self.starter.ended_at is None:  # noqa: ASYNC110 - rare; no hook to wait for
            await asyncio.sleep(0.05)  # a revalidation may be faster than the call that started it
        self._tell()

    def _tell(self) -> None:
        """Those who came along learn that it is over: once."""
        if not self._told:
            self._told = True
            for rider in self.riders:
                rider.landed(self.exchange)

    def _gone(self) -> None:
        self.snapshot.flights.discard(self)
        if self._landed is not None:
            self._land(self._landed)

    def _land(self, landed: Callable[[Flight], None]) -> None:
        """Nothing more comes of it: said once."""
        self._landed = None
        try:
            landed(self)
        except Exception:  # a mistake there must not cost the callers their answer
            self.snapshot.log.exception("internal error at a landing", extra={"request_id": self.exchange.id})

    @property
    def task(self) -> asyncio.Task[None]:
        """What the work runs in."""
        return self._task

    def cancel(self) -> None:
        """Give the work up; subscribers learn of it."""
        self._given_up = True
        if self._begun:
            self._task.cancel()
        else:
            self._loop.call_soon(self._task.cancel)  # a task that has not begun would end without its ending

    def _empty(self) -> None:
        """The last subscriber has left."""
        if not self._detached and not self._over:
            self.cancel()


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
