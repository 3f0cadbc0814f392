"""Rates by dimension: from `per: principal, rpm: 60` to the buckets of one caller. Pure but for the state's figures."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxy.state import Bucket, Claim, Claims, MemoryState, Slots, State
from proxy.state.joint import Joint, Pairs

if TYPE_CHECKING:
    from proxy.exchange import Exchange

LONGEST_NAME: Final = 200


class Kind(NamedTuple):
    """The buckets of a rule for requests, or those for tokens: what all callers' have in common.

    rate: units a second. burst: what a full one holds. depth: seconds from empty to full. In headers: the whole one
    with the limit, and the names of the other two.
    """

    rate: float
    burst: float
    depth: float
    limit: tuple[bytes, bytes]
    remaining: bytes
    reset: bytes

    @classmethod
    def of(cls, unit: str, a_minute: int | None, burst: float) -> "Kind | None":
        """unit: requests or tokens. None: the rule has no such limit."""
        if not a_minute:
            return None
        limit, remaining, reset = [f"x-ratelimit-{word}-{unit}".encode() for word in ("limit", "remaining", "reset")]
        rate = a_minute / 60
        return cls(rate, burst, burst / rate, (limit, b"%d" % burst), remaining, reset)


class CallersBucket(Bucket):
    """One caller's bucket. It knows its kind, so that telling how full it is needs nothing else."""

    __slots__ = ("kind",)

    def __init__(self, name: str, kind: Kind) -> None:
        super().__init__(name, kind.rate, kind.burst, kind.depth)
        self.kind = kind


class Rule(NamedTuple):
    """One limit for each value of its dimensions. name: begins its buckets' names.

    Another limit is another bucket, so that chains with a policy of one name do not mix up their rates.
    """

    per: tuple[str, ...]
    rpm: int | None
    tpm: int | None
    max_concurrent: int | None
    name: str
    requests: Kind | None
    tokens: Kind | None

    @classmethod
    def of(
        cls,
        label: str,
        per: tuple[str, ...],
        rpm: int | None,
        tpm: int | None,
        burst: int | None,
        max_concurrent: int | None,
    ) -> "Rule":
        """burst: requests (without rpm: tokens); the token bucket in proportion; None: a full minute."""
        tokens = float(tpm or 0)
        if burst is not None and tpm is not None:
            tokens = float(burst) if rpm is None else tpm * burst / rpm
        requests = float(burst or rpm or 0)
        name = f"rate:{label}:{rpm}/{tpm}/{requests:g}/{max_concurrent}:{'|'.join(per)}:"
        kinds = Kind.of("requests", rpm, requests), Kind.of("tokens", tpm, tokens)
        return cls(per, rpm, tpm, max_concurrent, name, *kinds)


Reader = Callable[["Exchange"], str]
_KNOWN: Final[dict[str, Reader]] = {
    "all": lambda _: "all",
    "principal": lambda exchange: exchange.principal.id,
    "project": lambda exchange: exchange.project or "-",
    "model": lambda exchange: exchange.model_asked or "-",
}


def reader(per: Sequence[str]) -> Callable[["Exchange"], str | tuple[str, ...]]:
    """Reads the values of the dimensions, compiled at load: one value as it is, several as a tuple."""
    readers = [_KNOWN.get(name) or partial(_dimension, name) for name in per]
    if len(readers) == 1:
        return readers[0]
    if len(readers) == 2:
        first, second = readers
        return lambda exchange: (first(exchange), second(exchange))
    return lambda exchange: tuple([read(exchange) for read in readers])


def _dimension(name: str, exchange: "Exchange") -> str:
    return exchange.dimension(name)


class Level(NamedTuple):
    """When a bucket will be full again, monotonic seconds."""

    full_at: float


