"""One request: send it, and find out what it came to before anything is committed."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final

import orjson

from proxy.accounting.usage import Usage, estimate_speech, estimate_tokens_from_size
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.policy import Verdict
from proxy.stream.pipe import Pipe
from proxy.upstream import classify
from proxy.upstream.fields import answer_headers
from proxy.upstream.render import render
from proxy.upstream.retry_after import parse as parse_retry_after
from proxy.upstream.transport import BodyTooLarge, TransportError
from proxy.upstream.transport.decode import Decoder, decode

if TYPE_CHECKING:
    from proxy.chain import Chain
    from proxy.exchange import Attempt, Exchange, FailureClass
    from proxy.upstream.endpoint import Upstream
    from proxy.upstream.transport import Incoming

ERROR_BODY: Final = 1024 * 1024
"""Bytes of an upstream's error body that are read to judge it."""
SMALL: Final = 64 * 1024
"""A plain answer up to this size is read whole and leaves in one write."""
_SECRET: Final = 8
"""Letters that a key has at least to be looked for in an error: a shorter one is no secret and part of many words."""
COMMIT_AFTER: Final = 2.0
"""Seconds after the upstream's head at which a stream commits without content (rule 3)."""


_GOOD: Final = {status: Verdict(None, status) for status in (200, 201, 202, 204, 304)}


def _good(status: int) -> Verdict:
    """The verdict of an answer that is no failure; the usual ones are made once."""
    return _GOOD.get(status) or Verdict(None, status)


class Tried:
    """What a try came to. answer: what could go up. pipe: its event stream, when somebody reads it."""

    __slots__ = ("answer", "incoming", "pipe", "verdict")

    def __init__(
        self, verdict: Verdict, answer: Answer | None = None, pipe: Pipe | None = None, incoming: Incoming | None = None
    ) -> None:
        self.verdict = verdict
        self.answer = answer
        self.pipe = pipe
        self.incoming = incoming

    def discard(self) -> None:
        """Give the answer up; its connection is closed unless it has ended."""
        if self.pipe is not None:
            self.pipe.cancel()
        elif self.incoming is not None:
            self.incoming.abort()


class Reader:
    """What a chain wants to know of an answer, worked out once a chain."""

    __slots__ = ("asks", "chain", "commits_late", "credentials", "max_body", "reads", "usage")

    def __init__(self, chain: Chain, *, reads: bool, credentials: str | None, max_body: int) -> None:
        self.chain = chain
        self.reads = reads
        self.usage = chain.needs_usage
        self.commits_late = chain.late_commit
        self.asks = reads or self.usage or self.commits_late
        self.credentials = credentials
        self.max_body = max_body

    def passes_credentials(self, upstream: Upstream, settled: str = "none") -> bool:
        """Whether the client's own credential goes up to ``upstream``.

        settled: the method of the call's principal; a chain may hold several ``authenticate`` under ``when``.
        """
        match self.credentials if settled == "none" else settled:
            case None | "passthrough":
                return True
            case "none":
                return not upstream.has_keys
        return False


