"""rate_limit: no caller takes more than a share a minute, and those who wait are served fairly.

Token buckets for requests and tokens, for each value of one dimension (`per: principal`) or of several together
(`per: [project, model]`); `limits:` adds further buckets. All that a call touches are reserved together or not at all:
one request, and the tokens it is estimated to take; what it really used is settled at its end.

`on_limit: wait` lets calls wait in line (by priority, in turn between principals) up to `max_wait`; the wait ends at
once when the client leaves. A call that can never fit, or not within `max_wait`, is refused at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.base import Texts
from proxy.config.units import Duration
from proxy.errors import ProxyError
from proxy.policy import Later, Policy, PolicyOptions
from proxy.rate_rules import Account, Rule, reader
from proxy.state import NEVER, Claims, Grant, MemoryState, Refusal
from proxy.waiting_lines import WaitingLines

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from proxy.exchange import Answer, Exchange
    from proxy.policy import Stage
    from proxy.services import Services
    from proxy.state import State

DIMENSIONS: Final = ("principal", "project", "model", "task", "ip", "upstream", "all")
SERVED_HERE: Final = frozenset({"hit", "stale", "coalesced"})
OWN_LIMITS: Final = "/v1/sidecar/limits"
"""Where a caller asks what is left for him: never refused and never counted, since it says when to come back."""


def _dimensions(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value not in DIMENSIONS and not (value.startswith("tag:") and len(value) > 4):
            raise PydanticCustomError("per", f"per: allowed are {', '.join(DIMENSIONS)} and tag:NAME")
    if not values:
        raise PydanticCustomError("per", "per: name at least one dimension; `all` is one bucket for everybody")
    return values


Per = Annotated[Texts, AfterValidator(_dimensions)]


class Limit(PolicyOptions):
    """Buckets for each value of the dimensions."""

    per: Per = Field(
        default=("principal",),
        description="What a bucket stands for: principal, project, model, task, ip, upstream, tag:NAME or all; several "
        "together are one combination.",
    )
    rpm: int | None = Field(default=None, ge=1, description="Requests a minute.")
    tpm: int | None = Field(default=None, ge=1, description="Tokens a minute, input and output.")
    burst: int | None = Field(
        default=None,
        ge=1,
        description="Requests (without rpm: tokens) that a full bucket holds; the token bucket in proportion. Default: "
        "a full minute.",
    )
    max_concurrent: int | None = Field(default=None, ge=1, description="Calls in flight at one time.")

    @model_validator(mode="after")
    def _something(self) -> Limit:
        inner = getattr(self, "limits", ())
        if self.rpm is None and self.tpm is None and self.max_concurrent is None and not inner:
            raise PydanticCustomError("limit", "give at least one of rpm, tpm, max_concurrent")
        if self.burst is not None and self.rpm is None and self.tpm is None:
            raise PydanticCustomError("limit", "burst needs rpm or tpm")
        return self


class RateLimitOptions(Limit):
    """Options of `rate_limit`."""

    limits: tuple[Limit, ...] = Field(default=(), description="Further limits, reserved together with this one.")
    on_limit: Literal["reject", "wait"] = Field(
        default="reject", description="reject: 429 with Retry-After at once. wait: up to max_wait, by turns."
    )
    max_wait: Duration = Field(default=5.0, description="The longest wait with on_limit: wait.")
    assume_output: int = Field(
        default=1000, ge=0, description="Output tokens reserved when the request sets no bound of its own."
    )


Hold: TypeAlias = tuple[Account, int, Grant | None, float]
"""What one call has taken: of whom, tokens, the receipt (None where the account's joint has it), the moment."""


class RateLimit(Policy):
    """Holds calls to their rates."""

    name = "rate_limit"
    Options: ClassVar[type[PolicyOptions]] = RateLimitOptions
    reads_answer = False

    options: RateLimitOptions

    def __init__(self, options: Any, services: Services, *, label: str | None = None, observe: bool = False) -> None:
        super().__init__(options, services, label=label, observe=observe)
        o = self.options
        own = (o,) if o.rpm or o.tpm or o.max_concurrent else ()
        self._rules = tuple(
            Rule.of(self.label, one.per, one.rpm, one.tpm, one.burst, one.max_concurrent) for one in (*own, *o.limits)
        )
        #: Every dimension of every rule once: what a caller's account is found by.
        self._per = tuple(dict.fromkeys(name for rule in self._rules for name in rule.per))
        self._who = reader(self._per)
        self._counts_tokens = any(rule.tpm for rule in self._rules)
        self.needs_usage = self._counts_tokens  # type: ignore[misc]
        self._state: State = services.get("state")
        self._direct = self._state if isinstance(self._state, MemoryState) else None
        self._clock = services.clock
        self._monotonic = services.clock.monotonic
        self._accounts: dict[str | tuple[str, ...], Account] = {}
        self.lines = WaitingLines(self._state, self._clock)
        self._waited_for = self.lines.open
        #: Whether a call that has ended leaves anything to settle: requests were paid when they were taken.
        self._settles = self._counts_tokens or any(rule.max_concurrent for rule in self._rules)

    # --- down --------------------------------------------------------------------------------------

    def on_request(self, exchange: Exchange) -> Later[None]:
        if exchange.request.path == OWN_LIMITS:
            return None
        account = self._accounts.get(self._who(exchange)) or self._account(exchange)
        tokens = exchange.most_tokens(self.options.assume_output) if self._counts_tokens else 0
        joint = account.joint
        if joint is None:
            return self._ask(exchange, account, tokens)
        if not self._waited_for:
            now = self._monotonic()
            if joint.take(tokens, now):
                exchange.local[self] = (account, tokens, None, now)
                return None
        assert self._direct is not None
        claims = account.claims(tokens)
        name = self.lines.before(claims)
        answer = self._direct.try_reserve((claims,)) if name is None else None
        return self._told(exchange, account, tokens, claims, answer, name)

    async def _ask(self, exchange: Exchange, account: Account, tokens: int) -> None:
        """The same where Redis decides."""
        claims = account.claims(tokens)
        name = self.lines.before(claims)
        answer = await self._state.reserve((claims,)) if name is None else None
        wait = self._told(exchange, account, tokens, claims, answer, name)
        if wait is not None:
            await wait

    def _told(
        self,
        exchange: Exchange,
        account: Account,
        tokens: int,
        claims: Claims,
        answer: Grant | Refusal | None,
        name: str | None,
    ) -> Awaitable[None] | None:
        """The answer is a grant, a refusal, or None when others wait already for the limit ``name``."""
        if isinstance(answer, Grant):
            exchange.local[self] = (account, tokens, answer, answer.stamp)
            return None
        if self.observe:
            exchange.note(self.label, f"would {self.options.on_limit}: {self._why(answer, tokens)}")
            return None
        if self.options.on_limit == "wait" and (answer is None or answer.wait <= self.options.max_wait):
            return self._stand_in_line(exchange, tokens, claims, answer, name)
        raise self._refusal(answer or self._behind(claims), tokens, account)

    async def _stand_in_line(
        self, exchange: Exchange, tokens: int, claims: Claims, refusal: Refusal | None, name: str | None
    ) -> None:
        """Whoever waits holds nothing, his account neither: it is found again when his turn has come."""
        if name is None:
            assert refusal is not None
            name = refusal.limit.name
        grant = await self._wait(exchange, name, claims)
        account = self._account(exchange)
        if grant is None:
            raise self._refusal(refusal or self._behind(claims), tokens, account)
        exchange.local[self] = (account, tokens, grant, grant.stamp)

    def _behind(self, claims: Claims) -> Refusal:
        """Others wait already, and the time was too short for a turn."""
        return Refusal(claims[0][0], max(0.1, self._state.peek(claims)))

    async def _wait(self, exchange: Exchange, name: str, claims: Claims) -> Grant | None:
        seconds = self.options.max_wait
        began = self._clock.monotonic()
        if exchange.deadline is not None:
            seconds = max(0.0, min(seconds, exchange.deadline - began))
        grant = await self.lines.wait(name, claims, exchange.principal.id, exchange.priority, seconds)
        if grant is not None:
            exchange.note(self.label, f"waited {self._clock.monotonic() - began:.3f} s")
        return grant

    def _account(self, exchange: Exchange) -> Account:
        """The caller's account; kept as long as something of it is in use, and a minute at least."""
        key = self._who(exchange)
        found = self._accounts.get(key)
        if found is None:
            known = dict(zip(self._per, (key,) if isinstance(key, str) else key, strict=True))
            values = ["|".join([known[name] for name in rule.per]) for rule in self._rules]
            found = self._accounts[key] = Account(self._rules, values, self._state)
            self._state.tend(self._accounts, key)
        return found

    # --- up ----------------------------------------------------------------------------------------

    def on_response(self, exchange: Exchange, answer: Answer) -> None:
        hold: Hold | None = exchange.local.get(self)
        if hold is None:
            return
        if answer.origin == "upstream":
            # The provider's figures are about our key, the caller's are about him.
            for name, _ in answer.headers:
                if len(name) > 16 and name[:12].lower() == b"x-ratelimit-":
                    answer.headers = [pair for pair in answer.headers if pair[0][:12].lower() != b"x-ratelimit-"]
                    break
        answer.headers += hold[0].headers(self._monotonic())

    def open_stream(self, exchange: Exchange, answer: Answer) -> Stage | None:
        self.on_response(exchange, answer)
        return None

    def on_done(self, exchange: Exchange) -> None:
        hold: Hold | None = exchange.local.pop(self, None)
        if hold is None:
            return
        error = exchange.error
        attempts = exchange.attempts
        if error is not None and error.code == "rate_limit_exceeded" and not attempts:
            # Another limit refused the call: several are taken together or not at all.
            self._settle(hold, 0, 0)
            return
        if not self._settles:
            return
        tokens = 0
        if self._counts_tokens and attempts and exchange.cache_status not in SERVED_HERE:
            usage = exchange.usage
            tokens = hold[1] if usage is None else usage.input + usage.output
        self._settle(hold, 1, tokens)

    def _settle(self, hold: Hold, count: int, tokens: int) -> None:
        """count: 0 gives everything back."""
        account, reserved, grant, stamp = hold
        if grant is None:
            assert account.joint is not None
            account.joint.settle(count, reserved, tokens, stamp, self._monotonic())
        elif count:
            self._state.settle(grant, account.used(tokens))
        else:
            self._state.free(grant)
        if self._waited_for:
            self.lines.stir(account.claims(0))

    async def stop(self) -> None:
        self.lines.stop()

    # --- figures ------------------------------------------------------------------------------------

    def limits(self, exchange: Exchange) -> list[dict[str, Any]]:
        """What a caller may still do: one object for each limit that is about him (`GET /v1/sidecar/limits`)."""
        return self._account(exchange).describe(self.label)

    def snapshot(self) -> list[dict[str, Any]]:
        """Every limit of which something is in use, for `GET /api/v1/limits`."""
        return [
            {"value": " ".join(account.values), **told}
            for account in self._accounts.values()
            for told in account.describe(self.label)
            if told["used"]
        ]

    # --- refusing -----------------------------------------------------------------------------------

    @staticmethod
    def _why(refusal: Refusal | None, tokens: int) -> str:
        if refusal is None:
            return "others are waiting already"
        kind = refusal.limit.name[-1]
        if refusal.wait == NEVER:
            what = f"{tokens} tokens" if kind == "t" else "this call"
            return f"{what} can never fit into a limit of {refusal.limit.limit:g}"
        return {"r": "too many requests a minute", "t": "too many tokens a minute"}.get(kind, "too many calls at once")

    def _refusal(self, refusal: Refusal, tokens: int, account: Account) -> ProxyError:
        forever = refusal.wait == NEVER
        error = ProxyError(
            "rate_limit_exceeded",
            f"Rate limit reached: {self._why(refusal, tokens)}.",
            retry_after=None if forever else max(0.001, refusal.wait),
            policy=self.label,
            headers=tuple(account.headers(self._monotonic())),
        )
        if forever:
            error.should_retry = False
        return error
