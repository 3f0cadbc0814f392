"""The seam below all policies: what a target is sent, made anew for each attempt.

Policies see what the client said. Here the model is renamed, credentials are exchanged, usage is
asked for, and nothing else is added. The exchange itself is not changed, so that the next
attempt may be rendered for another target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.deployment import redirected
from proxy.upstream import fields
from proxy.upstream.transport import Outgoing

if TYPE_CHECKING:
    from proxy.exchange import Attempt, AttemptKey, Exchange
    from proxy.upstream.endpoint import Upstream

import orjson

# What `proxy.upstream.transport.decode` undoes without an optional package.
_READABLE = (b"gzip", b"deflate", b"identity")
_readable_cache: dict[bytes, bytes | None] = {}


def render(
    exchange: Exchange, attempt: Attempt, upstream: Upstream, *, credentials: bool, readable: bool, ask_usage: bool
) -> Outgoing:
    """The request of one attempt.

    credentials: the client's own credential goes up. readable: only content codings that can be undone here
    are asked for. ask_usage: a stream is asked for its token counts.
    """
    request = exchange.request
    body, as_received = _body(exchange, attempt, ask_usage=ask_usage)
    headers: list[tuple[bytes, bytes]]
    lines = None
    known = None if request.head is None else request.head.sent_up
    if known is None or request.edits is not None or upstream.headers_named:
        headers = _headers(
            exchange, attempt, upstream, credentials=credentials, readable=readable, as_received=as_received
        )
    else:
        # The same head as before: what becomes of it depends on this much only. Keys are never kept.
        key = attempt.key
        added = None if key is None else _key_header(key, upstream)
        which = (credentials and key is None, readable, as_received, None if added is None else added[0])
        lines = known.get(which)
        if lines is None:
            kept = _kept(request.raw_headers, which[0], readable=readable, as_received=as_received)
            if added is not None:
                kept = [pair for pair in kept if pair[0].lower() != added[0]]
            lines = known[which] = b"".join([b"%b: %b\r\n" % pair for pair in kept]), len(kept)
        headers = [] if added is None else [added]
    path, model = request.raw_path, attempt.target.model
    if model is not None:
        path = redirected(path, model)
    stream = request.stream if body is None else None
    return Outgoing(
        request.method.encode(),
        upstream.target(path, request.query),
        headers,
        body if stream is None else stream,
        request.content_length if stream is not None else None,
        lines,
    )


def _body(exchange: Exchange, attempt: Attempt, *, ask_usage: bool) -> tuple[bytes | None, bool]:
    """The bytes to send (None: none, or streamed) and whether they stand as received, content coding included."""
    request = exchange.request
    document = request.body
    if document is None:
        return request.raw_body, True
    model = attempt.target.model
    dialect = exchange.dialect
    assert dialect is not None
    if model is not None or ask_usage:
        tree = document.strict()
        rename = model is not None and dialect.model(tree) != model
        usage = ask_usage and exchange.streaming and not dialect.asks_usage(tree)
        if rename or usage:
            # Only top-level fields change: a shallow copy keeps the exchange's own tree as the client wrote it.
            sent = dict(tree)
            if rename and model is not None:
                dialect.set_model(sent, model)
            if usage:
                dialect.ask_usage(sent)
            return orjson.dumps(sent), False
    if request.raw_body is not None and not document.edited:
        return request.raw_body, True
    return document.encode(), False


def _headers(
    exchange: Exchange, attempt: Attempt, upstream: Upstream, *, credentials: bool, readable: bool, as_received: bool
) -> list[tuple[bytes, bytes]]:
    request = exchange.request
    edits = request.edits
    key = attempt.key
    replaced = upstream.headers_named
    out = _kept(request.raw_headers, credentials and key is None, readable=readable, as_received=as_received)
    if edits is not None or replaced:
        gone = replaced | (frozenset(name.encode() for name in edits) if edits is not None else frozenset())
        out = [pair for pair in out if pair[0].lower() not in gone]
        if edits is not None:
            out.extend(
                (name.encode(), value.encode("latin-1", "replace"))
                for name, value in edits.items()
                if value is not None
            )
        out.extend(upstream.headers)
    if key is not None:
        added = _key_header(key, upstream)
        out = [pair for pair in out if pair[0].lower() != added[0]]
        out.append(added)
    return out


def _kept(
    raw: tuple[tuple[bytes, bytes], ...], credentials: bool, *, readable: bool, as_received: bool
) -> list[tuple[bytes, bytes]]:
    """The client's headers that go up."""
    out: list[tuple[bytes, bytes]] = []
    named: frozenset[bytes] = frozenset()
    known = fields.known_request_actions
    for pair in raw:
        action = known.get(pair[0])
        if action is None:
            action = fields.request_action(pair[0])
        if action == 0:  # fields.KEEP
            out.append(pair)
        elif action == fields.CREDENTIAL:
            if credentials:
                out.append(pair)
        elif action == fields.ACCEPT_ENCODING:
            if not readable:
                out.append(pair)
            else:
                value = _only_readable(pair[1])
                if value is not None:
                    out.append((pair[0], value))
        elif action == fields.CONTENT_ENCODING:
            if as_received:
                out.append(pair)
        elif action == fields.CONNECTION and pair[1] not in fields.USUAL_CONNECTION:
            named = fields.named_by_connection(raw)
    return [pair for pair in out if pair[0].lower() not in named] if named else out


def _key_header(key: AttemptKey, upstream: Upstream) -> tuple[bytes, bytes]:
    header = getattr(key, "header", None)
    name = upstream.auth_header if header is None else header.lower().encode()
    prefix = upstream.auth_prefix if header is None else getattr(key, "prefix", "")
    return name, f"{prefix}{key.reveal()}".encode()


def _only_readable(value: bytes) -> bytes | None:
    """An Accept-Encoding with only the codings that can be undone here; None to leave it out."""
    if value in _readable_cache:
        return _readable_cache[value]
    kept = [part.strip() for part in value.split(b",") if part.split(b";")[0].strip().lower() in _READABLE]
    said = b", ".join(kept) or b"identity"
    if len(_readable_cache) < 64:
        _readable_cache[value] = said
    return said