async def try_once(
    exchange: Exchange, attempt: Attempt, upstream: Upstream, reader: Reader, *, may_ask: bool = True
) -> Tried:
    """Send one attempt and judge it. Returns when its answer could be committed; never raises but on cancel.

    may_ask: a stream may be asked for its usage.
    """
    if exchange.request.upgrade is not None:
        from proxy.websocket.attempt import try_upgrade  # noqa: PLC0415 - only for websockets

        return await try_upgrade(exchange, attempt, upstream, reader)
    # A client that asked for the usage itself gets to see it.
    asks = may_ask and reader.usage and upstream.usage.asks
    ask_usage = asks and exchange.streaming and not _asked_usage(exchange)
    outgoing = render(
        exchange,
        attempt,
        upstream,
        credentials=reader.passes_credentials(upstream, exchange.principal.method),
        readable=reader.asks,
        ask_usage=ask_usage,
    )
    if exchange.before_send is not None:
        exchange.before_send(exchange, attempt)
    attempt.sent = True
    upstream.requests += 1
    deadline = attempt.deadline or inf
    if exchange.deadline is not None and exchange.deadline < deadline:
        deadline = exchange.deadline
    try:
        incoming = await upstream.pool.send(outgoing, None, deadline)
    except TransportError as error:
        return unanswered(attempt, error)
    attempt.status = incoming.status
    attempt.first_byte_at = incoming.first_byte_at
    attempt.resent = incoming.resent
    attempt.response_headers = incoming.headers
    try:
        if incoming.status >= 400:
            tried = await read_error(exchange, attempt, incoming, reader)
            if ask_usage and upstream.usage.may_be_refused(incoming.status, body := _error_body(tried)):
                # The client wrote no such thing: the same call without our question.
                named = upstream.usage.is_named(body)
                tried.discard()
                tried = await try_once(exchange, attempt, upstream, reader, may_ask=False)
                upstream.usage.tried_without(helped=named or (tried.verdict.status or 599) < 400)
            return tried
        if ask_usage:
            upstream.usage.accepted = True
        headers, encoding, kind, length = answer_headers(incoming.headers)
        if incoming.ended and encoding is None and not reader.asks:
            # Nobody reads it and it is here: the usual plain forward.
            raw = incoming.take()
            attempt.received_bytes = len(raw)
            answer = Answer(incoming.status, headers, origin="upstream", raw=raw, content_length=length)
            return Tried(_good(incoming.status), answer)
        if incoming.ended and encoding is None and b"json" in kind and _wants_body(exchange, reader):
            # The usual answer, whole, in a chain that reads it.
            raw = incoming.take(reader.max_body)
            attempt.received_bytes = len(raw)
            return _whole(exchange, attempt, incoming.status, headers, raw, reader)
        return await read_success(
            exchange, attempt, incoming, reader, headers, encoding, kind, length, hide_usage=ask_usage
        )
    except TransportError as error:
        return broken_off(attempt, incoming, error)
    except BaseException:
        incoming.abort()
        raise


def unanswered(attempt: Attempt, error: TransportError) -> Tried:
    """A try to which no answer began."""
    failure, said = classify.from_exception(error, attempt.upstream)
    if error.phase in ("waiting", "connecting"):
        attempt.sent = False
    return Tried(Verdict(failure, error=said))


def broken_off(attempt: Attempt, incoming: Incoming, error: TransportError) -> Tried:
    """A try whose answer began and did not come whole."""
    failure, said = classify.from_exception(error, attempt.upstream)
    return Tried(Verdict(failure, status=incoming.status, error=said))


def _error_body(tried: Tried) -> bytes:
    """What an error answer says, as far as it was read."""
    answer = tried.answer
    if answer is None or answer.raw is None:
        return b""
    raw = answer.raw
    encoding = next((value for name, value in answer.headers if name == b"content-encoding"), None)
    if encoding is not None:
        try:
            return decode(raw, encoding.decode("latin-1"), ERROR_BODY)
        except TransportError:
            return b""
    return raw


def _asked_usage(exchange: Exchange) -> bool:
    assert exchange.dialect is not None
    return exchange.dialect.asks_usage(exchange.tree)


