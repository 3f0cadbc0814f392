"""select_key: the provider key of each attempt, from the pool of the target's upstream.

Pools, limits and strategies stand under `keys:` (see `proxy.upstream.keys`). This policy asks the ring for a key
before each attempt, reserves what the call will take of it, and tells the ring afterwards how it went. Calls that name
something which lives in a provider account (a file, a stored response ...) go to the key that made it, nowhere else.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field

from proxy.accounting.usage import answers
from proxy.config.units import Duration
from proxy.errors import ProxyError
from proxy.exchange import Target
from proxy.policy import Later, Policy, PolicyOptions, Stage, Veto, Wait
from proxy.state import NEVER
from proxy.upstream.keys import account_ids
from proxy.upstream.keys.lease import KeyLease, NoKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from proxy.exchange import Answer, Attempt, Exchange, Sink, Source
    from proxy.services import Services
    from proxy.state import State
    from proxy.stream.sse import Event
    from proxy.upstream.keys.ring import KeyRing
    from proxy.upstream.keys.rings import KeyRings

SPACE = "account-ids"
_INSTRUCTS: Final = frozenset({"system", "developer", "instructions"})
_BEGINS: Final = 8
"""Texts by which a conversation without a name is known at most."""
PLAIN = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/moderations"})
"""Paths that name only files, if anything, and leave nothing at the provider unless a chat asks for it."""


class SelectKeyOptions(PolicyOptions):
    """Options of `select_key`."""

    max_wait: Duration = Field(
        default=0.0,
        description="How long a call may wait for a key to come back when every key is out. 0s: answered at once with "
        "503 no_key_available and the earliest Retry-After.",
    )
    assume_output: int = Field(
        default=1000,
        ge=0,
        description="Output tokens reserved of a key's max_tpm when the request sets no bound of its own.",
    )
    keep_ids: int = Field(
        default=100_000, ge=0, description="Ids of files, batches, stored responses ... whose key is remembered."
    )
    keep_ids_for: Duration = Field(default=30 * 86400.0, description="How long such an id is remembered.")


class Bound:
    """What one call must keep to. only: the key its id belongs to. pinned: an unknown id, so the principal's key."""

    __slots__ = ("deadline", "only", "pinned", "upstream")

    def __init__(self) -> None:
        self.only: str | None = None
        self.upstream: str | None = None
        self.pinned = False
        self.deadline: float | None = None


