"""circuit_breaker: no calls to an upstream that keeps failing, until a probe has found it well again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from proxy.config.units import PositiveDuration, Ratio
from proxy.errors import ProxyError
from proxy.policy import Policy, PolicyOptions, Verdict, Veto, Wait
from proxy.upstream.breaker import Pass, Per, Refused, Settings

if TYPE_CHECKING:
    from proxy.config.model import Config
    from proxy.exchange import Attempt, Exchange
    from proxy.services import Services
    from proxy.upstream.breakers import Breakers, Key

MAX_NAME = 200
"""Characters of a model's name that tell breakers apart: the client chooses it."""


class CircuitBreakerOptions(PolicyOptions):
    """Options of ``circuit_breaker``."""

    per: Per = Field(
        default="upstream",
        description="What a circuit stands for: an upstream, an upstream and a model, or one key of it.",
    )
    fail_max: int = Field(default=5, ge=1, description="Failures in a row that open the circuit.")
    reset: PositiveDuration = Field(
        default=30.0, description="How long an open circuit refuses before a probe is let through."
    )
    error_rate: Ratio | None = Field(
        default=None,
        description="Also open when this share of the calls of the last window failed, once there were min_calls.",
    )
    window: PositiveDuration = Field(
        default=60.0, description="Over which error_rate is taken; 1 s to 1 h.", ge=1, le=3600
    )
    min_calls: int = Field(default=20, ge=1, description="Calls in the window below which error_rate says nothing.")
    probes: int = Field(
        default=1,
        ge=1,
        description="Calls let through at a time while half-open; that many successes close the circuit.",
    )


class CircuitBreaker(Policy):
    """Vetoes targets whose circuit is open, and reports how each attempt ended."""

    name = "circuit_breaker"
    Options: ClassVar[type[PolicyOptions]] = CircuitBreakerOptions

    options: CircuitBreakerOptions

    def __init__(self, options: Any, services: Services, *, label: str | None = None, observe: bool = False) -> None:
        super().__init__(options, services, label=label, observe=observe)
        o = self.options
        breakers: Breakers = services.get("breakers")
        self._group = breakers.group(
            o.per, Settings(o.fail_max, o.reset, o.error_rate, o.window, o.min_calls, o.probes)
        )
        self._now = services.clock.monotonic
        self._per: Per = o.per
        self._pools = _pools(services.config) if o.per == "key" else {}

    def on_attempt(self, exchange: Exchange, attempt: Attempt) -> Veto | Wait | None:
        per = self._per
        if per == "upstream":
            key = (attempt.upstream, "")
        elif per == "model":
            key = (attempt.upstream, (attempt.target.model or exchange.model_asked or "-")[:MAX_NAME])
        elif attempt.key is not None:
            key = (attempt.upstream, attempt.key.id)
        else:
            return None  # a key's circuit says nothing about a call without one
        breaker = self._group[key]
        if not breaker.watch:
            attempt.local[self] = breaker.current
            return None
        now = self._now()
        said = breaker.admit(now)
        if isinstance(said, Refused) and not said.ask and self._first_of_all(exchange, attempt, key):
            said = breaker.admit(now, force=True)
        if isinstance(said, Pass):
            attempt.local[self] = said
            return None
        if self.observe:
            exchange.note(self.label, f"would refuse {key[0]} {key[1]}".rstrip() + f" for {said.retry_after:.1f} s")
            return None
        if said.ask:
            return Wait(breaker.ask)
        return Veto(
            "key" if per == "key" else "target",
            ProxyError(
                "circuit_open",
                f"The upstream {attempt.upstream} has been failing and is not called for now.",
                retry_after=said.retry_after,
                policy=self.label,
            ),
        )

    def on_result(self, exchange: Exchange, attempt: Attempt, verdict: Verdict) -> None:
        if verdict.failure is None and verdict.veto is None:
            given: Pass | None = attempt.local.get(self)
            if given is not None and given.probe:
                given.breaker.answering(given)

    def on_attempt_end(self, exchange: Exchange, attempt: Attempt) -> None:
        given: Pass | None = attempt.local.get(self)
        if given is not None:
            given.breaker.end(given, attempt.outcome, attempt.failure, self._now())

    def _first_of_all(self, exchange: Exchange, attempt: Attempt, key: Key) -> bool:
        """Whether everything the call could use is open, and this circuit has been so for the longest time.

        With one circuit in all there is nothing to choose: it refuses, and is probed when its time has come.
        """
        keys: set[Key] = {key}
        for target in (attempt.target, *exchange.alternatives):
            if self._per == "upstream":
                keys.add((target.upstream, ""))
            elif self._per == "model":
                keys.add((target.upstream, (target.model or exchange.model_asked or "-")[:MAX_NAME]))
            else:
                pool = self._pools.get(target.upstream)
                if pool is None:
                    return False  # a target without keys has no circuit that could be open
                keys.update(pool)
        return len(keys) > 1 and self._group.first_open(keys) is self._group[key]


def _pools(config: Config) -> dict[str, tuple[Key, ...]]:
    """The circuits of each upstream's key pool, for ``per: key``."""
    found = {}
    for name, upstream in config.upstreams.items():
        pool = config.keys.get(upstream.keys) if upstream.keys is not None else None
        if pool is not None:
            found[name] = tuple((key.upstream or name, key.id) for key in pool.keys if key.enabled)
    return found
