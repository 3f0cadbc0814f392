"""A chain, compiled at load: for each phase (``proxy.phase``) the policies that have it, in the order they are called.

Requests go down the list, answers and events come back up it through exactly those policies that
were entered above the place where the answer arose. A policy whose ``when`` does not hold is not
entered for that call: its bit is set in ``exchange.skipped`` and every phase passes it by.

One policy may split the chain (``cache``): what stands below it becomes a chain of its own (``below``), run by a
flight (``proxy.flight``) or by the caller itself, who then goes back up the whole chain in one piece (``through``).
Policies are numbered through all of them, so that what an exchange says of those that were entered and skipped stays
true on either side of the split.

A hook is a plain function or a coroutine function: only what is awaitable is awaited. Most hooks wait for nothing, and
a chain of ten policies calls thirty of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from copy import copy
from functools import partial
from itertools import chain as following
from itertools import groupby
from math import inf
from typing import TYPE_CHECKING, Any

from proxy.asking import ask, ask_together
from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.lockstep import COMPANY, LONG, Border
from proxy.phase import Entry, Phase, told
from proxy.policy import Decision, Fallback, Later, Policy, Retry, Stage, Verdict, Veto, Wait, called, waits
from proxy.seen import SeenBodies
from proxy.step import Guarded, Step, broken, log_failure

if TYPE_CHECKING:
    from proxy.below import Below
    from proxy.exchange import Attempt, Exchange, Origin

__all__ = ["Chain", "Step", "refuse"]


def _has(policy: Policy, phase: str) -> bool:
    return getattr(type(policy), phase) is not getattr(Policy, phase) and phase not in policy.unused


class Chain:
    """The compiled chain. ``steps`` in YAML order, numbered from ``first`` to ``end - 1``; ``below`` what stands below
    a split, and ``through`` the way up from there for a caller who goes down itself; else None. digest: of what the
    policies there do to a call; conditions: which of theirs hold for it. whole: how many policies the chain has of
    which this is the lower part."""

    def __init__(
        self,
        name: str,
        steps: Sequence[Step],
        *,
        digest: str = "",
        conditions: Callable[[Exchange], str] | None = None,
        first: int = 0,
        whole: int = 0,
    ) -> None:
        self.name = name
        self.digest = digest
        self.conditions = conditions
        self.all_steps = tuple(steps)
        split = next((i for i, step in enumerate(steps) if step.policy.splits), None)
        self.split: Step | None = None if split is None else steps[split]
        self.steps = tuple(steps if split is None else steps[: split + 1])
        self.first, self.end = first, first + len(self.steps)
        self._least = COMPANY if max(whole, len(steps)) >= LONG else inf

        # Going down: (index, condition, hook, step), where a policy has a condition or the hook.
        self._request = [
            (i, step.when, step.policy.on_request if _has(step.policy, "on_request") else None, step)
            for i, step in enumerate(self.steps, first)
            if _has(step.policy, "on_request") or step.when is not None
        ]
        # The same where none has a condition.
        self._ask = None if any(when for _, when, _, _ in self._request) else self._phase("on_request")
        self._attempt = self._phase("on_attempt")
        self._result = self._phase("on_result", up=True)
        self._attempt_end = self._phase("on_attempt_end", up=True)
        self._usage = self._phase("on_usage", up=True)
        self._response = self._phase("on_response", up=True)
        self._stream = self._phase("open_stream", up=True)
        self._settle = self._phase("on_settle", up=True)
        self._done = self._phase("on_done", up=True)
        # A body that comes again is what a cache is for; without one, remembering costs more than it saves.
        judging = any(step.policy.body_alone and _has(step.policy, "on_request") for step in self.steps)
        self._seen = SeenBodies() if self.split is not None and judging else None
        self.edits_request = any(p.edits_request for p in self.policies)
        self.needs_usage = any(p.needs_usage for p in self.policies)
        self.late_commit = any(p.late_commit for p in self.policies)
        self.selects_key = any(p.selects_key for p in self.policies)
        self._sum_up()
        self.below: Chain | None = None
        self.through: Chain | None = None
        if split is not None:
            self.below = below = Chain(name, steps[split + 1 :], digest=digest, first=self.end, whole=len(steps))
            below.needs_usage = self.needs_usage  # what stands above a split counts, too
            self.through = self._up_from(below)
            step = steps[split]
            self.fly = step.policy.on_flight if step.when is None else partial(self._fly_unless_skipped, step.policy)

    def _sum_up(self) -> None:
        """What the flow need not even ask: a chain pays only for the phases it has."""
        # Where all calls on this chain have been asked about, answered, edited: borders of its stages.
        self.asked, self.answered, self.edited = Border(self._least), Border(self._least), Border(self._least)
        self.asks = bool(self._request)
        self.answers = bool(self._response)
        self.finishes = bool(self._done)
        self.settles = bool(self._settle)
        self.attempts = bool(self._attempt or self._result or self._attempt_end)
        self.judges = bool(self._result)
        self.opens_streams = bool(self._stream)
        self.reads_answer = any(step.policy.reads_answer for _, _, step in self._response.entries)

    def _up_from(self, below: Chain) -> Chain:
        """The chain of one who goes through the split: attempts are the lower part's, the way up is everybody's."""
        whole = copy(below)
        whole.all_steps = whole.steps = self.all_steps
        whole.first = self.first
        step = self.split
        assert step is not None
        landing = [(self.end - 1, step.policy.on_landing, step)] if _has(step.policy, "on_landing") else []
        whole._response = Phase([*below._response.entries, *landing, *self._response.entries])
        whole._stream = Phase([*below._stream.entries, *self._stream.entries])
        whole._settle = Phase([*below._settle.entries, *self._settle.entries])
        whole._done = Phase([*below._done.entries, *self._done.entries])
        whole._sum_up()
        return whole

    def _phase(self, phase: str, *, up: bool = False) -> Phase:
        """up: the innermost policy first."""
        steps = enumerate(self.steps, self.first)
        found = [(i, getattr(step.policy, phase), step) for i, step in steps if _has(step.policy, phase)]
        return Phase(found[::-1] if up else found)

    @property
    def policies(self) -> list[Policy]:
        """Every policy, those below a split included."""
        return [step.policy for step in self.all_steps]

    def find(self, name: str) -> Policy | None:
        """The first policy of this name."""
        return next((policy for policy in self.policies if policy.name == name), None)

    # --- going down ----------------------------------------------------------------------------
    #
    # Every phase has two loops: a plain one for hooks that answer at once, and a coroutine that takes over with the
    # first hook that has to be waited for or that raised (which is then awaited, too: see _raising).

    def down(self, exchange: Exchange) -> Later[Answer | None]:
        """Run the request phase. An Answer when a policy answered at once; ``exchange.entered`` is then the number of
        policies above it. Awaiting it raises ProxyError when one refused."""
        if exchange.timings is not None:
            return self._down(exchange, self._request)
        seen = None
        if self._seen is not None:
            exchange.seen = seen = self._seen.of(exchange)
        if seen is None and self._ask is not None:
            return self._ask_all(exchange, self._ask)
        left = iter(self._request)
        for index, when, hook, step in left:
            exchange.entered = index
            if when is not None and not when(exchange):
                exchange.skipped |= 1 << index
                continue
            if hook is None or (
                seen is not None and step.policy.body_alone and step.policy in seen.passed and exchange.unedited
            ):
                continue
            said: Any
            try:
                said = hook(exchange)
            except Exception as error:
                said = _raising(error)
            if said is not None:
                if waits(said):
                    return self._down(exchange, following([(index, None, told(said), step)], left))
                return said  # type: ignore[no-any-return]
        exchange.entered = self.end
        return None

    def _ask_all(self, exchange: Exchange, phase: Phase) -> Later[Answer | None]:
        """The usual call: no policy has a condition, and nothing is known of the body."""
        left = iter(phase.hooks)
        said: Any
        try:
            for hook in left:
                said = hook(exchange)
                if said is not None:
                    break
            else:
                exchange.entered = self.end
                return None
        except Exception as error:
            said = _raising(error)
        exchange.entered = phase.called(left)[0]
        if waits(said):
            return self._down(exchange, ((index, None, hook, step) for index, hook, step in phase.rest(left, said)))
        return said  # type: ignore[no-any-return]

    async def _down(self, exchange: Exchange, left: Iterable[tuple[int, Any, Any, Step]]) -> Answer | None:
        timings = exchange.timings
        seen = exchange.seen
        if timings is not None:
            for one in self.all_steps:
                timings.setdefault(one.label, 0.0)
        for index, when, hook, step in left:
            exchange.entered = index
            if when is not None and not when(exchange):
                exchange.skipped |= 1 << index
                continue
            if hook is None or (seen is not None and step.policy in seen.passed and exchange.unedited):
                continue
            try:
                said: Any = hook(exchange) if timings is None else _timed(timings, step.label, hook, exchange)
                answer: Answer | None = await said if said is not None and waits(said) else said
            except ProxyError as error:
                error.policy = error.policy or step.label
                raise
            except Exception as error:
                broken(step, "on_request", error, exchange)
                continue
            if answer is not None:
                return answer
        exchange.entered = self.end
        return None

    fly: Callable[[Exchange, Below], Later[Answer | None]]
    """Ask the policy that splits the chain. None: the call goes on through what stands below. What it raises, and what
    awaiting it raises, goes to ``fall`` unless it is a ProxyError."""

    def _fly_unless_skipped(self, policy: Policy, exchange: Exchange, below: Below) -> Later[Answer | None]:
        return None if exchange.skipped >> (self.end - 1) & 1 else policy.on_flight(exchange, below)

    def came_again(self, exchange: Exchange) -> None:
        """The answer of this call was found: its body is worth remembering (``proxy.seen``)."""
        if self._seen is not None:
            self._seen.came_again(exchange)

    def fall(self, exchange: Exchange, error: Exception) -> None:
        """That policy broke. Raises ProxyError when it is closed; when it is open, the work below is to be done as if
        it were not there."""
        assert self.split is not None
        broken(self.split, "on_flight", error, exchange)

    # --- around one attempt --------------------------------------------------------------------

    def begin_attempt(self, exchange: Exchange, attempt: Attempt) -> Later[Veto | Wait | None]:
        """Run on_attempt from the outside in, some side by side (``asking``). ``attempt.entered`` counts those that
        returned, but for the bits in ``attempt.broken``."""
        phase = self._attempt
        if exchange.skipped:
            phase = phase.of(self.end, exchange.skipped)
        if exchange.timings is not None:
            return self._begin_attempt(exchange, attempt, phase.entries)
        left = iter(phase.hooks)
        said: Any
        try:
            for hook in left:
                said = hook(exchange, attempt)
                if said is not None:
                    break
            else:
                attempt.entered = self.end
                return None
        except Exception as error:
            said = _raising(error)
        attempt.entered = phase.called(left)[0]
        return self._begin_attempt(exchange, attempt, phase.rest(left, said))

    async def _begin_attempt(self, exchange: Exchange, attempt: Attempt, left: Iterable[Entry]) -> Veto | Wait | None:
        entries, timings = list(left), exchange.timings
        if timings is not None:
            entries = [(index, partial(_timed, timings, step.label, hook), step) for index, hook, step in entries]
        for alongside, group in groupby(entries, lambda entry: entry[2].policy.alongside):
            together = list(group)
            if alongside and len(together) > 1:
                said = await ask_together(together, exchange, attempt)
                if said is not None:
                    return said
                continue
            for entry in together:
                said = await ask(entry, exchange, attempt)
                if not attempt.broken >> entry[0] & 1:
                    attempt.entered = entry[0] + 1
                if said is not None:
                    return said
        attempt.entered = self.end
        return None

    def judge(self, exchange: Exchange, attempt: Attempt, verdict: Verdict) -> Later[Decision | None]:
        """Ask on_result, innermost first: the first decision, but a Retry before a Fallback (rule 2), however the
        chain orders the two."""
        phase = self._result
        if exchange.skipped:
            phase = phase.of(self.end, exchange.skipped)
        left = iter(phase.hooks)
        decision: Decision | None = None
        while True:
            try:
                for hook in left:
                    said = hook(exchange, attempt, verdict)
                    if said is not None:
                        if waits(said):
                            return self._judge(exchange, attempt, verdict, phase.rest(left, said), decision)
                        decision = _sooner(decision, said)
                return decision
            except Exception as error:
                log_failure(phase.called(left)[2], "on_result", error, exchange)

    async def _judge(
        self,
        exchange: Exchange,
        attempt: Attempt,
        verdict: Verdict,
        left: Iterable[Entry],
        decision: Decision | None,
    ) -> Decision | None:
        for _, hook, step in left:
            try:
                decision = _sooner(decision, await called(hook(exchange, attempt, verdict)))
            except Exception as error:
                log_failure(step, "on_result", error, exchange)
        return decision

    def end_attempt(self, exchange: Exchange, attempt: Attempt) -> Awaitable[None] | None:
        """Run on_attempt_end for every policy whose on_attempt returned: exactly once, innermost first. A call that
        is cancelled meanwhile still runs the rest. None: nothing has to be waited for."""
        if attempt.ended:
            return None
        attempt.ended = True
        phase, skipped = self._attempt_end, exchange.skipped | attempt.broken
        if skipped or attempt.entered <= phase.last:
            phase = phase.of(attempt.entered, skipped)
        left = iter(phase.hooks)
        while True:
            try:
                for hook in left:
                    said = hook(exchange, attempt)
                    if said is not None:
                        return self._wait_each(phase.rest(left, said), "on_attempt_end", exchange, attempt)
                return None
            except Exception as error:
                log_failure(phase.called(left)[2], "on_attempt_end", error, exchange)

    def used(self, exchange: Exchange, attempt: Attempt) -> ProxyError | None:
        """Run on_usage, innermost first. An error: the session has to end."""
        phase = self._usage.of(attempt.entered, exchange.skipped | attempt.broken)
        ends: ProxyError | None = None
        for _, hook, step in phase.entries:
            try:
                said: ProxyError | None = hook(exchange, attempt)
            except Exception as error:
                log_failure(step, "on_usage", error, exchange)
                continue
            if said is not None and ends is None:
                said.policy = said.policy or step.label
                ends = said
        return ends

    # --- going up ------------------------------------------------------------------------------

    def up(self, exchange: Exchange, answer: Answer) -> Later[Answer]:
        """Run on_response for a whole answer through the policies entered. A refusal on the way up
        becomes the answer for those above."""
        phase = self._response
        if exchange.skipped or exchange.entered <= phase.last:
            phase = phase.of(exchange.entered, exchange.skipped)
        if exchange.timings is not None:
            return self._up(exchange, answer, phase.entries)
        left = iter(phase.hooks)
        try:
            for hook in left:
                changed = hook(exchange, answer)
                if changed is not None:
                    if waits(changed):
                        return self._up(exchange, answer, phase.rest(left, changed))
                    answer = changed
        except Exception as error:
            return self._up(exchange, answer, phase.rest(left, _raising(error)))
        return answer

    async def _up(self, exchange: Exchange, answer: Answer, left: Iterable[Entry]) -> Answer:
        timings = exchange.timings
        for _, hook, step in left:
            try:
                changed: Any
                if timings is None:
                    changed = hook(exchange, answer)
                else:
                    changed = _timed(timings, step.label, hook, exchange, answer)
                if changed is not None and waits(changed):
                    changed = await changed
            except ProxyError as error:
                error.policy = error.policy or step.label
                answer = refuse(exchange, error)
                continue
            except Exception as error:
                try:
                    broken(step, "on_response", error, exchange)
                except ProxyError as refused:
                    answer = refuse(exchange, refused)
                continue
            if changed is not None:
                answer = changed
        return answer

    def open_stages(self, exchange: Exchange, answer: Answer) -> list[Stage]:
        """The stages that this call's stream needs, innermost first. Raises ProxyError when one refuses."""
        phase = self._stream
        if exchange.skipped or exchange.entered <= phase.last:
            phase = phase.of(exchange.entered, exchange.skipped)
        stages: list[Stage] = []
        for _, hook, step in phase.entries:
            try:
                stage = hook(exchange, answer)
            except ProxyError as error:
                error.policy = error.policy or step.label
                raise
            except Exception as error:
                broken(step, "open_stream", error, exchange)
                continue
            if stage is not None:
                stages.append(Guarded(stage, step, exchange))
        return stages

    # --- the end -------------------------------------------------------------------------------

    def settle(self, exchange: Exchange) -> Awaitable[None] | None:
        """Run on_settle through the policies entered. None: nothing has to be waited for."""
        return self._each(self._settle, "on_settle", exchange)

    def done(self, exchange: Exchange) -> Awaitable[None] | None:
        """Run on_done through the policies entered. None: nothing has to be waited for."""
        return self._each(self._done, "on_done", exchange)

    def _each(self, phase: Phase, name: str, exchange: Exchange) -> Awaitable[None] | None:
        """Run what has no say any more: all of it, whatever breaks or is cancelled."""
        if exchange.skipped or exchange.entered <= phase.last:
            phase = phase.of(exchange.entered, exchange.skipped)
        left = iter(phase.hooks)
        while True:
            try:
                for hook in left:
                    said = hook(exchange)
                    if said is not None:
                        return self._wait_each(phase.rest(left, said), name, exchange)
                return None
            except Exception as error:
                log_failure(phase.called(left)[2], name, error, exchange)

    async def _wait_each(self, left: Iterable[Entry], name: str, exchange: Exchange, *args: Any) -> None:
        cancelled: asyncio.CancelledError | None = None
        for _, hook, step in left:
            try:
                said = hook(exchange, *args)
                if said is not None:
                    await said
            except asyncio.CancelledError as error:
                cancelled = error  # the client left in this very moment: the others still get theirs
            except Exception as error:
                log_failure(step, name, error, exchange)
        if cancelled is not None:
            raise cancelled