class SelectKey(Policy):
    """Sets the key of each attempt."""

    name = "select_key"
    Options: ClassVar[type[PolicyOptions]] = SelectKeyOptions
    observable = False
    reads_answer = False
    selects_key = True

    options: SelectKeyOptions

    def __init__(self, options: Any, services: Services, *, label: str | None = None, observe: bool = False) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self._rings: KeyRings = services.get("keys")
        self._state: State = services.get("state")
        self._monotonic = services.clock.monotonic
        self._assume_output: int = options.assume_output
        self._of: dict[str, KeyRing] = {}
        for name, upstream in services.config.upstreams.items():
            ring = self._rings.get(upstream.keys) if upstream.keys is not None else None
            if ring is not None:
                self._of[name] = ring
        limited = any(key.max_tpm for ring in self._of.values() for key in ring.keys)
        # Tokens are counted only for pools that limit them.
        self.needs_usage = limited  # type: ignore[misc]
        if not self._of:
            self.unused = frozenset({"on_request", "on_attempt", "on_attempt_end", "on_response", "open_stream"})
        elif not self.options.keep_ids:
            self.unused = frozenset({"on_response", "open_stream"})

    # --- down --------------------------------------------------------------------------------------

    def on_request(self, exchange: Exchange) -> Later[None]:
        request = exchange.request
        path = request.path
        raw = request.raw_body
        # `find`, not `in`, which first tries to read its left side as a number.
        if path in PLAIN and (raw is None or raw.find(b"file_id") < 0):
            return None
        named = account_ids.named_in_path(path)
        ids = [named] if named is not None else self._ids_in_body(exchange)
        return self._bind(exchange, ids) if ids else None

    async def _bind(self, exchange: Exchange, ids: list[str]) -> None:
        """Ties the call to the key that made what it names."""
        bound = Bound()
        exchange.local[self] = bound
        for one in ids:
            known = await self._state.get(SPACE, one)
            if known is not None:
                upstream, _, key = known.decode().partition("|")
                if upstream in self._of:
                    bound.upstream, bound.only = upstream, key
                    exchange.note(self.label, f"{one} belongs to key {key} of {upstream}")
                    if exchange.target.upstream != upstream:
                        exchange.target = Target(upstream, exchange.target.model)
                    return
        bound.pinned = True

    @staticmethod
    def _ids_in_body(exchange: Exchange) -> list[str]:
        tree = exchange.tree if exchange.request.body is not None else None
        return list(account_ids.named_in_body(tree)) if isinstance(tree, dict) else []

    def on_attempt(self, exchange: Exchange, attempt: Attempt) -> Later[Veto | Wait | None]:
        target = attempt.target
        ring = self._of.get(attempt.upstream)
        bound: Bound | None = exchange.local.get(self)
        if bound is not None and bound.upstream is not None and bound.upstream != target.upstream:
            return Veto("call", self._refusal(exchange, NoKey(NEVER, "what the call names lives at another upstream")))
        if ring is None:
            return None
        task = exchange.tags.get("task")
        model = target.model or exchange.model_asked
        tokens = exchange.most_tokens(self._assume_output) if ring.limits_tokens else 0
        sticky, only, pinned = None, None, False
        if bound is not None:
            only, pinned = bound.only, bound.pinned
            if pinned or ring.tiers.sticks:
                sticky = f"principal:{exchange.principal.id}"
        elif ring.tiers.sticks:
            sticky = conversation(exchange)
        if ring.direct is None:
            choice = ring.choose(
                task=task, model=model, tokens=tokens, sticky=sticky, excluded=exchange.excluded_keys, only=only,
                pinned=pinned,
            )  # fmt: skip
            return self._take_when_chosen(exchange, attempt, ring, choice)
        lease = ring.try_choose(task, model, tokens, sticky, exchange.excluded_keys, only, pinned)
        if not lease:  # as when it was waited for, written out: a call more is a tenth of what a choice may cost
            return self._none(exchange, ring, lease)
        attempt.local[self] = lease
        attempt.key = key = lease.key
        if key.upstream is not None:
            attempt.upstream = key.upstream
        return None

    async def _take_when_chosen(
        self, exchange: Exchange, attempt: Attempt, ring: KeyRing, choice: Awaitable[KeyLease | NoKey]
    ) -> Veto | Wait | None:
        lease = await choice
        if not lease:
            return self._none(exchange, ring, lease)
        attempt.local[self] = lease
        attempt.key = key = lease.key
        if key.upstream is not None:
            attempt.upstream = key.upstream
        return None

    def _none(self, exchange: Exchange, ring: KeyRing, none: NoKey) -> Veto | Wait:
        bound: Bound | None = exchange.local.get(self)
        scope: Literal["call", "target"] = "call" if bound is not None and bound.only is not None else "target"
        now = self._monotonic()
        if self.options.max_wait > 0 and none.retry_after < NEVER:
            if bound is None:
                bound = exchange.local[self] = Bound()
            if bound.deadline is None:
                bound.deadline = now + self.options.max_wait
            left = bound.deadline - now
            # A place among the calls in flight comes back at no known time: it is asked for up to the end.
            if left > 0 and none.retry_after <= max(left, 1.0):
                exchange.note(self.label, f"waits for a key: {none.why}")
                return Wait(partial(ring.wait, max(0.001, min(left, none.retry_after))), scope)
        if exchange.excluded_keys:
            # Keys that this call has used up are not worth its waiting, and yet another call may have them later.
            back = ring.back_in(exchange.excluded_keys, exchange.target.model or exchange.model_asked)
            if back < none.retry_after:
                none = NoKey(back, "every key is out")
        return Veto(scope, self._refusal(exchange, none))

    def _refusal(self, exchange: Exchange, none: NoKey) -> ProxyError:
        """503 with the earliest time a key returns; a wait that will not help is not invited."""
        forever = none.retry_after == NEVER
        error = ProxyError(
            "no_key_available",
            f"No provider key can serve this call: {none.why}.",
            retry_after=None if forever else max(0.001, none.retry_after),
            policy=self.label,
        )
        if forever and not exchange.excluded_keys:
            error.should_retry = False
        return error

    def on_attempt_end(self, exchange: Exchange, attempt: Attempt) -> None:
        lease: KeyLease | None = attempt.local.get(self)
        if lease is None:
            return
        outcome = attempt.outcome
        sent = 0
        if attempt.sent and outcome != "vetoed":
            sent = 2 if attempt.resent else 1
        usage = attempt.usage
        status = attempt.status
        tokens: int | None = None
        if usage is not None:
            tokens = usage.input + usage.output
        elif not answers(status):
            tokens = 0  # an error, a redirect, no content: it costs no tokens
        first = attempt.first_byte_at
        failure = attempt.failure
        lease.ring.end(
            lease, sent, outcome, failure, status, tokens, None if failure is None else attempt.retry_after,
            attempt.response_headers, None if first is None else first - attempt.started_at,
        )  # fmt: skip

    # --- up: ids that were made ----------------------------------------------------------------------

    def on_response(self, exchange: Exchange, answer: Answer) -> None:
        if answer.status < 300 and answer.origin == "upstream" and self._made_here(exchange):
            raw = answer.body.encode() if answer.body is not None else answer.raw
            if raw:
                self._learn(exchange, raw)

    def open_stream(self, exchange: Exchange, answer: Answer) -> Stage | None:
        if answer.status >= 300 or answer.origin != "upstream" or not self._made_here(exchange):
            return None
        if answer.events:
            return _Watch(partial(self._learn, exchange))
        if answer.source is not None:
            answer.source = _Tee(answer.source, partial(self._learn, exchange))
        return None

    def _made_here(self, exchange: Exchange) -> bool:
        request = exchange.request
        method, path = request.method, request.path
        if path in PLAIN:  # the usual call makes nothing that lasts
            return account_ids.stores(method, path, request.body)
        return account_ids.creates(method, path) or account_ids.stores(method, path, request.body)

    def _learn(self, exchange: Exchange, beginning: bytes) -> bool:
        """Remembers whose the id is; True when one was found."""
        made = account_ids.made(beginning)
        served = exchange.served_by
        if made is None or served is None or served.key is None:
            return False
        owner = f"{served.target.upstream}|{served.key.id}".encode()
        self._state.put(SPACE, made, owner, self.options.keep_ids_for, self.options.keep_ids)
        return True