async def read_error(exchange: Exchange, attempt: Attempt, incoming: Incoming, reader: Reader) -> Tried:
    """An answer with an error status: its body is read so that its code can be judged, and passes unchanged, but for
    the key that was used: a provider that repeats what it was sent must not tell it to the client."""
    headers, encoding, _, length = answer_headers(incoming.headers)
    retry_after = attempt.retry_after = parse_retry_after(incoming.headers)
    if not (reader.commits_late or reader.chain.selects_key or reader.usage or incoming.ended):
        answer = _plain(incoming, headers, encoding, length)
        verdict = Verdict(classify.classify(incoming.status, None), incoming.status, retry_after)
        return Tried(verdict, answer, incoming=incoming)
    if length is not None and length > ERROR_BODY:
        answer = _plain(incoming, headers, encoding, length)
        return Tried(
            Verdict(classify.classify(incoming.status, None), incoming.status, retry_after), answer, incoming=incoming
        )
    try:
        raw = await incoming.read(ERROR_BODY)
    except BodyTooLarge as error:
        _, said = classify.from_exception(error, attempt.upstream)
        return Tried(Verdict("invalid_response", incoming.status, retry_after, error=said))
    attempt.received_bytes = len(raw)
    try:
        plain = raw if encoding is None else decode(raw, encoding.decode("latin-1"), ERROR_BODY)
    except TransportError:
        plain = b""
    code = _code(exchange, plain)
    secret = b"" if attempt.key is None else attempt.key.reveal().encode()
    if len(secret) >= _SECRET:
        shown = b"[secret]"
        headers = [(name, value.replace(secret, shown)) for name, value in headers]
        if secret in plain:
            raw, encoding = plain.replace(secret, shown), None
            length = None if length is None else len(raw)
    if encoding is not None:
        headers.append((b"content-encoding", encoding))
    answer = Answer(incoming.status, headers, origin="upstream", raw=raw, content_length=length)
    return Tried(Verdict(classify.classify(incoming.status, code), incoming.status, retry_after, code), answer)


def _code(exchange: Exchange, plain: bytes) -> str | None:
    try:
        tree = orjson.loads(plain)
    except orjson.JSONDecodeError:
        return None
    assert exchange.dialect is not None
    return exchange.dialect.upstream_error(tree)


async def read_success(
    exchange: Exchange,
    attempt: Attempt,
    incoming: Incoming,
    reader: Reader,
    headers: list[tuple[bytes, bytes]],
    encoding: bytes | None,
    kind: bytes,
    length: int | None,
    *,
    hide_usage: bool = False,
) -> Tried:
    """An answer without an error status: read as far as somebody wants to know of it, or left to stream."""
    dialect = exchange.dialect
    assert dialect is not None
    if reader.asks and kind.startswith(b"text/event-stream") and exchange.request.method != "HEAD":
        decoder = None if encoding is None else Decoder(encoding.decode("latin-1"))
        pipe = Pipe(dialect, incoming, hide_usage=hide_usage, decoder=decoder)
        answer = Answer(incoming.status, headers, origin="upstream", source=incoming, events=True)
        incoming.start(pipe)
        if not reader.commits_late:
            return Tried(_good(incoming.status), answer, pipe, incoming)
        return await _until_commit(exchange, attempt, incoming, pipe, answer)
    if b"json" in kind and _wants_body(exchange, reader):
        raw = await incoming.read(reader.max_body)
        attempt.received_bytes = len(raw)
        if encoding is not None:
            raw = decode(raw, encoding.decode("latin-1"), reader.max_body)
        return _whole(exchange, attempt, incoming.status, headers, raw, reader)
    if incoming.ended or (length is not None and length <= SMALL and not kind.startswith(b"text/event-stream")):
        raw = await incoming.read(SMALL * 2)
        attempt.received_bytes = len(raw)
        if encoding is not None:
            headers.append((b"content-encoding", encoding))
        answer = Answer(incoming.status, headers, origin="upstream", raw=raw, content_length=length)
        return Tried(_good(incoming.status), answer)
    return Tried(_good(incoming.status), _plain(incoming, headers, encoding, length), incoming=incoming)


def _wants_body(exchange: Exchange, reader: Reader) -> bool:
    """Whether somebody reads the JSON of this call's whole answer."""
    request = exchange.request
    judged = reader.commits_late and request.body is not None
    return (reader.reads or reader.usage or judged) and request.method != "HEAD"


