"""The state of one call and its answer: the one object that travels down a chain and back up.

Configured objects are frozen and shared; everything that belongs to one call hangs here. Policies
meet in the typed fields; what only one policy needs between its own phases goes into ``local``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from proxy.deployment import BEGINS, deployment
from proxy.document import Document

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from proxy.accounting.charge import Bill
    from proxy.accounting.usage import Usage
    from proxy.dialects.base import Dialect
    from proxy.errors import ProxyError
    from proxy.form import Form
    from proxy.head import Head
    from proxy.seen import Seen
    from proxy.websocket.handshake import Upgrade

RawHeaders = list[tuple[bytes, bytes]]
Origin = Literal["upstream", "cache", "policy", "sidecar"]
Priority = Literal["critical", "high", "normal", "background"]
Outcome = Literal["answered", "refused", "failed", "truncated", "cancelled"]
AttemptOutcome = Literal["answered", "failed", "truncated", "stalled", "vetoed", "cancelled", "lost", "stopped"]
EndReason = Literal["finished", "upstream_failed", "truncated", "cancelled", "stopped"]
FailureClass = Literal[
    "unreachable",  # no connection, reset before the head
    "timeout",  # connect, first byte, total deadline
    "stalled",  # idle deadline between bytes
    "truncated",  # broken framing, no finish
    "invalid_response",  # not HTTP, error event after a 200 head
    "rate_limited",  # 429
    "auth",  # 401, 403
    "quota",  # 402, or 429 insufficient_quota
    "server_error",  # 5xx
    "conflict",  # 408, 409
    "context_too_long",  # 400 with the provider's code for it
    "content_refused",  # 400 content filter
    "client_error",  # any other 4xx
    "overloaded",  # no place in our own connection pool; nothing was sent
]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. id: stable, safe to show. project: pays by default; projects: what else it may bill.

    models: globs of allowed models, empty for all. tags: settled by the key, they win over the
    client's. expires: wall seconds. key_id: the virtual key's id, never its secret.
    """

    id: str
    project: str | None = None
    projects: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    priority: Priority = "normal"
    expires: float | None = None
    key_id: str | None = None
    method: str = "none"


ANONYMOUS = Principal("anonymous")


@dataclass(frozen=True, slots=True)
class Target:
    """An upstream and the model to ask it for; model None sends what the client wrote."""

    upstream: str
    model: str | None = None

    def __str__(self) -> str:
        return f"{self.upstream}/{self.model}" if self.model else self.upstream


