"""rate_limit: no caller takes more than a share a minute, and those who wait are served fairly.

Token buckets for requests and tokens, for each value of one dimension (`per: principal`) or of several together
(`per: [project, model]`); `limits:` adds further buckets. All that a call touches are reserved together or not at all:
one request, and the tokens it is estimated to take; what it really used is settled at its end.

`on_limit: wait` lets calls wait in line (by priority, in turn between principals) up to `max_wait`; the wait ends at
once when the client leaves. A call that can never fit, or not within `max_wait`, is refused at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.base import Texts
from proxy.config.units import Duration
from proxy.errors import ProxyError
from proxy.policy import Policy, PolicyOptions
from proxy.rate_rules import Account, Rule
from proxy.state import NEVER, Claims, Grant, Refusal
from proxy.waiting_lines import WaitingLines

if TYPE_CHECKING:
    from proxy.exchange import Answer, Exchange
    from proxy.policy import Stage
    from proxy.services import Services
    from proxy.state import State

DIMENSIONS: Final = ("principal", "project", "model", "task", "ip", "upstream", "all")
MOST_ACCOUNTS: Final = 10_000
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
        self._only = self._rules[0].per[0] if len(self._rules) == 1 and len(self._rules[0].per) == 1 else None
        self._counts_tokens = any(rule.tpm for rule in self._rules)
        self.needs_usage = self._counts_tokens  # type: ignore[misc]
        self._state: State = services.get("state")
        self._clock = services.clock
        self._accounts: dict[str | tuple[str, ...], Account] = {}
        self.lines = WaitingLines(self._state, self._clock)

    # --- down --------------------------------------------------------------------------------------

    async def on_request(self, exchange: Exchange) -> None:
        if exchange.request.path == OWN_LIMITS:
            return
        account = self._account(exchange)
        tokens = self._estimate(exchange) if self._counts_tokens else 0
        claims = account.claims(tokens)
        refusal: Refusal | None = None
        name = self.lines.before(claims) if self.lines else None
        if name is None:
            answer = await self._state.reserve((claims,))
            if isinstance(answer, Grant):
                exchange.local[self] = (answer, account)
                return
            refusal, name = answer, answer.limit.name
        if self.observe:
            exchange.note(self.label, f"would {self.options.on_limit}: {self._why(refusal, tokens)}")
            return
        if self.options.on_limit == "wait" and (refusal is None or refusal.wait <= self.options.max_wait):
            grant = await self._wait(exchange, name, claims)
            if grant is not None:
                exchange.local[self] = (grant, account)
                return
        if refusal is None:
            refusal = Refusal(claims[0][0], max(0.1, self._state.peek(claims)))
        raise self._refusal(refusal, tokens, account)

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
        key: str | tuple[str, ...]
        if self._only is not None:
            key = exchange.dimension(self._only)
        else:
            key = tuple(["|".join([exchange.dimension(one) for one in rule.per]) for rule in self._rules])
        found = self._accounts.get(key)
        if found is None:
            if len(self._accounts) >= MOST_ACCOUNTS:
                del self._accounts[next(iter(self._accounts))]  # only a handle: what was used is in the state
            values = (key,) if isinstance(key, str) else key
            found = self._accounts[key] = Account(self._rules, values)
        return found

    def _estimate(self, exchange: Exchange) -> int:
        """Tokens the call may take: its input, and its output limit for each choice."""
        tokens = exchange.input_estimate()
        tree = exchange.tree if exchange.request.body is not None else None
        if tree is None or exchange.dialect is None or exchange.dialect.operation == "embeddings":
            return tokens
        bound = exchange.dialect.bound(tree)
        output = self.options.assume_output if bound.tokens is None else bound.tokens
        return tokens + output * max(1, bound.choices)

    # --- up ----------------------------------------------------------------------------------------

    async def on_response(self, exchange: Exchange, answer: Answer) -> None:
        self._show(exchange, answer)

    def open_stream(self, exchange: Exchange, answer: Answer) -> Stage | None:
        self._show(exchange, answer)
        return None

    def _show(self, exchange: Exchange, answer: Answer) -> None:
        held: tuple[Grant, Account] | None = exchange.local.get(self)
        if held is None:
            return
        if answer.origin == "upstream":
            # The provider's figures are about our key, the caller's are about him.
            for name, _ in answer.headers:
                if len(name) > 16 and name[:12].lower() == b"x-ratelimit-":
                    answer.headers = [pair for pair in answer.headers if pair[0][:12].lower() != b"x-ratelimit-"]
                    break
        answer.headers += held[1].headers(self._state)

    async def on_done(self, exchange: Exchange) -> None:
        held: tuple[Grant, Account] | None = exchange.local.pop(self, None)
        if held is None:
            return
        grant, account = held
        error = exchange.error
        if error is not None and error.code == "rate_limit_exceeded" and not exchange.attempts:
            # Another limit refused the call: several are taken together or not at all.
            self._state.free(grant)
            if self.lines:
                self.lines.stir(grant)
            return
        tokens = 0
        if self._counts_tokens and exchange.attempts and exchange.cache_status not in SERVED_HERE:
            usage = exchange.usage
            tokens = grant.claims[-1][1] if usage is None else usage.input + usage.output
        self._state.settle(grant, account.used(tokens))
        if self.lines:
            self.lines.stir(grant)

    async def stop(self) -> None:
        self.lines.stop()

    # --- figures ------------------------------------------------------------------------------------

    def limits(self, exchange: Exchange) -> list[dict[str, Any]]:
        """What a caller may still do: one object for each limit that is about him (`GET /v1/sidecar/limits`)."""
        return self._account(exchange).describe(self.label, self._state)

    def snapshot(self) -> list[dict[str, Any]]:
        """Every limit of which something is in use, for `GET /api/v1/limits`."""
        return [
            {"value": " ".join(account.values), **told}
            for account in self._accounts.values()
            for told in account.describe(self.label, self._state)
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
            headers=tuple(account.headers(self._state)),
        )
        if forever:
            error.should_retry = False
        return error
