"""fallback: another target when the one in use cannot serve the call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import Field

from proxy.config.base import UpstreamName
from proxy.exchange import Target
from proxy.failures import CauseList, Causes
from proxy.policy import Fallback, Policy, PolicyOptions, Verdict

if TYPE_CHECKING:
    from proxy.exchange import Answer, Attempt, Exchange
    from proxy.services import Services

# A filter's refusal is not carried to another provider unless somebody decides so.
DEFAULT_ON: Final = (
    "unreachable",
    "timeout",
    "stalled",
    "truncated",
    "invalid_response",
    "server_error",
    "rate_limited",
    "quota",
    "overloaded",
    "context_too_long",
    "circuit_open",
    "no_key_available",
)


class FallbackTarget(PolicyOptions):
    """One further target."""

    upstream: UpstreamName = Field(description="Name of an upstream.")
    model: str | None = Field(
        default=None, description="Model to ask it for; without one, the model the client asked for."
    )


class FallbackOptions(PolicyOptions):
    """Options of ``fallback``."""

    targets: tuple[FallbackTarget, ...] = Field(
        min_length=1, description="Where to go on, in order. A target that the call has already tried is passed over."
    )
    on: CauseList = Field(
        default=DEFAULT_ON,
        description="Failures that lead to the next target: classes (unreachable, timeout, stalled, truncated, "
        "invalid_response, server_error, rate_limited, quota, overloaded, context_too_long, content_refused, auth, "
        "conflict, client_error), statuses (503, 5xx), circuit_open and no_key_available. content_refused and auth "
        "are off by default.",
    )


class Fallbacks(Policy):
    """Goes through further targets when a call fails in a way that another target may not."""

    name = "fallback"
    Options: ClassVar[type[PolicyOptions]] = FallbackOptions
    late_commit = True

    options: FallbackOptions

    def __init__(self, options: Any, services: Services, *, label: str | None = None, observe: bool = False) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self._causes = Causes(self.options.on)
        self._targets = tuple(Target(one.upstream, one.model) for one in self.options.targets)

    def on_request(self, exchange: Exchange) -> Answer | None:
        if not self.observe:
            exchange.alternatives += (exchange.target, *self._targets)
        return None

    def on_result(self, exchange: Exchange, attempt: Attempt, verdict: Verdict) -> Fallback | None:
        if verdict.failure is None and verdict.veto is None:
            return None
        why = self._causes.match(verdict)
        if why is None:
            return None
        used: list[Target] = exchange.local.setdefault(self, [])
        used.append(attempt.target)
        for target in self._targets:
            if target not in used:
                if self.observe:
                    exchange.note(self.label, f"would go from {attempt.target} to {target}: {why}")
                    return None
                exchange.note(self.label, f"from {attempt.target} to {target}: {why}")
                return Fallback(target)
        return None
