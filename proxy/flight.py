"""Flights: the work below a split, run once for everyone who waits for the same answer (rule 4).

Identity, target and the masked body go into a flight, originals never. Every caller, the first too, is a subscriber and
may leave without harm to the others; when the last one has left, the flight is cancelled. Its cost belongs to the
caller that started it: what a policy above the split left in ``exchange.local`` that has a method ``landed`` (a
``Rider``: the accounting's ticket) goes along and is told when the flight is over.

A flight is made in one of two ways (``proxy.below``):

* **start**: with an exchange (``proxy.loan``) and a task of its own, where a stream is asked for, since policies above
  the split are at work at the same time; for a revalidation; for another body than the caller's.
* **aboard** a call that goes down the chain and back up by itself, in its own task, when another caller joins it. What
  that call brings to the split is handed over. When its client leaves while others wait, its task is not cancelled
  (``Flow.left``, which a connection asks before it cancels): it goes on until it has the answer, and then ends as
  cancelled. Where the answer is a stream, both have something to do from then on: the flight takes the work over
  (``take_over``), with a task of its own and the caller's exchange on loan.

Each who waits has a future of its own. A **whole** answer is handed to them when it has come: itself to a caller who is
alone, a copy to each of several. From then on the flight cannot be joined (what can be kept has just been stored), so
that nobody ever sees an answer that its owner edits, for instance by putting masked values back. Of a **stream** each
gets a subscription in the moment in which its head has come.

A task that is cancelled without being asked (the end of a drain) takes its work along: those who wait are told that it
was given up.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from proxy.chain import refuse
from proxy.copies import again, copy, streaming
from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.flow import Flow, outcome_of
from proxy.loan import part, riders_of
from proxy.policy import called, whatever
from proxy.stream.fanout import FanOut, Tap
from proxy.stream.plain import PlainSink

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from proxy.chain import Chain
    from proxy.exchange import Exchange
    from proxy.loan import Rider
    from proxy.stream.fanout import Subscription


class Flight:
    """One run of the chain below a split.

    ``exchange``: what it works with: attempts, usage and cost. ``answer``: what came. ``fan``: of a stream that has
    come. ``subscribers``: how many joined.
    """

    __slots__ = (
        "_aboard", "_above", "_arrived", "_begun", "_detached", "_followers", "_given_up", "_landed", "_lent", "_over",
        "_shared", "_task", "_timer", "_waiting", "answer", "chain", "exchange", "fan", "flow", "riders", "snapshot",
        "starter", "subscribers",
    )  # fmt: skip

    def __init__(
        self,
        above: Flow,
        chain: Chain,
        exchange: Exchange,
        landed: Callable[[Flight], None] | None,
        *,
        shared: bool = True,
        lent: int | None = None,
    ) -> None:
        """above: the flow of the call that starts it. exchange: what to work with. shared: others may join later.
        lent: the exchange is the caller's, who does the work itself; policies above the split have put down the first
        so many entries of its ``local``."""
        self.snapshot = snapshot = above.snapshot
        self.starter = above.exchange
        self.chain = chain
        self.exchange = exchange
        self.riders: list[Rider] = []
        self._above = above
        self._lent = lent
        self.flow = above if lent is not None else Flow(snapshot, exchange)
        self.fan: FanOut | None = None
        self.answer: Answer | None = None
        self.subscribers = 0
        self._followers: list[Exchange] = []
        self._waiting: dict[asyncio.Future[Answer | None], Exchange] = {}
        self._landed = landed
        self._shared = shared
        self._aboard = self._begun = lent is not None
        self._detached = False
        self._arrived = self._over = self._given_up = False
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, deadline: float | None = None) -> Self:
        """Run in a task of its own. deadline: seconds; with one it needs no subscriber."""
        if deadline is not None:
            self._detached = True
            self._timer = asyncio.get_running_loop().call_later(deadline, self.cancel)
        self._run_apart(self._run())
        return self

    def _run_apart(self, work: Coroutine[Any, Any, None]) -> None:
        self._begun = False
        self.riders = riders_of(self.starter, self._lent)
        # With a name: to make one up costs half a microsecond.
        self._task = asyncio.Task(work, loop=asyncio.get_running_loop(), name="flight")
        self.snapshot.flights.add(self)

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
        """This caller's own Answer. Raises ProxyError when the flight failed without one."""
        self.subscribers += 1
        answer: Answer | None
        if not self._arrived:
            # Each caller waits for a future of its own: cancelling one must not cancel the others.
            waiter: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
            self._waiting[waiter] = exchange
            try:
                answer = await waiter
            except BaseException:
                self._leave(waiter, exchange)
                raise
        elif self.fan is not None and self.answer is not None and self.fan.joinable:
            answer = streaming(self.answer, self._subscription(self.fan, exchange))
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
            raise again(mine.error or ProxyError("internal_error", "The shared call was given up."))
        if answer.error is not None:
            exchange.error = answer.error
        return answer

    def forget(self, exchange: Exchange) -> None:
        """A caller who joined is not answered by it after all."""
        if exchange in self._followers:
            self._followers.remove(exchange)

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
        self.starter = self._above.exchange = caller = part(mine, list(mine.local)[:above])
        if mine in snapshot.in_flight:
            snapshot.in_flight.remove(mine)
            snapshot.in_flight.add(caller)

    def _subscription(self, fan: FanOut, exchange: Exchange) -> Subscription:
        """One caller's part in a stream."""
        subscription = fan.subscribe()
        if exchange is self.exchange:
            subscription.leaves = self._part
        return subscription

    # --- aboard a call that goes by itself -----------------------------------------------------------

    def land(self, answer: Answer) -> None:
        """That call has brought a whole answer. Raises CancelledError when its client has left: it went on for the
        others alone."""
        here = self._aboard
        self._over = True
        self._hand_over(answer)
        self._aboard = False
        self._gone()
        if not here:
            raise asyncio.CancelledError

    def lose(self) -> None:
        """That call has ended and brought nothing."""
        self._aboard, self._over = False, True
        self._cut()
        self._gone()

    async def take_over(self, answer: Answer, whole: Chain, landed: Callable[[Flight], None] | None) -> Answer:
        """That call has got a stream: the flight goes on with it in a task of its own. The caller's part of it. whole:
        the caller's chain."""
        here, self._aboard = self._aboard, False
        above, exchange = self._above, self.exchange
        self._landed = landed
        self.flow = flow = Flow(self.snapshot, exchange)
        flow.chain, flow.answer, flow.attempt, flow.pipe = self.chain, answer, above.attempt, above.pipe
        above.chain, above.answer, above.attempt, above.pipe = whole, None, None, None
        self._run_apart(self._run(answer))
        if here:
            return await self.join(exchange)
        self._part()
        raise asyncio.CancelledError

    def left(self, task: asyncio.Task[Any]) -> bool:
        """That call's client has left: see ``Below.left``."""
        self._aboard = False
        if self._given_up or all(waiter.done() for waiter in self._waiting):
            self._given_up = True
            return False
        self._task = task
        self.snapshot.flights.add(self)
        return True

    # --- in a task of its own ------------------------------------------------------------------------

    async def _run(self, answer: Answer | None = None) -> None:
        """The work. answer: the stream that a call which went by itself has brought."""
        self._begun = True
        flow, exchange = self.flow, self.exchange
        try:
            try:
                if answer is None:
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
            await self._close()

    async def _whole(self, answer: Answer) -> None:
        self.exchange.outcome = outcome_of(answer)
        await called(self.flow.settle())
        self._share()
        self._hand_over(answer)

    def _hand_over(self, answer: Answer) -> None:
        """A whole answer is kept, and given to those who wait; the flight does not look at it again."""
        self.answer = answer
        if self._landed is not None:
            self._land()
        self._arrive(answer)
        self.answer = self.flow.answer = None

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
        self._share()
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
        self._share()
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

    def _share(self) -> None:
        """The starter pays, the others are saved, and what policies noted is the starter's. A revalidation's starter
        was served from the store and has used nothing itself."""
        exchange = self.exchange
        if exchange is not self.starter and not self._detached:
            self.starter.notes += exchange.notes
        usage = exchange.usage
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
        if answer is None or answer.status >= 400:
            waiting.reverse()  # who came last has most time left to ask again, and wakes first
        fan = self.fan
        if fan is not None and answer is not None:
            for waiter in waiting:
                waiter.set_result(streaming(answer, self._subscription(fan, self._waiting[waiter])))
            if self.subscribers and not waiting:
                self._empty()  # all were cancelled in this very moment
        elif answer is None or (len(waiting) == 1 and not self._aboard):
            for waiter in waiting:
                waiter.set_result(answer)
        else:
            for waiter in waiting:
                waiter.set_result(copy(answer))
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

    async def _close(self) -> None:
        """The end of the task, whatever came of it. A cancellation meanwhile skips none of it."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self.fan is not None:
            self.fan.let_go()
        if self._lent is not None:
            self._tell()  # before the caller settles, whose account of it is then complete
        exchange, chain, flow = self.exchange, self.chain, self.flow
        cut: asyncio.CancelledError | None = None
        try:
            cut = await whatever(flow.end_attempt("cancelled"))
            flow.measure()
            cut = await whatever(flow.settle()) or cut
            exchange.ended_at = monotonic()
            if chain.finishes:
                cut = await whatever(chain.done(exchange)) or cut
        except Exception:  # what waits for the landing must learn of it whatever happens here
            self.snapshot.log.exception("internal error at the end of a shared call", extra={"request_id": exchange.id})
        self._gone()
        while self.riders and self._detached and self.starter.ended_at is None:  # noqa: ASYNC110 - rare; no hook to wait for
            await asyncio.sleep(0.05)  # a revalidation may be faster than the call that started it
        self._tell()
        if cut is not None:
            raise cut

    def _tell(self) -> None:
        """Those who came along learn that it is over: once."""
        riders, self.riders = self.riders, []
        for rider in riders:
            rider.landed(self.exchange)

    def _gone(self) -> None:
        self.snapshot.flights.discard(self)
        if self._landed is not None:
            self._land()

    def _land(self) -> None:
        """Nothing more comes of it: said once."""
        landed, self._landed = self._landed, None
        assert landed is not None
        try:
            landed(self)
        except Exception:  # a mistake there must not cost the callers their answer
            self.snapshot.log.exception("internal error at a landing", extra={"request_id": self.exchange.id})

    @property
    def task(self) -> asyncio.Task[Any]:
        """What the work runs in."""
        assert self._task is not None
        return self._task

    def cancel(self) -> None:
        """Give the work up; subscribers learn of it."""
        self._given_up = True
        task = self._task
        if task is None:
            return  # its starter learns of it when it begins
        if self._begun:
            task.cancel()
        else:
            asyncio.get_running_loop().call_soon(task.cancel)  # one that has not begun would end without its ending

    def _empty(self) -> None:
        """The last of those who wait has left."""
        if not (self._aboard or self._detached or self._over):
            self.cancel()
