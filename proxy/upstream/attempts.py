"""The attempt loop: which target and key are tried, in what order, until an answer can be committed.

The order of help after a failed try (rule 2): another key of the same target, then what ``retry``
says, then what ``fallback`` says. A veto excludes a key or a target and the loop asks again at
once: no try is counted. A call that waits (backoff, or a policy's Wait) has ended its attempt first,
so it holds no key, probe, budget or connection, and the wait ends when the client leaves.

Every ``on_attempt`` that returned has exactly one ``on_attempt_end``: here for what is thrown
away, in the lifecycle for the answer that is committed, which ends with its stream.
"""

from __future__ import annotations

import asyncio
from time import monotonic as now
from typing import TYPE_CHECKING, Any, Final

from proxy.errors import ProxyError
from proxy.exchange import Attempt, Target
from proxy.policy import Fallback, Retry, Verdict, Veto, Wait, called, waits
from proxy.upstream.judge import Reader, Tried, try_once

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.chain import Chain
    from proxy.exchange import AttemptOutcome
    from proxy.flow import Flow
    from proxy.policy import Decision
    from proxy.upstream.endpoint import Upstream

_KEY_FAILURES: Final = frozenset({"auth", "quota", "rate_limited"})
# A bound no sane configuration reaches: it turns a policy that always says "again" into an error.
_MOST_ROUNDS: Final = 200


async def try_alone(flow: Flow, chain: Chain, reader: Reader, upstreams: Mapping[str, Upstream]) -> Tried:
    """The one attempt of a chain in which no policy has a say about attempts. Raises ProxyError without an answer."""
    exchange = flow.exchange
    target = exchange.target
    attempt = Attempt(1, 1, target, target.upstream, now())
    exchange.attempts.append(attempt)
    exchange.served_by = flow.attempt = attempt
    tried = await try_once(exchange, attempt, upstreams[target.upstream], reader)
    verdict = tried.verdict
    if verdict.failure is not None:
        attempt.failure = verdict.failure
        attempt.retry_after = verdict.retry_after
        attempt.outcome = "failed"
        if tried.answer is None or verdict.error is not None:
            tried.discard()
            raise verdict.error or ProxyError("upstream_invalid_response", "The upstream's answer cannot be used.")
    return tried


