"""The parts of one call that are not the exchange's: what came back, and what must be ended.

A caller and a flight (``proxy.flight``) go the same way, so it stands here once.
"""

from __future__ import annotations

from collections.abc import Awaitable
from time import monotonic as now
from typing import TYPE_CHECKING, Any

from proxy.accounting.usage import Usage, answers, estimate_tokens_from_size
from proxy.dialects.counts import greater
from proxy.dialects.paid import works
from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.lockstep import NEXT_TURN
from proxy.policy import called
from proxy.upstream import classify
from proxy.upstream.attempts import Attempts, try_alone
from proxy.upstream.judge import estimate
from proxy.upstream.transport import TransportError

if TYPE_CHECKING:
    import asyncio

    from proxy.below import Below
    from proxy.chain import Chain
    from proxy.exchange import Attempt, AttemptOutcome, Exchange, FailureClass, Outcome
    from proxy.policy import Later
    from proxy.snapshot import Snapshot
    from proxy.stream.pipe import End, Pipe


class Flow:
    """One way down and up a chain."""

    __slots__ = ("answer", "attempt", "carries", "chain", "exchange", "over", "pipe", "quiet", "settled", "snapshot")

    def __init__(self, snapshot: Snapshot, exchange: Exchange) -> None:
        self.snapshot = snapshot
        self.exchange = exchange
        self.chain: Chain | None = None
        self.answer: Answer | None = None
        self.pipe: Pipe | None = None
        self.settled = False
        self.quiet = False  # what is left of the call no policy sees
        self.over = False  # nothing is left of it but the exchange
        self.attempt: Attempt | None = None  # the committed one, open until its answer is over
        self.carries: Below | None = None  # others may join what this call does

    def left(self, task: asyncio.Task[Any]) -> bool:
        """The client has left. False: the call's task is to be cancelled. True: it goes on for others, who wait for
        the same answer, and ends as cancelled with it."""
        return self.carries is not None and self.carries.left(task)

    # --- 4 and 5: going down -----------------------------------------------------------------------

    async def down(self, chain: Chain) -> Answer:
        """Through the request policies to an upstream. The Answer may still be streaming. Raises ProxyError."""
        self.chain = chain
        exchange = self.exchange
        if chain.asks or exchange.timings is not None:
            said = chain.down(exchange)
            answer = said if said is None or isinstance(said, Answer) else await said
            if answer is not None:
                return answer
        else:
            exchange.entered = chain.end
        if chain.steps and chain.asked.crowded(self.snapshot.in_flight):
            await NEXT_TURN
        if exchange.own_answer is not None:
            return await exchange.own_answer(exchange)
        if chain.split is not None:
            below = self.snapshot.below(self, chain)
            try:
                flown: Any = chain.fly(exchange, below)
                if flown is not None and not isinstance(flown, Answer):
                    flown = await flown
            except ProxyError:
                raise
            except Exception as error:
                chain.fall(exchange, error)
                # What it has begun may have left its marks: then the work is done apart from this call.
                flown = await below.start().join(exchange) if exchange.flight_of is not None else None
            if flown is not None:
                self.answer = flown
                return self.answer
            assert chain.below is not None and chain.through is not None
            lower, self.chain = chain.below, chain.through
            chain = chain.through
            if lower.asks or exchange.timings is not None:
                said = lower.down(exchange)
                answer = said if said is None or isinstance(said, Answer) else await said
                if answer is not None:
                    return answer if answer.source is None or self.carries is None else await self.carries.part(answer)
            else:
                exchange.entered = lower.end
        snapshot = self.snapshot
        total = snapshot.upstreams[exchange.target.upstream].total
        if total is not None:
            # The bound is on the call, all tries included; every attempt is given what is left of it.
            until = exchange.started_at + total
            exchange.deadline = until if exchange.deadline is None else min(until, exchange.deadline)
        if chain.attempts or chain.late_commit:
            attempts = Attempts(self, chain, snapshot.reader(chain), snapshot.upstreams)
            tried = await attempts.run()
        else:
            tried = await try_alone(self, chain, snapshot.reader(chain), snapshot.upstreams)
            self.quiet = not (chain.answers or chain.settles or chain.finishes or chain.needs_usage)
        self.pipe = tried.pipe
        self.answer = answer = tried.answer
        assert answer is not None
        if answer.source is not None and self.carries is not None:
            return await self.carries.part(answer)
        return answer

    # --- 6: going up -------------------------------------------------------------------------------

    def up_whole(self, answer: Answer) -> Later[Answer]:
        """A whole answer: its attempt is over, the policies edit it."""
        if self.attempt is not None:
            wait = self.end_attempt("answered" if answer.status < 400 else "failed")
            if wait is not None:
                return self._up_after(wait, answer)
            self.measure()
        chain = self.chain
        assert chain is not None
        return chain.up(self.exchange, answer) if chain.answers else answer

    async def _up_after(self, wait: Awaitable[None], answer: Answer) -> Answer:
        await wait
        said = self.up_whole(answer)
        return said if isinstance(said, Answer) else await said

    @property
    def before_up(self) -> bool:
        """Whether to await the next turn with others (``lockstep``) before an answer goes up."""
        chain = self.chain
        return chain is not None and self.attempt is not None and chain.answered.crowded(self.snapshot.in_flight)

    @property
    def before_settling(self) -> bool:
        """The same before the call is settled."""
        chain = self.chain
        return chain is not None and chain.settles and chain.edited.crowded(self.snapshot.in_flight)

    # --- 7: the end --------------------------------------------------------------------------------

    def settle(self) -> Awaitable[None] | None:
        """Run on_settle, once whatever happens. None: nothing has to be waited for."""
        if self.settled:
            return None
        self.settled = True
        if self.chain is not None and self.chain.settles:
            return self.chain.settle(self.exchange)
        return None

    def end_attempt(self, outcome: AttemptOutcome) -> Awaitable[None] | None:
        """The committed attempt is over. None: nothing has to be waited for."""
        attempt, chain = self.attempt, self.chain
        if attempt is None or attempt.ended:
            return None
        assert chain is not None
        if not chain.attempts:
            self.end_alone(outcome)
            return None
        self._over(attempt, outcome)
        return chain.end_attempt(self.exchange, attempt)

    def end_alone(self, outcome: AttemptOutcome) -> None:
        """The same where no policy sees attempts."""
        attempt = self.attempt
        if attempt is not None and not attempt.ended:
            self._over(attempt, outcome)
            attempt.ended = True

    def _over(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        if attempt.outcome is None:
            attempt.outcome = outcome
        if self.chain is not None and self.chain.needs_usage:
            self._count(attempt)
        attempt.ended_at = now()

    def _count(self, attempt: Attempt) -> None:
        """The attempt's usage: the provider's word, else an estimate of what was sent and received. What a provider
        had counted of a stream that was cut is behind what it had sent: of the two the greater output stands."""
        pipe, request = self.pipe, self.exchange.request
        if request.method != "POST" and request.upgrade is None:
            attempt.usage = None  # what is only read was paid when it was made
            return
        if pipe is not None and pipe.usage is not None:
            streamed = Usage(output=estimate_tokens_from_size(pipe.chars), estimated=True)
            attempt.usage = pipe.usage if pipe.counted else greater(pipe.usage, streamed)
        if attempt.usage is None:
            if not answers(attempt.status) or not attempt.sent or request.body is None:
                return
            if not works(request.method, request.path):
                return
            attempt.usage = estimate(self.exchange, attempt, pipe.chars if pipe is not None else attempt.received_bytes)
            if self.exchange.dialect is not None and self.exchange.dialect.operation == "embeddings":
                attempt.usage.output = 0  # vectors are no tokens
        if pipe is not None and pipe.service:
            attempt.usage.service = pipe.service

    def measure(self) -> None:
        """The call's usage is that of the attempt that served it."""
        served = self.exchange.served_by
        if served is not None and served.usage is not None and self.exchange.flight_of is None:
            self.exchange.usage = served.usage

    async def end_stream(self, end: End) -> ProxyError | None:
        """What the end of a stream means for the attempt, the call and the client."""
        exchange = self.exchange
        error: ProxyError | None = end.error
        outcome: AttemptOutcome = "answered"
        exchange.outcome = "answered"
        attempt = exchange.served_by
        if end.reason == "stopped":
            outcome = "stopped"
            exchange.outcome = "refused"
        elif end.reason != "finished":
            exchange.outcome = "truncated" if end.reason == "truncated" else "failed"
            outcome = "truncated" if end.reason == "truncated" else "failed"
            if isinstance(end.cause, TransportError):
                failure, error = classify.from_exception(end.cause, attempt.upstream if attempt is not None else "")
                if failure == "stalled":
                    outcome = "stalled"
                if attempt is not None:
                    attempt.failure = failure
            elif isinstance(end.cause, ProxyError):
                # A stream that is shared was ended for a reason of ours, which the attempt below knows already.
                error = end.cause
                exchange.outcome = _ended(error)
                if error.code == "draining":
                    outcome, exchange.outcome = "cancelled", "truncated"
            else:
                error = ProxyError(
                    "upstream_invalid_response", "The upstream ended its stream before the answer was complete."
                )
                if attempt is not None:
                    attempt.failure = "truncated" if end.reason == "truncated" else "invalid_response"
        if error is not None:
            exchange.error = error
        await called(self.end_attempt(outcome))
        self.measure()
        return error

    async def end_plain(self, answer: Answer, failure: Exception | None) -> None:
        """The same for bytes that nobody reads, and settled. failure: why they broke off, None when they did not."""
        exchange = self.exchange
        if failure is None:
            exchange.outcome = outcome_of(answer)
            await called(self.end_attempt("answered" if answer.status < 400 else "failed"))
        else:
            exchange.outcome = "truncated"
            outcome: AttemptOutcome = "truncated"
            kind: FailureClass | None = None
            if isinstance(failure, TransportError):
                served = exchange.served_by
                kind, exchange.error = classify.from_exception(failure, served.upstream if served is not None else "")
                if kind == "stalled":
                    outcome = "stalled"
            elif isinstance(failure, ProxyError):
                exchange.error = failure
                if failure.code == "draining":
                    outcome = "cancelled"
                else:
                    exchange.outcome = _ended(failure)
            if exchange.served_by is not None and self.attempt is not None:
                exchange.served_by.failure = kind
            await called(self.end_attempt(outcome))
        self.measure()
        await called(self.settle())


def outcome_of(answer: Answer) -> Outcome:
    """What a whole answer makes of its call. A redirect leads to an answer and is none; 304 says that the client has
    it. Neither is held against the upstream."""
    if answer.error is not None:
        return _ended(answer.error)
    return "answered" if answer.status < 300 or answer.status == 304 else "failed"


def _ended(error: ProxyError) -> Outcome:
    return "failed" if error.kind.fault == "upstream" or error.code == "draining" else "refused"