def _sooner(decision: Decision | None, said: Decision | None) -> Decision | None:
    """The first decision stands, but for a Fallback when another policy says Retry."""
    retries = isinstance(decision, Fallback) and isinstance(said, Retry)
    return said if decision is None or retries else decision


async def _raising(error: Exception) -> Any:
    """What a plain hook raised, as an awaitable: handled where a coroutine's error is."""
    raise error


async def _timed(timings: dict[str, float], label: str, hook: Callable[..., Any], *args: Any) -> Any:
    """Call ``hook``, await what it gives, and add the seconds to the policy's entry: only for calls that asked with
    x-sidecar-debug."""
    began = time.perf_counter()
    try:
        said = hook(*args)
        return await said if said is not None and waits(said) else said
    finally:
        timings[label] = timings.get(label, 0.0) + time.perf_counter() - began


def refuse(exchange: Exchange, error: ProxyError) -> Answer:
    """Our own error as an answer in the client's dialect."""
    dialect = exchange.dialect
    assert dialect is not None
    exchange.error = error
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, -int(-error.retry_after // 1))))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    if error.policy is not None:
        headers.append((b"x-sidecar-policy", error.policy.encode()))
    headers.extend(error.headers)
    origin: Origin = "policy" if error.policy else "sidecar"
    return Answer(error.status, headers, origin=origin, raw=dialect.error(error), error=error)
