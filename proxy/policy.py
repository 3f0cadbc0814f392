"""What a policy is: its phases, what they may answer, and the registry of names.

Requests go down a chain, answers and stream events come back up it. A policy overrides the
phases it needs; the chain learns at load which those are, so the rest cost nothing. The object
itself is shared by all calls and never changes after ``__init__``; what belongs to one call is
kept on the exchange (``exchange.local[self]``) or the attempt (``attempt.local[self]``).

    on_request       going down      edit body, headers, target, tags; answer at once (an Answer, a ProxyError)
    on_flight        going down      only a policy that splits the chain: serve, join or start the work below, or let
                                     the call go on
    on_landing       going up        only such a policy: the whole answer of a call that went on
    on_attempt       before a try    set key, deadline; return Veto or Wait
    on_result        after a try     return Retry or Fallback, before its answer is committed
    on_attempt_end   after a try     exactly once for each on_attempt that returned, innermost first
    on_usage         in a websocket  the upstream said what the session has used so far; a ProxyError ends it
    on_response      going up        edit or replace a whole answer
    open_stream      going up        return a Stage that edits the events of a streamed answer, or None
    on_settle        at the end      outcome and usage known, before the last piece leaves
    on_done          at the end      always, once, after the socket is done

A phase is a plain function that returns its answer (usually None), or an ``async def``, or a plain function that
returns an awaitable only when it must really wait. Plain is cheaper: no coroutine is made.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from types import CoroutineType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from proxy.config.problem import PolicyLoadError
from proxy.errors import ProxyError

if TYPE_CHECKING:
    from proxy.below import Below
    from proxy.exchange import Answer, Attempt, EndReason, Exchange, FailureClass, Target
    from proxy.flight import Flight
    from proxy.services import Services
    from proxy.stream.sse import Event


_T = TypeVar("_T")
Later: TypeAlias = _T | Awaitable[_T]
"""What a phase returns: its answer at once, or an awaitable of it."""


def waits(said: object) -> bool:
    """Whether a phase gave an awaitable of its answer, not the answer."""
    return type(said) is CoroutineType or isawaitable(said)


async def called(said: Later[_T]) -> _T:
    """What a phase answered, waited for if it must be: ``await called(policy.on_request(exchange))``."""
    return cast(_T, await cast(Awaitable[_T], said) if said is not None and waits(said) else said)


async def whatever(said: Awaitable[None] | None) -> asyncio.CancelledError | None:
    """The same for a phase that belongs to a call's end: who is cancelled meanwhile goes on with the rest, and raises
    what is returned when nothing is left."""
    try:
        if said is not None:
            await said
    except asyncio.CancelledError as error:
        return error
    return None


class PolicyOptions(BaseModel):
    """Base of every policy's options: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)


class NoOptions(PolicyOptions):
    """A policy without options."""


@dataclass(frozen=True, slots=True)
class Veto:
    """An attempt must not be sent. scope says what is excluded for the rest of the call: this key,
    this target (upstream and model), or the call. error carries code, message and retry_after."""

    scope: Literal["key", "target", "call"]
    error: ProxyError


@dataclass(frozen=True, slots=True)
class Wait:
    """The attempt could go ahead later. Everything this attempt holds is released, ``until()`` is
    awaited (cancelled when the client leaves), then on_attempt runs again from the outermost policy.

    until: returns when it is worth asking again; raises ProxyError to give up (scope as in Veto). drop: called instead
    when another policy's answer is followed: gives up a place in a line.
    """

    until: Callable[[], Awaitable[None]]
    scope: Literal["key", "target", "call"] = "target"
    drop: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a try came to. failure None: it was answered well. status: the upstream's, None without an
    answer. retry_after: seconds, parsed from every header form. code: the provider's own error code.
    veto: set when no request was sent because a policy vetoed. error: what the client gets if nobody helps.
    """

    failure: FailureClass | None
    status: int | None = None
    retry_after: float | None = None
    code: str | None = None
    veto: Veto | None = None
    error: ProxyError | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the call to the same target again after ``delay`` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Fallback:
    """Go on with another target; its tries start anew."""

    target: Target


Decision = Retry | Fallback


@dataclass(frozen=True, slots=True)
class Stop:
    """A stage ends the stream: the upstream is cancelled, the stages above flush, the client sees ``error``.

    events: what still leaves before the error event.
    """

    error: ProxyError
    events: Sequence[Event] = ()


class Stage:
    """One policy's part in one streamed answer. Both methods are synchronous and do no I/O."""

    def feed(self, event: Event) -> Sequence[Event] | Stop:
        """What leaves for one event that came; may be empty within a stated bound."""
        return (event,)

    def end(self, reason: EndReason) -> Sequence[Event]:
        """What is still held back; called exactly once."""
        return ()


