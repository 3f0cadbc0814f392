"""hedge: when the first byte is late, send the call a second time and take whoever answers first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from proxy.config.base import UpstreamName
from proxy.config.units import Ratio, parse_duration
from proxy.errors import ProxyError
from proxy.exchange import Target
from proxy.policy import Policy, PolicyOptions, Veto
from proxy.recent import Latest, Recent

if TYPE_CHECKING:
    from proxy.exchange import Attempt, Exchange
    from proxy.services import Services

WINDOW: Final = 10
"""Seconds over which hedges are held against calls."""
FREE: Final = 2
"""Hedges in ``WINDOW`` that need no calls to stand against."""
QUANTILES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
MAX_TARGETS: Final = 1000

# Calls that only compute. Two batches, files or threads in place of one would be a surprise.
_SAFE: Final = frozenset({"chat", "text_completion", "embeddings"})


def _after(value: object) -> float | str:
    if isinstance(value, str) and value in QUANTILES:
        return value
    seconds = parse_duration(value)
    if seconds <= 0:
        raise PydanticCustomError("after", "must be above 0, or one of p50, p90, p95, p99")
    return seconds


After = Annotated[
    float | Literal["p50", "p90", "p95", "p99"],
    BeforeValidator(_after),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": sorted(QUANTILES)},
                {"type": "string", "pattern": r"^([0-9.]+(ms|s|m|h))+$", "examples": ["800ms"]},
            ]
        }
    ),
]


class HedgeTarget(PolicyOptions):
    """Where the second request goes."""

    upstream: UpstreamName = Field(description="Name of an upstream.")
    model: str | None = Field(default=None, description="Model to ask it for; default: the one the client asked for.")


class HedgeOptions(PolicyOptions):
    """Options of ``hedge``."""

    after: After = Field(
        default="p95",
        description="How long to wait for the first byte before the call is sent again: a duration, or p50, p90, p95, "
        "p99 of the first-byte times seen from this target (no hedge before 20 were seen).",
    )
    max_ratio: Ratio = Field(
        default=0.1,
        description="Hedges of the last 10 s stay under this share of the calls of the last 10 s, plus 2.",
    )
    target: HedgeTarget | None = Field(
        default=None, description="Send the second request there; default: the same target, with another key."
    )


class Hedge(Policy):
    """Arms attempts with the time after which a second one may start, within a budget."""

    name = "hedge"
    Options: ClassVar[type[PolicyOptions]] = HedgeOptions
    late_commit = True

    options: HedgeOptions

    def __init__(self, options: Any, services: Services, *, label: str | None = None, observe: bool = False) -> None:
        super().__init__(options, services, label=label, observe=observe)
        after = self.options.after
        self._fixed = after if isinstance(after, float) else None
        self._quantile = QUANTILES[after] if isinstance(after, str) else None
        target = self.options.target
        self._target = Target(target.upstream, target.model) if target is not None else None
        # By upstream and model: a tuple of texts is hashed ten times as fast as a Target.
        self._seen: dict[tuple[str, str | None], Latest] = {}
        self._recent = Recent(WINDOW)
        self._now = services.clock.monotonic

    def on_attempt(self, exchange: Exchange, attempt: Attempt) -> Veto | None:
        now = self._now()
        recent = self._recent
        if attempt.hedge_of is not None:
            return self._second(exchange, attempt, now)
        if self not in exchange.local:
            exchange.local[self] = True
            recent.add(now, 1, 0)
        after = self._fixed
        if after is None:
            target = attempt.target
            seen = self._seen.get((target.upstream, target.model))
            after = seen.value if seen is not None else None
        if after is None or exchange.request.body is None:
            return None
        dialect = exchange.dialect
        if dialect is None or dialect.operation not in _SAFE or not self._may(now):
            return None
        if self.observe:
            exchange.note(self.label, f"would send the call again after {after:.3f} s without a first byte")
            return None
        attempt.hedge_after = after
        attempt.hedge_target = self._target
        return None

    def _second(self, exchange: Exchange, attempt: Attempt, now: float) -> Veto | None:
        """The hedge itself is about to be sent: many calls may have been armed when the budget still allowed it."""
        body = exchange.request.body
        dialect = exchange.dialect
        if body is not None and dialect is not None and dialect.stateful(body.lenient()):
            return self._no(exchange, "the call refers to state of one account")
        if not self._may(now):
            return self._no(exchange, f"{self._recent.some} hedges for {self._recent.all} calls in {WINDOW} s")
        self._recent.add(now, 0, 1)
        attempt.local[self] = True
        exchange.note(self.label, f"sent again to {attempt.target}: no first byte in time")
        return None

    def _no(self, exchange: Exchange, why: str) -> Veto:
        exchange.note(self.label, f"no hedge: {why}")
        return Veto("call", ProxyError("overloaded", f"No second request: {why}.", policy=self.label))

    def _may(self, now: float) -> bool:
        recent = self._recent.at(now)
        return recent.some + 1 <= self.options.max_ratio * recent.all + FREE

    def on_attempt_end(self, exchange: Exchange, attempt: Attempt) -> None:
        if attempt.hedge_of is not None and not attempt.sent and attempt.local.get(self):
            # Another policy vetoed it: nothing was sent, the budget gets it back.
            self._recent.add(self._now(), 0, -1)
        if self._quantile is None:
            return
        end = attempt.first_byte_at
        if end is None and attempt.outcome == "lost":
            # It would have taken longer still. Without these the quantile would creep down to the hedges' own times.
            end = attempt.ended_at
        if end is not None:
            target = attempt.target
            key = (target.upstream, target.model)
            seen = self._seen.get(key)
            if seen is None:
                if len(self._seen) >= MAX_TARGETS:
                    self._seen.clear()
                seen = self._seen[key] = Latest(self._quantile)
            seen.add(end - attempt.started_at)
