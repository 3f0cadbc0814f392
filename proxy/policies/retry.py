"""retry: the same target again, later, when the failure may pass by itself."""

from __future__ import annotations

import random
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import Field, model_validator

from proxy.config.units import Duration, DurationOrNone, PositiveDuration, Ratio
from proxy.failures import CauseList, Causes
from proxy.policy import Policy, PolicyOptions, Retry, Verdict
from proxy.recent import Recent

if TYPE_CHECKING:
    from proxy.exchange import Answer, Attempt, Exchange
    from proxy.services import Services

WINDOW: Final = 10
"""Seconds over which retries are held against calls."""
FREE: Final = 10
"""Retries in ``WINDOW`` that need no calls to stand against: an idle proxy still retries."""

DEFAULT_ON: Final = (
    "unreachable",
    "timeout",
    "stalled",
    "truncated",
    "invalid_response",
    "conflict",
    "rate_limited",
    "server_error",
    "overloaded",
)


class Backoff(PolicyOptions):
    """How long to wait before the next try: a random time between 0 and ``initial * 2 ** (tries - 1)``."""

    initial: PositiveDuration = Field(
        default=0.25, description="Longest wait before the second try; doubles with each try."
    )
    max: PositiveDuration = Field(default=8.0, description="No wait is longer, however many tries there were.")

    @model_validator(mode="after")
    def _ordered(self) -> Backoff:
        if self.max < self.initial:
            raise ValueError(f"max ({self.max:g}s) must not be below initial ({self.initial:g}s)")
        return self


class RetryOptions(PolicyOptions):
    """Options of ``retry``."""

    attempts: int = Field(default=3, ge=1, le=20, description="Requests sent to each target, the first one included.")
    backoff: Backoff = Field(default=Backoff(), description="Waits between tries, exponential with full jitter.")
    on: CauseList = Field(
        default=DEFAULT_ON,
        description="Failures that are worth another try: classes (unreachable, timeout, stalled, truncated, "
        "invalid_response, conflict, rate_limited, server_error, overloaded, ...) and statuses (429, 5xx).",
    )
    max_retry_ratio: Ratio = Field(
        default=0.2,
        description="Retries of the last 10 s stay under this share of the calls of the last 10 s, plus 10, so that "
        "an outage is not multiplied.",
    )
    max_retry_after: Duration = Field(
        default=30.0,
        description="A Retry-After up to this is waited for; after a longer one the call falls back or fails at once.",
    )
    deadline: DurationOrNone = Field(
        default=None,
        description="The whole call with all its tries ends within this time; every try knows what is left of it.",
    )


class Retries(Policy):
    """Asks for the same target again after a failure that may pass."""

    name = "retry"
    Options: ClassVar[type[PolicyOptions]] = RetryOptions
    late_commit = True

    options: RetryOptions

    def __init__(self, options: Any, services: Services, *, label: str | None = None, observe: bool = False) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self._causes = Causes(self.options.on)
        self._recent = Recent(WINDOW)
        self._now = services.clock.monotonic
        if self.options.deadline is None or observe:
            self.unused = frozenset({"on_request"})

    def on_request(self, exchange: Exchange) -> Answer | None:
        if self.options.deadline is not None and not self.observe:
            end = exchange.started_at + self.options.deadline
            exchange.deadline = end if exchange.deadline is None else min(end, exchange.deadline)
        return None

    def on_result(self, exchange: Exchange, attempt: Attempt, verdict: Verdict) -> Retry | None:
        now = self._now()
        seen = exchange.local
        if self not in seen:
            seen[self] = True
            self._recent.add(now, 1, 0)
        if verdict.failure is None or verdict.veto is not None or self._causes.match(verdict) is None:
            return None
        options = self.options
        if attempt.try_number >= options.attempts or _client_retries(exchange):
            return None
        recent = self._recent.at(now)
        if recent.some + 1 > options.max_retry_ratio * recent.all + FREE:
            exchange.note(self.label, f"no retry: {recent.some} retries for {recent.all} calls in {WINDOW} s")
            return None
        delay = self._delay(attempt.try_number, verdict.retry_after)
        if delay is None:
            exchange.note(self.label, f"no retry: Retry-After {verdict.retry_after:g} s is longer than max_retry_after")
            return None
        if exchange.deadline is not None and monotonic() + delay >= exchange.deadline:
            exchange.note(self.label, "no retry: the deadline leaves no time for it")
            return None
        said = f"try {attempt.try_number + 1} of {options.attempts} in {delay:.3f} s after {verdict.failure}"
        if self.observe:
            exchange.note(self.label, f"would send {said}")
            return None
        exchange.note(self.label, said)
        self._recent.add(now, 0, 1)
        return Retry(delay)

    def _delay(self, tries: int, retry_after: float | None) -> float | None:
        """Seconds to wait, None when the upstream asks for more than we wait."""
        backoff = self.options.backoff
        # Full jitter: callers that failed together do not come back together.
        wait = random.uniform(0.0, min(backoff.max, backoff.initial * 2.0 ** (tries - 1)))
        if retry_after is None:
            return wait
        if retry_after > self.options.max_retry_after:
            return None
        return retry_after + min(wait, backoff.initial)


def _client_retries(exchange: Exchange) -> bool:
    """Whether this call is itself a retry by the client's SDK: the two must not multiply."""
    count = exchange.request.header("x-stainless-retry-count")
    return count is not None and count != "0"