class Policy:
    """Base of all policies.

    name: as written in YAML. Options: its pydantic model. protects: it fails closed by default.
    observable: ``mode: observe`` is accepted. edits_request / edits_answer: it changes bodies (part of cache
    keys). steers: it changes what is asked for without editing bodies: headers that go up, tags that the conditions of
    others read (part of cache keys, too). reads_answer: its on_response wants the body, not only status and headers.
    needs_usage: token counts must be measured. late_commit: answers may still be retried after the head (rule 3).
    splits: it has ``on_flight``. selects_key: it sets ``attempt.key``. body_alone: its on_request judges the body, the
    path and the target's model, nothing else, and may call ``exchange.seen_through(self)`` (see ``proxy.seen``).
    """

    name: ClassVar[str]
    Options: ClassVar[type[PolicyOptions]] = NoOptions
    protects: ClassVar[bool] = False
    observable: ClassVar[bool] = True
    edits_request: ClassVar[bool] = False
    edits_answer: ClassVar[bool] = False
    steers: ClassVar[bool] = False
    reads_answer: ClassVar[bool] = True
    needs_usage: ClassVar[bool] = False
    late_commit: ClassVar[bool] = False
    splits: ClassVar[bool] = False
    selects_key: ClassVar[bool] = False
    body_alone: ClassVar[bool] = False

    alongside: bool = False
    """Its on_attempt may be asked at the same time as that of neighbours that say so too; see ``proxy.asking``."""

    unused: frozenset[str] = frozenset()
    """Phases that this policy, with its options, has no use for: set in ``__init__``. The chain does not call them."""

    def __init__(self, options: Any, services: Services, *, label: str | None = None, observe: bool = False) -> None:
        self.options = options
        self.services = services
        self.label = label or self.name
        self.observe = observe

    def on_request(self, exchange: Exchange) -> Later[Answer | None]:
        """Going down, once. Raise ProxyError to refuse, return an Answer to answer at once."""

    def on_flight(self, exchange: Exchange, below: Below) -> Later[Answer | None]:
        """Going down, in the place of what stands below: see ``proxy.below``. None: the call goes on by itself."""
        raise NotImplementedError

    def on_landing(self, exchange: Exchange, answer: Answer | None) -> Answer | None:
        """Going up, at the place of the split, for a call that went on by itself: its whole answer, to be left or
        replaced. For one that went on with ``below.go_on`` it calls ``below.land``; if that call was given up before
        it had an answer, it is called with None."""

    def on_parting(self, exchange: Exchange) -> Callable[[Flight], None] | None:
        """A call that went on with ``below.go_on`` has got a stream and goes on as a flight: who is to be called when
        that has landed."""

    def on_attempt(self, exchange: Exchange, attempt: Attempt) -> Later[Veto | Wait | None]:
        """Before each try. Must not keep anybody waiting while it holds something: return Wait."""

    def on_result(self, exchange: Exchange, attempt: Attempt, verdict: Verdict) -> Later[Decision | None]:
        """After each try, before its answer is committed; innermost first, the first decision wins."""

    def on_attempt_end(self, exchange: Exchange, attempt: Attempt) -> Later[None]:
        """Exactly once for every on_attempt that returned, whatever it returned; ``attempt.outcome`` says why."""

    def on_usage(self, exchange: Exchange, attempt: Attempt) -> ProxyError | None:
        """While a websocket session runs, whenever its upstream said what was used: ``attempt.usage`` is the sum up to
        now. An error ends the session. Plain, and quick: messages wait for it."""

    def on_response(self, exchange: Exchange, answer: Answer) -> Later[Answer | None]:
        """A whole answer, going up. Edit it in place, or return another in its place."""

    def open_stream(self, exchange: Exchange, answer: Answer) -> Stage | None:
        """A streamed answer, going up. None when this call's stream needs nothing."""

    def on_settle(self, exchange: Exchange) -> Later[None]:
        """Once: outcome and usage are known, the last piece has not left."""

    def on_done(self, exchange: Exchange) -> Later[None]:
        """Once, always, for every policy that was entered."""

    async def start(self) -> None:
        """The snapshot goes live."""

    async def stop(self) -> None:
        """The snapshot is retired: no call uses it any more."""