def conversation(exchange: Exchange) -> str:
    """What a conversation is known by: what the client calls it, else who calls, else how it begins."""
    named = exchange.tags.get("conversation")
    if named is not None:
        return f"conversation:{named}"
    body = exchange.request.body
    tree = None if body is None else body.strict()
    if tree is not None:
        for field in ("prompt_cache_key", "safety_identifier", "user"):
            value = tree.get(field)
            if value and isinstance(value, str):
                return f"{exchange.principal.id}:{value}"
    if exchange.principal.method != "none":
        return f"principal:{exchange.principal.id}"
    if tree is not None and exchange.dialect is not None:
        # Without a name, what it begins with, up to the first thing that is said: from the first call on this stays the
        # same while a conversation grows, as the provider's cached prefix does.
        begins: list[str] = []
        for slot in islice(exchange.dialect.texts(tree), _BEGINS):
            begins.append(slot.text[:1000])
            if slot.role not in _INSTRUCTS:
                break
        return "begins:" + "\n".join(begins)
    return f"peer:{exchange.request.peer}"


class _Watch(Stage):
    """Looks for the id in the first events; changes nothing."""

    def __init__(self, learn: Any) -> None:
        self._learn = learn
        self._left = 5

    def feed(self, event: Event) -> Sequence[Event]:
        if self._left > 0:
            self._left -= 1
            if self._learn(event.raw):
                self._left = 0
        return (event,)


class _Tee:
    """A source that shows the beginning of what it carries, and is otherwise the source."""

    def __init__(self, source: Source, learn: Any) -> None:
        self._source = source
        self._learn = learn
        self._seen = bytearray()
        self._sink: Sink | None = None
        self.pause = source.pause
        self.resume = source.resume
        self.abort = source.abort

    def start(self, sink: Sink) -> None:
        self._sink = sink
        self._source.start(self)

    def feed(self, data: bytes) -> None:
        sink = self._sink
        assert sink is not None
        if len(self._seen) < account_ids.LOOK_AT:
            self._seen += data
            if self._learn(bytes(self._seen)):
                self._seen = bytearray(account_ids.LOOK_AT)
        sink.feed(data)

    def finish(self) -> None:
        assert self._sink is not None
        self._sink.finish()

    def fail(self, error: Exception) -> None:
        assert self._sink is not None
        self._sink.fail(error)