def _whole(
    exchange: Exchange, attempt: Attempt, status: int, headers: list[tuple[bytes, bytes]], raw: bytes, reader: Reader
) -> Tried:
    document = Document(raw)
    answer = Answer(status, headers, origin="upstream", body=document)
    return Tried(_judge_whole(exchange, attempt, status, document, reader), answer)


def _judge_whole(exchange: Exchange, attempt: Attempt, status: int, document: Document, reader: Reader) -> Verdict:
    """Usage of a whole answer, and whether it is one."""
    if not (reader.usage or reader.commits_late):
        return _good(status)
    tree = document.lenient()
    dialect = exchange.dialect
    assert dialect is not None
    if not isinstance(tree, dict):
        if reader.commits_late and tree is None:
            return Verdict(
                "invalid_response",
                status,
                error=ProxyError("upstream_invalid_response", "The upstream's answer says it is JSON and is not."),
            )
        return _good(status)
    attempt.usage = dialect.usage(tree)
    # Some providers answer 200 and say in the body that they failed. Objects of other APIs (a failed job) hold an
    # `error` that is no failure of this call.
    if reader.commits_late and dialect.operation != "other" and tree.get("error"):
        return Verdict(classify.classify_event(dialect.upstream_error(tree)), status)
    if reader.commits_late and document.finish(dialect).cut:
        error = ProxyError("upstream_invalid_response", "The upstream's answer ended before it was complete.")
        return Verdict("truncated", status, error=error)
    return _good(status)


async def _until_commit(exchange: Exchange, attempt: Attempt, incoming: Incoming, pipe: Pipe, answer: Answer) -> Tried:
    """Wait for the first event worth sending; a stream that fails before it may still be thrown away."""
    try:
        async with asyncio.timeout(COMMIT_AFTER):
            await pipe.wait_commit()
    except TimeoutError:
        pass
    failure: FailureClass | None = None
    error: ProxyError | None = None
    failed_unseen = pipe.error_event is not None and pipe.chars == 0 and pipe.finish_reason is None
    if pipe.committed and not failed_unseen:
        # Content came: the answer is committed, also when its end came with the same read.
        return Tried(_good(incoming.status), answer, pipe, incoming)
    if failed_unseen:
        assert pipe.error_event is not None
        tree = pipe.error_event.json
        assert exchange.dialect is not None
        failure = classify.classify_event(exchange.dialect.upstream_error(tree) if isinstance(tree, dict) else None)
    elif pipe.end is not None and isinstance(pipe.end.cause, TransportError):
        failure, error = classify.from_exception(pipe.end.cause, attempt.upstream)
    elif pipe.end is not None and pipe.end.cause is not None:
        failure = "invalid_response"
        error = ProxyError("upstream_invalid_response", "The upstream's event stream cannot be read.")
    elif pipe.finished and not pipe.complete:
        failure = "truncated"
        error = ProxyError("upstream_invalid_response", "The upstream ended its stream before the answer was complete.")
    verdict = Verdict(failure, incoming.status, error=error)
    return Tried(verdict, answer, pipe, incoming)


def _plain(
    incoming: Incoming, headers: list[tuple[bytes, bytes]], encoding: bytes | None, length: int | None
) -> Answer:
    """An answer nobody reads: its bytes go through as they come."""
    if encoding is not None:
        headers.append((b"content-encoding", encoding))
    return Answer(incoming.status, headers, origin="upstream", source=incoming, content_length=length)


def estimate(exchange: Exchange, attempt: Attempt, characters: int) -> Usage:
    """Usage of an answer whose provider said nothing: what was sent and what was received, marked as estimated."""
    asked = exchange.input_estimate()
    kind = next((value for name, value in attempt.response_headers or () if name.lower() == b"content-type"), b"")
    if kind[:6].lower() == b"audio/":
        return estimate_speech(asked, kind.decode("latin-1"), characters)
    return Usage(input=asked, output=estimate_tokens_from_size(characters), estimated=True)