PHASES: Final = (
    "on_request",
    "on_flight",
    "on_landing",
    "on_attempt",
    "on_result",
    "on_attempt_end",
    "on_usage",
    "on_response",
    "open_stream",
    "on_settle",
    "on_done",
)

# Where each built-in policy lives; imported when a chain names it, so that a chain pays only for what it uses.
BUILT_IN: Final[dict[str, str]] = {
    "account": "proxy.policies.account:Account",
    "authenticate": "proxy.policies.authenticate:Authenticate",
    "budget": "proxy.policies.budget:Budget",
    "cache": "proxy.policies.cache:Cache",
    "circuit_breaker": "proxy.policies.circuit_breaker:CircuitBreaker",
    "classify": "proxy.policies.classify:Classify",
    "cors": "proxy.policies.cors:Cors",
    "defaults": "proxy.policies.defaults:Defaults",
    "fallback": "proxy.policies.fallback:Fallbacks",
    "headers": "proxy.policies.headers:Headers",
    "hedge": "proxy.policies.hedge:Hedge",
    "pii": "proxy.policies.pii.policy:Pii",
    "rate_limit": "proxy.policies.rate_limit:RateLimit",
    "retry": "proxy.policies.retry:Retries",
    "select_key": "proxy.policies.select_key:SelectKey",
    "shed_load": "proxy.policies.shed_load:ShedLoad",
    "validate": "proxy.policies.validate:Validate",
}

ENTRY_POINTS: Final = "llm_sidecar.policies"


class UnknownPolicyError(LookupError):
    """No policy of this name."""


def names() -> list[str]:
    """Every policy that can be named without a module, outsiders' entry points included."""
    return sorted({*BUILT_IN, *_entry_points()})


def _entry_points() -> dict[str, str]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - 10 ms, only when a name is not built in

    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}


def find(name: str) -> type[Policy]:
    """The class of a policy: built in, ``module:Class``, or an entry point. Raises UnknownPolicyError for a name that
    nobody knows, PolicyLoadError where its module or class is not what it is named as."""
    place = name if ":" in name else BUILT_IN.get(name) or _entry_points().get(name)
    if place is None:
        raise UnknownPolicyError(f"there is no policy {name!r}")
    module, _, attribute = place.partition(":")
    try:
        holder = importlib.import_module(module)
    except (ImportError, ValueError) as error:  # ValueError: no module can have that name
        raise PolicyLoadError(_not_imported(module, error)) from error
    found = getattr(holder, attribute, None)
    if found is None:
        raise PolicyLoadError(f"the module {module} has no {attribute or 'class of an empty name'}{_has(holder)}")
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise PolicyLoadError(f"{place} is not a subclass of proxy.policy.Policy{_has(holder)}")
    return found


def _not_imported(module: str, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if isinstance(error, ValueError) or (missing and f"{module}.".startswith(f"{missing}.")):
        return f"there is no module {module}: install it, or name its folder in PYTHONPATH"
    if missing:
        return f"the module {module} imports {missing}, which is not installed"
    return f"the module {module} cannot be imported: {error}"


def _has(holder: Any) -> str:
    """The policies that a module defines, for a message."""
    own = [
        name
        for name, one in vars(holder).items()
        if isinstance(one, type) and issubclass(one, Policy) and one.__module__ == holder.__name__
    ]
    return f"; it has {', '.join(own[:10])}" if own else ""


def options_of(name: str) -> type[PolicyOptions] | None:
    """The options model of a policy, None when there is no policy of this name. Raises PolicyLoadError."""
    try:
        return find(name).Options
    except UnknownPolicyError:
        return None
