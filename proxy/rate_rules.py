"""Rates by dimension: from `per: principal, rpm: 60` to the buckets of one caller. Pure but for the state's figures."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxy.state import NEVER, Bucket, Claim, Claims, MemoryState, Slots, State
from proxy.state.joint import Joint, Pairs

if TYPE_CHECKING:
    from proxy.exchange import Exchange

LONGEST_NAME: Final = 200


class Shown(NamedTuple):
    """How a kind of bucket is told in headers: the whole header with its limit, and the names of the other two."""

    limit: tuple[bytes, bytes]
    remaining: bytes
    reset: bytes

    @classmethod
    def of(cls, unit: str, burst: float) -> "Shown":
        """unit: requests or tokens."""
        limit, remaining, reset = [f"x-ratelimit-{word}-{unit}".encode() for word in ("limit", "remaining", "reset")]
        return cls((limit, b"%d" % burst), remaining, reset)


class Rule(NamedTuple):
    """One limit for each value of its dimensions. Bursts are what a full bucket holds. name: begins its buckets' names.

    Another limit is another bucket, so that chains with a policy of one name do not mix up their rates.
    """

    per: tuple[str, ...]
    rpm: int | None
    tpm: int | None
    requests_burst: float
    tokens_burst: float
    max_concurrent: int | None
    name: str
    shown_requests: Shown
    shown_tokens: Shown

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
        shown = Shown.of("requests", requests), Shown.of("tokens", tokens)
        return cls(per, rpm, tpm, requests, tokens, max_concurrent, name, *shown)


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


class Account:
    """The buckets that one caller's calls touch, of all rules. Made once a caller, since names cost time.

    values: of each rule's dimensions. joint: the short way to the buckets where the state is this process' own.
    Claims stand in the order: one request of every request bucket, one place of every slot, then the tokens.
    """

    __slots__ = ("_fixed", "_state", "_used", "joint", "requests", "slots", "tokens", "values")

    def __init__(self, rules: Sequence[Rule], values: Sequence[str], state: State) -> None:
        self.values = tuple(values)
        self.requests: list[tuple[Rule, Bucket]] = []
        self.slots: list[tuple[Rule, Slots]] = []
        self.tokens: list[tuple[Rule, Bucket]] = []
        for rule, value in zip(rules, values, strict=True):
            name = rule.name + value[:LONGEST_NAME]
            if rule.rpm:
                self.requests.append((rule, Bucket(name + ":r", rule.rpm / 60, rule.requests_burst)))
            if rule.max_concurrent:
                self.slots.append((rule, Slots(name + ":c", rule.max_concurrent)))
            if rule.tpm:
                self.tokens.append((rule, Bucket(name + ":t", rule.tpm / 60, rule.tokens_burst)))
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
        told: list[tuple[bytes, bytes]] = []
        joint = self.joint
        if self.requests:
            place, remaining, reset = self._tightest(self.requests, joint.rates if joint is not None else None, now)
            shown = self.requests[place][0].shown_requests
            told += (shown.limit, (shown.remaining, b"%d" % remaining), (shown.reset, b"%dms" % reset))
        if self.tokens:
            place, remaining, reset = self._tightest(self.tokens, joint.weighed if joint is not None else None, now)
            shown = self.tokens[place][0].shown_tokens
            told += (shown.limit, (shown.remaining, b"%d" % remaining), (shown.reset, b"%dms" % reset))
        return told

    def _tightest(self, buckets: list[tuple[Rule, Bucket]], kept: Pairs | None, now: float) -> tuple[int, int, int]:
        """Place of the bucket, whole units that remain, milliseconds until it is full. kept: the same with meters."""
        found, least, short = 0, NEVER, 0.0
        for place, (_, bucket) in enumerate(buckets):
            missing = kept[place][1].full_at - now if kept is not None else self._state.usage(bucket).reset
            missing = max(missing, 0.0)
            left = bucket.burst - missing * bucket.rate
            if left < least:
                found, least, short = place, left, missing
        # Rounding must not take the last unit away.
        return found, int(least + 1e-6) if least > 0.0 else 0, int(short * 1000)

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