class Request:
    """What the client sent. Headers are read through ``header`` so that edits are seen.

    target: the request target as received. path: decoded, slashes collapsed, without query.
    raw_path: as received, slashes collapsed. query: raw, without ``?``. peer: the client's address.
    body: the JSON document of an API that is understood; None when the body is streamed or absent.
    stream: the body's pieces when it is not held. form: the same, where they are those of a multipart form.
    content_encoding of ``raw_body`` as received.
    upgrade: the client asks for a websocket, of which no policy sees a message.
    """

    body: Document | None = None
    raw_body: bytes | None = None
    stream: AsyncIterable[bytes] | None = None
    form: Form | None = None
    content_length: int | None = None
    edits: dict[str, str | None] | None = None
    head: Head | None = None
    upgrade: Upgrade | None = None

    def __init__(
        self,
        method: str,
        target: str,
        path: str,
        raw_path: str,
        query: str,
        headers: Mapping[str, str],
        raw_headers: tuple[tuple[bytes, bytes], ...],
        peer: str,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.raw_path = raw_path
        self.query = query
        self.headers = headers
        self.raw_headers = raw_headers
        self.peer = peer

    def header(self, name: str) -> str | None:
        """A header's value as it stands now; ``name`` in lower case."""
        if self.edits is not None and name in self.edits:
            return self.edits[name]
        return self.headers.get(name)

    def set_header(self, name: str, value: str) -> None:
        """Send this header upward instead of what the client sent."""
        if self.edits is None:
            self.edits = {}
        self.edits[name.lower()] = value

    def remove_header(self, name: str) -> None:
        """Do not send this header upward."""
        if self.edits is None:
            self.edits = {}
        self.edits[name.lower()] = None


class Source(Protocol):
    """Where the bytes of a streamed answer come from. ``proxy.upstream.transport.Incoming`` is one."""

    def start(self, sink: Sink) -> None:
        """Begin to push into ``sink``; called once."""

    def pause(self) -> None:
        """Push nothing until ``resume``."""

    def resume(self) -> None:
        """Go on."""

    def abort(self) -> None:
        """End now; nothing is pushed after this."""


class Sink(Protocol):
    """Who takes the bytes of a streamed answer, called synchronously."""

    def feed(self, data: bytes) -> None:
        """The body bytes of one read."""

    def finish(self) -> None:
        """The body ended as its framing says."""

    def fail(self, error: Exception) -> None:
        """The body broke off."""


class Answer:
    """What goes up: the upstream's answer or error, our own error, a refusal, a hit.

    headers: end-to-end headers, as received. ``body`` for a whole answer that may be read as JSON,
    ``raw`` for other whole bytes, ``source`` for a streamed one: exactly one is set (all None: no body).
    error: set when this proxy made the answer as an error; ``failed`` is true for any status >= 400.
    events: the streamed body is server-sent events. encoding: content-encoding the bytes stand in.
    """

    __slots__ = (
        "body", "content_length", "encoding", "error", "events", "headers", "origin", "raw", "source", "status",
    )  # fmt: skip

    def __init__(
        self,
        status: int,
        headers: RawHeaders,
        *,
        origin: Origin,
        body: Document | None = None,
        raw: bytes | None = None,
        source: Source | None = None,
        events: bool = False,
        error: ProxyError | None = None,
        encoding: str | None = None,
        content_length: int | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.origin: Origin = origin
        self.body = body
        self.raw = raw
        self.source = source
        self.events = events
        self.error = error
        self.encoding = encoding
        self.content_length = content_length

    @property
    def streamed(self) -> bool:
        """Whether the body comes piece by piece."""
        return self.source is not None

    @property
    def failed(self) -> bool:
        """Whether it is an error of anybody's."""
        return self.status >= 400

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header; ``name`` in lower case."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None

    def set_header(self, name: bytes, value: bytes) -> None:
        """Replace or add a header."""
        self.remove_header(name)
        self.headers.append((name, value))

    def remove_header(self, name: bytes) -> None:
        """Drop every header of this name."""
        low = name.lower()
        self.headers = [pair for pair in self.headers if pair[0].lower() != low]


class Attempt:
    """One request sent to one target with one key, or the intention to.

    Policies set ``key`` (an object with ``id`` and ``secret``), ``upstream`` (a key may move the
    attempt to another endpoint of the same dialect), ``deadline`` (loop time), ``hedge_after``
    (seconds) and ``hedge_target`` in ``on_attempt``. Everything else is set by the attempt loop.

    number: 1 for the first request of the call. try_number: 1 for the first request to this target.
    usage: tokens of this attempt, estimated when the provider was silent (``usage.estimated``).
    sent: whether any byte of the request may have reached the upstream.
    bill: what the attempt may cost and did, once somebody has asked (``account``, ``budget``).
    """

    key: AttemptKey | None = None
    deadline: float | None = None
    hedge_after: float | None = None
    hedge_of: Attempt | None = None
    hedge_target: Target | None = None
    outcome: AttemptOutcome | None = None
    failure: FailureClass | None = None
    status: int | None = None
    retry_after: float | None = None
    response_headers: RawHeaders | None = None
    first_byte_at: float | None = None
    ended_at: float | None = None
    usage: Usage | None = None
    received_bytes = 0
    sent = False
    resent = False
    ended = False
    entered = 0
    broken = 0

    def __init__(self, number: int, try_number: int, target: Target, upstream: str, started_at: float) -> None:
        self.number = number
        self.try_number = try_number
        self.target = target
        self.upstream = upstream
        self.started_at = started_at
        self.local: dict[Hashable, Any] = {}
        self.bill: Bill | None = None

    def __repr__(self) -> str:
        key = f" key={self.key.id}" if self.key is not None else ""
        return f"<Attempt {self.number} {self.target}{key} {self.outcome or 'running'} {self.status or ''}>"


class AttemptKey(Protocol):
    """What an attempt needs of a provider key."""

    @property
    def id(self) -> str:
        """Shown everywhere instead of the secret."""

    def reveal(self) -> str:
        """The secret itself, for the wire only."""


_estimate_input: Callable[[Dialect, Any, list[str] | None], int] | None = None


def _load_estimate() -> Callable[[Dialect, Any, list[str] | None], int]:
    """Once: most chains never ask, and an import statement costs each call that runs into it a microsecond."""
    global _estimate_input  # noqa: PLW0603 - a module, kept
    from proxy.dialects.size import estimate_input  # noqa: PLC0415 - see above

    _estimate_input = estimate_input
    return estimate_input


class Exchange:
    """One call: identity, request, chain, attempts, usage, cost, outcome.

    What most calls never set has its default on the class: an exchange is made for every call, and forty
    stores would cost more than the rest of a plain forward.
    """

    dialect: Dialect | None = None
    route_name = ""
    chain_name = ""
    principal: Principal = ANONYMOUS
    project: str | None = None
    priority: Priority = "normal"
    target = Target("")
    alternatives: tuple[Target, ...] = ()
    """Every target the call may end up at, where ``fallback`` offers more than one."""
    deadline: float | None = None
    estimated_input: int | None = None
    served_by: Attempt | None = None
    answer: Answer | None = None
    own_answer: Callable[[Exchange], Awaitable[Answer]] | None = None
    before_send: Callable[[Exchange, Attempt], None] | None = None
    """Called right before a request is sent, on the exchange that sends it (a flight's is its starter's). Be quick."""
    committed = False
    cache_status: str | None = None
    flight_of: Exchange | None = None
    usage: Usage | None = None
    saved_usage: Usage | None = None
    cost_nanos: int | None = None
    unpriced = False
    """Whether something of the call was paid at a price that is not known: it is not in ``cost_nanos``."""
    saved_nanos: int | None = None
    outcome: Outcome | None = None
    error: ProxyError | None = None
    first_byte_at: float | None = None
    ended_at: float | None = None
    entered = 0
    skipped = 0
    held_bytes = 0
    explain: Callable[[str, str], None] | None = None
    timings: dict[str, float] | None = None
    findings: dict[tuple[str, str], int] | None = None
    """What was found in the request, by type and by what was done about it; for the figures."""
    seen: Seen | None = None
    """What is known of the body from calls before (``proxy.seen``), where the chain remembers bodies."""
    _model: str | None = None
    _streaming: bool | None = None

    def __init__(self, id: str, request: Request, started_at: float, started_wall: float) -> None:  # noqa: A002
        self.id = id
        self.request = request
        self.started_at = started_at
        self.started_wall = started_wall
        self.tags: dict[str, str] = {}
        self.attempts: list[Attempt] = []
        self.excluded_keys: set[str] = set()
        self.local: dict[Hashable, Any] = {}
        self.added_headers: RawHeaders = []
        self.notes: list[tuple[str, str]] = []

    @property
    def body(self) -> Document | None:
        """The request's JSON document, None for bodies that are streamed or absent."""
        return self.request.body

    @property
    def tree(self) -> dict[str, Any] | None:
        """The request's parsed body; raises ``invalid_json`` when it is none. None without a JSON body."""
        body = self.request.body
        return body.strict() if body is not None else None

    @property
    def model_asked(self) -> str | None:
        """The model the client asked for, in its body or by its path (``proxy.deployment``); reads the body when first
        asked. Raises ``invalid_json``. A form whose files stand first names it late: until then None."""
        if self._streaming is None:
            self._look()
        return self._model

    @property
    def streaming(self) -> bool:
        """Whether the client asked for a stream; reads the body when first asked. Raises ``invalid_json``."""
        streaming = self._streaming
        if streaming is None:
            self._look()
            return bool(self._streaming)
        return streaming

    @property
    def model_known(self) -> str | None:
        """The model asked for, if the body was read at all; for logs and figures."""
        if self._streaming is None and self.dialect is not None:
            body = self.request.body
            read = body is not None and body.was_read and isinstance(body.lenient(), dict)
            if read or self.request.form is not None:
                self._look()
        return self._model

    def name_model(self, model: str | None) -> None:
        """The call names its model outside of a body; None: it names none."""
        self._model = model
        self._streaming = False

    def look_again(self) -> None:
        """The body's model or stream field was edited."""
        self._streaming = None

    def _look(self) -> None:
        request = self.request
        body = request.body
        named = deployment(request.raw_path) if request.path.startswith(BEGINS) else None
        if body is None or self.dialect is None:
            form = request.form
            if named is not None:
                self._model = named
            elif form is not None:
                self._model = form.model
            if form is None or form.over:
                self._streaming = False
            return
        tree = body.strict()
        self._model = self.dialect.model(tree) if named is None else named
        self._streaming = self.dialect.wants_stream(tree)
        seen = self.seen
        if seen is not None and not body.edited:
            seen.model, seen.streaming = self._model, self._streaming

    def input_estimate(self) -> int:
        """Estimated input tokens, worked out once; 0 without a body that is understood."""
        count = self.estimated_input
        if count is None:
            body, dialect = self.request.body, self.dialect
            if body is None or dialect is None:
                form = self.request.form
                announced = self.request.content_length or 0
                count = 0 if form is None or form.model is None else form.given(announced).input
            else:
                count = (_estimate_input or _load_estimate())(dialect, body.strict(), body.prose(dialect))
                if self.seen is not None and not body.edited:
                    self.seen.tokens = count
            self.estimated_input = count
        return count

    @property
    def unedited(self) -> bool:
        """Whether the body says what the client sent."""
        body = self.request.body
        return body is not None and not body.edited

    def most_tokens(self, assumed: int) -> int:
        """Tokens that the call may take: its input by estimate, and its output limit (``assumed`` where it sets none)
        for each choice. What is reserved of token limits."""
        tokens = self.estimated_input
        if tokens is None:
            tokens = self.input_estimate()
        body, dialect = self.request.body, self.dialect
        if body is None or dialect is None or dialect.operation == "embeddings":
            return tokens
        bound = body.bound(dialect)
        return tokens + (assumed if bound.tokens is None else bound.tokens) * bound.choices

    def seen_through(self, policy: object) -> None:
        """A policy that judges the body alone has found nothing to do: it need not look at the same bytes again."""
        seen = self.seen
        if seen is not None and self.unedited and policy not in seen.passed:
            seen.passed += (policy,)

    @property
    def task(self) -> str | None:
        """The task tag."""
        return self.tags.get("task")

    @property
    def failed_at(self) -> Attempt | None:
        """The last try of a call (or of the flight it shares) that ended with an error of ours; None where nothing was
        sent. Whom to ask when nobody served the call."""
        if self.error is None:
            return None
        attempts = self.attempts
        if not attempts and self.flight_of is not None:
            attempts = self.flight_of.attempts
        return attempts[-1] if attempts else None

    @property
    def key_id(self) -> str | None:
        """Id of the provider key that served the call, or that it failed with."""
        served = self.served_by or self.failed_at
        return served.key.id if served is not None and served.key is not None else None

    def add_header(self, name: bytes, value: bytes) -> None:
        """Add a header to the answer, whichever answer it will be."""
        self.added_headers.append((name, value))

    def note(self, policy: str, text: str) -> None:
        """Say what a policy did or, in observe mode, would have done: shown by explain, debug and the log."""
        self.notes.append((policy, text))

    def count_finding(self, kind: str, action: str, count: int = 1) -> None:
        """Count what was found in the request: its type (never its value), and what was done about it."""
        if self.findings is None:
            self.findings = {}
        self.findings[kind, action] = self.findings.get((kind, action), 0) + count

    def dimension(self, per: str) -> str:
        """The value of a dimension (``principal``, ``project``, ``model``, ``task``, ``ip``, ``tag:NAME``,
        ``upstream``, ``all``); a dimension that the call lacks is the one bucket ``-``."""
        match per:
            case "principal":
                return self.principal.id
            case "project":
                return self.project or "-"
            case "model":
                return self.model_asked or "-"
            case "task":
                return self.tags.get("task", "-")
            case "ip":
                return self.request.peer or "-"
            case "upstream":
                return self.target.upstream or "-"
            case "all":
                return "all"
        return self.tags.get(per.removeprefix("tag:"), "-")