class Account:
    """The buckets that one caller's calls touch, of all rules. Made once a caller, since names cost time.

    values: of each rule's dimensions. joint: the short way to the buckets where the state is this process' own.
    Claims stand in the order: one request of every request bucket, one place of every slot, then the tokens.
    """

    __slots__ = ("_fixed", "_state", "_used", "joint", "requests", "slots", "tokens", "values")

    def __init__(self, rules: Sequence[Rule], values: Sequence[str], state: State) -> None:
        self.values = tuple(values)
        self.requests: list[tuple[Rule, CallersBucket]] = []
        self.slots: list[tuple[Rule, Slots]] = []
        self.tokens: list[tuple[Rule, CallersBucket]] = []
        for rule, value in zip(rules, values, strict=True):
            name = rule.name + value[:LONGEST_NAME]
            if rule.requests is not None:
                self.requests.append((rule, CallersBucket(name + ":r", rule.requests)))
            if rule.max_concurrent:
                self.slots.append((rule, Slots(name + ":c", rule.max_concurrent)))
            if rule.tokens is not None:
                self.tokens.append((rule, CallersBucket(name + ":t", rule.tokens)))
        fixed: list[Claim] = [(bucket, 1) for _, bucket in self.requests]
        fixed += [(slots, 1) for _, slots in self.slots]
        self._fixed: Claims = tuple(fixed)
        self._used = (1,) * len(self.requests) + (0,) * len(self.slots)
        self._state = state
        self.joint: Joint | None = None
        if isinstance(state, MemoryState):
            self.joint = Joint(
                state,
                rates=[bucket for _, bucket in self.requests],
                slots=[slots for _, slots in self.slots],
                weighed=[bucket for _, bucket in self.tokens],
            )

    def claims(self, tokens: int) -> Claims:
        """What a call of so many tokens takes."""
        if not self.tokens:
            return self._fixed
        return (*self._fixed, *[(bucket, tokens) for _, bucket in self.tokens])

    def used(self, tokens: int) -> tuple[int, ...]:
        """What it has used, in the order of `claims`."""
        return self._used if not self.tokens else (*self._used, *[tokens] * len(self.tokens))

    def idle_in(self, now: float) -> float:
        """Seconds until nothing of it is in use: then it need not be kept."""
        if self.joint is not None:
            return self.joint.idle_in(now)
        figures = [self._state.usage(limit) for limit, _ in self.claims(0)]
        return max([max(one.reset, 1.0) if one.used + one.held > 0 else 0.0 for one in figures])

    def close(self) -> None:
        """Nobody will take anything more."""
        if self.joint is not None:
            self.joint.close()

    def headers(self, now: float) -> list[tuple[bytes, bytes]]:
        """x-ratelimit-*: the tightest bucket of each kind, as OpenAI writes it; `reset` is when it will be full."""
        joint = self.joint
        if joint is None:
            return self._shown(self._levels(self.requests, now), now) + self._shown(self._levels(self.tokens, now), now)
        if not joint.weighed:
            return self._shown(joint.rates, now)
        return self._shown(joint.rates, now) + self._shown(joint.weighed, now)

    def _levels(self, buckets: list[tuple[Rule, CallersBucket]], now: float) -> Pairs:
        """The buckets with their levels, as a meter would say it, where others have a part in them."""
        return tuple([(bucket, Level(now + self._state.usage(bucket).reset)) for _, bucket in buckets])

    @staticmethod
    def _shown(pairs: Pairs, now: float) -> list[tuple[bytes, bytes]]:
        if not pairs:
            return []
        bucket, meter = pairs[0]
        short = meter.full_at - now
        left = bucket.burst - short * bucket.rate if short > 0.0 else bucket.burst
        if len(pairs) > 1:
            for other, meter in pairs:
                its_short = meter.full_at - now
                its_left = other.burst - its_short * other.rate if its_short > 0.0 else other.burst
                if its_left < left:
                    bucket, left, short = other, its_left, its_short
        kind: Kind = bucket.kind
        # Rounding must not take the last unit away.
        remaining = int(left + 1e-6) if left > 0.0 else 0
        reset = int(short * 1000) if short > 0.0 else 0
        return [kind.limit, (kind.remaining, b"%d" % remaining), (kind.reset, b"%dms" % reset)]

    def describe(self, label: str) -> list[dict[str, Any]]:
        """One object for each limit: unit, limit, burst, used, remaining and seconds until it is whole again."""
        told: list[dict[str, Any]] = []
        found: list[tuple[str, int | None, Rule, Bucket | Slots]] = []
        found += [("requests a minute", rule.rpm, rule, bucket) for rule, bucket in self.requests]
        found += [("tokens a minute", rule.tpm, rule, bucket) for rule, bucket in self.tokens]
        found += [("calls in flight", rule.max_concurrent, rule, slots) for rule, slots in self.slots]
        for unit, limit, rule, bucket in found:
            usage = self._state.usage(bucket)
            figures = {"used": usage.used + usage.held, "remaining": int(usage.remaining + 1e-6)}
            told.append(
                {
                    "policy": label,
                    "per": list(rule.per),
                    "unit": unit,
                    "limit": limit,
                    "burst": usage.limit,
                    **figures,
                    "reset": round(usage.reset, 3),
                }
            )
        return told