class Attempts:
    """Runs the attempts of one call. The one whose answer goes up becomes ``flow.attempt``, still open."""

    __slots__ = (
        "_chain", "_exchange", "_excluded", "_failed_keys", "_flow", "_reader", "_retry_after", "_rounds",
        "_target", "_tries", "_upstreams", "_waited",
    )  # fmt: skip

    def __init__(self, flow: Flow, chain: Chain, reader: Reader, upstreams: Mapping[str, Upstream]) -> None:
        self._flow = flow
        self._exchange = exchange = flow.exchange
        self._chain = chain
        self._reader = reader
        self._upstreams = upstreams
        self._target = exchange.target
        self._tries = 0
        self._excluded: set[Target] = set()
        self._failed_keys: set[str] = set()
        self._retry_after: float | None = None
        self._rounds = 0
        self._waited = False

    async def run(self) -> Tried:
        """The try whose answer goes up: a good one, or the last failure that has an answer.

        Raises ProxyError when no answer came or no attempt was allowed.
        """
        chain, exchange = self._chain, self._exchange
        while True:
            said = await self._admit()
            attempt = said if isinstance(said, Attempt) else await self._begin(*said)
            while True:
                exchange.attempts.append(attempt)
                self._tries += 1
                if attempt.hedge_after is None or not self._replayable():
                    tried = await self._guarded(attempt)
                else:
                    attempt, tried = await self._race(attempt)
                try:
                    verdict = tried.verdict
                    if verdict.failure is None:
                        if chain.judges:
                            heard: Any = chain.judge(exchange, attempt, verdict)
                            if heard is not None and waits(heard):
                                await heard
                        return self._commit(attempt, tried)
                    other = await self._after(attempt, tried, verdict)
                except BaseException:
                    # The client left, or nobody helps: what this try still holds goes with it.
                    if attempt.outcome is None:
                        attempt.outcome = "cancelled"
                    if not attempt.ended:
                        await self._end(attempt, tried)
                    tried.discard()
                    raise
                if isinstance(other, Tried):
                    return other
                if other is None:
                    break
                attempt = other

    async def _after(self, attempt: Attempt, tried: Tried, verdict: Verdict) -> Tried | Attempt | None:
        """What follows a failed try: its answer, an attempt with another key, or None for a try from the start."""
        chain, exchange = self._chain, self._exchange
        self._mark(attempt, verdict)
        refused: ProxyError | None = None
        if self._may_change_key(attempt, verdict):
            # Another key is not another try of `retry`: it costs the target nothing it has refused.
            self._tries -= 1
            other = await self._other_key(attempt)
            if isinstance(other, Attempt):
                tried.discard()
                return other
            self._tries += 1
            # Where one key alone was asked, its answer says more than that no key is left.
            refused = other if len(self._failed_keys) > 1 or tried.answer is None else None
        decision = await called(chain.judge(exchange, attempt, verdict))
        if decision is None or not self._replayable():
            return await self._give_up(attempt, tried, refused)
        await self._end(attempt, tried)
        await self._follow(decision)
        return None

    # --- one attempt -----------------------------------------------------------------------------

    async def _begin(self, attempt: Attempt, veto: Veto) -> Attempt:
        """After a veto: an attempt that every policy let through. Raises ProxyError when none can be."""
        while True:
            if veto.scope == "call":
                raise veto.error
            if veto.scope == "key" and attempt.key is not None and attempt.key.id not in self._exchange.excluded_keys:
                self._exchange.excluded_keys.add(attempt.key.id)
                self._remember(veto.error)
            else:
                error = await self._target_vetoed(attempt, veto)
                if error is not None:
                    raise error
            said = await self._admit()
            if isinstance(said, Attempt):
                return said
            attempt, veto = said

    async def _admit(self) -> Attempt | tuple[Attempt, Veto]:
        """One pass through on_attempt; waits are waited for here, with everything released."""
        exchange, chain = self._exchange, self._chain
        while True:
            self._rounds += 1
            if self._rounds > _MOST_ROUNDS:
                raise ProxyError("internal_error", "The chain asked for another attempt too many times.")
            attempt = Attempt(len(exchange.attempts) + 1, self._tries + 1, self._target, self._target.upstream, now())
            said: Any
            try:
                said = chain.begin_attempt(exchange, attempt)
                if said is None:
                    return attempt
                if waits(said):
                    said = await said
            except BaseException:
                # Cancelled inside an on_attempt: those that had returned are ended, the one that had not is not.
                attempt.outcome = "cancelled"
                await called(self._chain.end_attempt(self._exchange, attempt))
                raise
            if said is None:
                return attempt
            attempt.outcome = "vetoed"
            attempt.ended_at = now()
            await called(self._chain.end_attempt(self._exchange, attempt))
            if isinstance(said, Veto):
                return attempt, said
            error = await self._wait(said)
            self._waited = True
            if error is not None:
                return attempt, Veto(said.scope, error)

    async def _wait(self, wait: Wait) -> ProxyError | None:
        try:
            async with asyncio.timeout_at(self._exchange.deadline):
                await wait.until()
        except ProxyError as error:
            return error
        except TimeoutError:
            return ProxyError("upstream_timeout", "The call's deadline passed while it waited for its turn.")
        return None

    async def _target_vetoed(self, attempt: Attempt, veto: Veto) -> ProxyError | None:
        """This target is out: another one, or the error with the earliest time at which to try again."""
        error = veto.error
        self._remember(error)
        self._excluded.add(self._target)
        verdict = Verdict(None, retry_after=error.retry_after, veto=veto, error=error)
        decision = await called(self._chain.judge(self._exchange, attempt, verdict))
        if isinstance(decision, Fallback) and decision.target not in self._excluded and self._replayable():
            self._switch(decision.target)
            return None
        if isinstance(decision, Retry):
            self._excluded.discard(self._target)
            await self._sleep(decision.delay)
            return None
        error.retry_after = self._retry_after
        return error

    def _remember(self, error: ProxyError) -> None:
        """Of all vetoes the earliest time at which to try again is told."""
        after = error.retry_after
        if after is not None and (self._retry_after is None or after < self._retry_after):
            self._retry_after = after

    async def _race(self, attempt: Attempt) -> tuple[Attempt, Tried]:
        """Send with a hedge: the attempt that comes back may be another one."""
        from proxy.upstream.race import race  # noqa: PLC0415 - only chains with hedge pay for it

        return await race(self._chain, self._exchange, attempt, self._guarded, self._second)

    async def _guarded(self, attempt: Attempt) -> Tried:
        """Send; an attempt that is cancelled or breaks is ended here."""
        try:
            return await try_once(self._exchange, attempt, self._upstreams[attempt.upstream], self._reader)
        except asyncio.CancelledError:
            if attempt.outcome is None:
                attempt.outcome = "cancelled"
            attempt.ended_at = now()
            await called(self._chain.end_attempt(self._exchange, attempt))
            raise
        except BaseException:
            attempt.outcome = "failed"
            await called(self._chain.end_attempt(self._exchange, attempt))
            raise

    async def _second(self, first: Attempt) -> Attempt | None:
        """The hedge of a running attempt: to another key or target where there is one; None when vetoed."""
        excluded = self._exchange.excluded_keys
        other = first.key.id if first.key is not None and first.key.id not in excluded else None
        if other is None:
            return await self._second_with(first)
        excluded.add(other)
        try:
            attempt = await self._second_with(first)
        finally:
            excluded.discard(other)
        # The only key there is may still lead to another machine of the provider.
        return attempt or await self._second_with(first)

    async def _second_with(self, first: Attempt) -> Attempt | None:
        target = first.hedge_target or self._target
        attempt = Attempt(len(self._exchange.attempts) + 1, self._tries, target, target.upstream, now())
        attempt.hedge_of = first
        said: Veto | Wait | None
        try:
            said = await called(self._chain.begin_attempt(self._exchange, attempt))
        except BaseException:
            attempt.outcome = "cancelled"
            await called(self._chain.end_attempt(self._exchange, attempt))
            raise
        if said is not None:
            await self._veto(attempt)
            return None
        self._exchange.attempts.append(attempt)
        return attempt

    # --- after a failed try ----------------------------------------------------------------------

    def _mark(self, attempt: Attempt, verdict: Verdict) -> None:
        attempt.failure = verdict.failure
        attempt.retry_after = verdict.retry_after
        outcome: AttemptOutcome = "failed"
        if verdict.failure == "truncated":
            outcome = "truncated"
        elif verdict.failure == "stalled":
            outcome = "stalled"
        attempt.outcome = outcome

    def _may_change_key(self, attempt: Attempt, verdict: Verdict) -> bool:
        if verdict.failure not in _KEY_FAILURES or attempt.key is None or not self._replayable():
            return False
        return attempt.key.id not in self._failed_keys

    async def _other_key(self, attempt: Attempt) -> Attempt | ProxyError:
        """An attempt on the same target with a key that has not failed in this call, admitted at once; or why not.

        A key that was refused (401, 402, 403) is out for the whole call. A rate-limited one may come back,
        but only after a policy has waited for it: the ring's cooldown decides, not this loop.
        """
        exchange = self._exchange
        assert attempt.key is not None
        self._failed_keys.add(attempt.key.id)
        if attempt.failure != "rate_limited":
            exchange.excluded_keys.add(attempt.key.id)
        await self._end(attempt, None)
        passed_over: set[str] = set()
        self._waited = False
        try:
            while True:
                said = await self._admit()
                if not isinstance(said, Attempt):
                    vetoed, veto = said
                    key = vetoed.key
                    if veto.scope != "key" or key is None or key.id in exchange.excluded_keys:
                        return veto.error
                    exchange.excluded_keys.add(key.id)
                    continue
                if self._waited or said.key is None or said.key.id not in self._failed_keys:
                    return said
                if said.key.id in passed_over:
                    await self._veto(said)
                    return ProxyError("no_key_available", "Every key of this upstream has refused the call.")
                passed_over.add(said.key.id)
                exchange.excluded_keys.add(said.key.id)
                await self._veto(said)
        finally:
            exchange.excluded_keys -= passed_over

    async def _veto(self, attempt: Attempt) -> None:
        attempt.outcome = "vetoed"
        await self._end(attempt, None)

    async def _follow(self, decision: Decision) -> None:
        if isinstance(decision, Retry):
            self._failed_keys.clear()
            await self._sleep(decision.delay)
        else:
            self._switch(decision.target)

    def _switch(self, target: Target) -> None:
        self._target = target
        self._exchange.target = target
        self._tries = 0
        self._failed_keys.clear()

    async def _sleep(self, seconds: float) -> None:
        deadline = self._exchange.deadline
        if deadline is not None and now() + seconds >= deadline:
            raise ProxyError("upstream_timeout", "The call's deadline leaves no time for another try.")
        await asyncio.sleep(seconds)

    async def _end(self, attempt: Attempt, tried: Tried | None) -> None:
        """Throw an attempt away."""
        if tried is not None:
            tried.discard()
        attempt.ended_at = now()
        await called(self._chain.end_attempt(self._exchange, attempt))

    async def _give_up(self, attempt: Attempt, tried: Tried, refused: ProxyError | None) -> Tried:
        """Nobody helps. All keys out: the last veto's error; else the upstream's own error unchanged, else ours."""
        verdict = tried.verdict
        if refused is not None:
            await self._end(attempt, tried)
            if refused.code == "no_key_available" and refused.retry_after is None and refused.should_retry is None:
                refused.retry_after = self._retry_after or 1.0  # the keys are back at once, or at an unknown time
            if refused.code == "no_key_available" and verdict.status is not None:
                refused.message += f" To the last one the upstream answered {verdict.status}."
            raise refused
        if tried.answer is not None and (verdict.error is None or verdict.failure is None):
            return self._commit(attempt, tried)
        await self._end(attempt, tried)
        error = verdict.error or ProxyError("upstream_invalid_response", "The upstream's answer cannot be used.")
        if len(self._exchange.attempts) > 1:
            error.should_retry = False
        raise error

    def _commit(self, attempt: Attempt, tried: Tried) -> Tried:
        self._flow.attempt = attempt
        self._exchange.served_by = attempt
        return tried

    def _replayable(self) -> bool:
        """A streamed request body can be sent once only."""
        return self._exchange.request.stream is None
