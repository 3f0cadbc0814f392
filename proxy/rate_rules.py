"""Rates by dimension: from `per: principal, rpm: 60` to the buckets of one caller. Pure but for the state's figures."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from proxy.state import Bucket, Claim, Claims, Slots, State

LONGEST_NAME: Final = 200


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
        return cls(per, rpm, tpm, requests, tokens, max_concurrent, name)


class Account:
    """The buckets that one caller's calls touch, of all rules. Made once a caller, since names cost time.

    Claims stand in the order: one request of every request bucket, one place of every slot, then the tokens.
    """

    __slots__ = ("_fixed", "_used", "requests", "slots", "tokens", "values")

    def __init__(self, rules: Sequence[Rule], values: Sequence[str]) -> None:
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

    def claims(self, tokens: int) -> Claims:
        """What a call of so many tokens takes."""
        if not self.tokens:
            return self._fixed
        return (*self._fixed, *[(bucket, tokens) for _, bucket in self.tokens])

    def used(self, tokens: int) -> tuple[int, ...]:
        """What it has used, in the order of `claims`."""
        return self._used if not self.tokens else (*self._used, *[tokens] * len(self.tokens))

    def headers(self, state: State) -> list[tuple[bytes, bytes]]:
        """x-ratelimit-*: the tightest bucket of each kind, as OpenAI writes it; `reset` is when it will be full."""
        told: list[tuple[bytes, bytes]] = []
        if self.requests:
            limit, remaining, reset = _tightest(self.requests, state)
            told.append((b"x-ratelimit-limit-requests", b"%d" % limit))
            told.append((b"x-ratelimit-remaining-requests", b"%d" % remaining))
            told.append((b"x-ratelimit-reset-requests", b"%dms" % reset))
        if self.tokens:
            limit, remaining, reset = _tightest(self.tokens, state)
            told.append((b"x-ratelimit-limit-tokens", b"%d" % limit))
            told.append((b"x-ratelimit-remaining-tokens", b"%d" % remaining))
            told.append((b"x-ratelimit-reset-tokens", b"%dms" % reset))
        return told

    def describe(self, label: str, state: State) -> list[dict[str, Any]]:
        """One object for each limit: unit, limit, burst, used, remaining and seconds until it is whole again."""
        told: list[dict[str, Any]] = []
        found: list[tuple[str, int | None, Rule, Bucket | Slots]] = []
        found += [("requests a minute", rule.rpm, rule, bucket) for rule, bucket in self.requests]
        found += [("tokens a minute", rule.tpm, rule, bucket) for rule, bucket in self.tokens]
        found += [("calls in flight", rule.max_concurrent, rule, slots) for rule, slots in self.slots]
        for unit, limit, rule, bucket in found:
            usage = state.usage(bucket)
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


def _tightest(buckets: list[tuple[Rule, Bucket]], state: State) -> tuple[float, float, float]:
    """Limit, remaining units, milliseconds until full; rounding must not take the last unit away."""
    usage = state.usage(buckets[0][1])
    for _, bucket in buckets[1:]:
        other = state.usage(bucket)
        if other.remaining < usage.remaining:
            usage = other
    return usage.limit, max(0.0, usage.limit - usage.used) + 1e-6, usage.reset * 1000
