"""What can go wrong between this process and an upstream. Every class says how far the call had come.

`phase` is one of `waiting` (for a place in the pool), `connecting`, `sending`, `head` (no complete head yet) and
`body`. `reason` is a short label for logs and metrics. Until `body` the caller has seen nothing of an answer.
"""

# ruff: noqa: N818  (the names say what happened; the base class says that it is an error)
from __future__ import annotations


class TransportError(Exception):
    """The family. `str(error)` is a sentence for an operator; it never holds bytes of a body or a credential."""

    phase = "head"
    reason = "transport"

    def __init__(self, message: str, *, phase: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        if phase is not None:
            self.phase = phase
        if reason is not None:
            self.reason = reason


class InvalidRequest(TransportError):
    """Our own request cannot stand on the wire: a line break in a header, a body of another length than stated."""

    phase = "sending"
    reason = "invalid_request"


class PoolClosed(TransportError):
    """The pool was closed before or during the call."""

    phase = "waiting"
    reason = "pool_closed"


class PoolFull(TransportError):
    """All connections are busy and the waiting queue is full. Nothing was sent."""

    phase = "waiting"
    reason = "pool_full"


class PoolTimeout(TransportError):
    """All connections stayed busy for as long as a call may wait. Nothing was sent."""

    phase = "waiting"
    reason = "pool_timeout"


class ConnectFailed(TransportError):
    """No connection. Nothing was sent.

    `reason`: `dns`, `refused`, `unreachable`, `reset`, `no_socket` (unix path missing), `tls` (handshake),
    `tls_verify` (the certificate), `tls_setup` (our own certificate files), `proxy` (the CONNECT was refused).
    """

    phase = "connecting"
    reason = "unreachable"


class ConnectTimeout(ConnectFailed):
    """Name lookup, connect, CONNECT and TLS handshake together took longer than `Timeouts.connect`."""

    reason = "connect_timeout"


class FirstByteTimeout(TransportError):
    """The request was sent and no complete head came within `Timeouts.first_byte`."""

    reason = "first_byte_timeout"


class IdleTimeout(TransportError):
    """The head came, and then nothing for `Timeouts.idle`."""

    phase = "body"
    reason = "idle_timeout"


class TotalTimeout(TransportError):
    """The whole call took longer than `Timeouts.total` or ran past its deadline."""

    reason = "total_timeout"


class InvalidResponse(TransportError):
    """What came is not an HTTP/1.1 head that can be trusted: garbage, too large, or contradicting framing."""

    reason = "invalid_response"


class ConnectionLost(TransportError):
    """The connection ended before the head was complete.

    `sent`: at least a part of the request was written, so that the upstream may have acted on it.
    `silent`: not one byte of an answer had come.
    """

    reason = "connection_lost"

    def __init__(self, message: str, *, sent: bool, silent: bool) -> None:
        super().__init__(message)
        self.sent = sent
        self.silent = silent


class Truncated(TransportError):
    """The head came, and then the body broke off or its framing turned out to be wrong.

    `reason`: `closed`, `reset`, `framing` (a chunk that is none) or `aborted` (by this side).
    """

    phase = "body"
    reason = "closed"


class BodyTooLarge(TransportError):
    """The body is larger than the caller is ready to hold."""

    phase = "body"
    reason = "body_too_large"


class DecodeFailed(TransportError):
    """A content coding that is unknown, not installed, or does not fit the bytes.

    `reason`: `unknown_encoding` or `bad_encoding`.
    """

    phase = "body"
    reason = "bad_encoding"
