"""A request on its way up, and its rendering to the bytes of an HTTP/1.1 head."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence

from .errors import InvalidRequest

Headers = Sequence[tuple[bytes, bytes]]

_WITHOUT_BODY = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"))


class Outgoing:
    """One request.

    method, target: as they must stand on the wire; the target in origin form and already escaped. headers: end-to-end
    ones, in order; Content-Length, Transfer-Encoding and Connection are the pool's business, Host is added where it is
    missing. body: bytes, nothing, or an async iterable of pieces. content_length: of a streamed body, where known;
    otherwise it goes chunked. A request with an iterable body can be sent once only. lines: further headers, without
    Host, rendered before (each ends with CRLF), and how many they are; they stand first.
    """

    __slots__ = ("body", "content_length", "headers", "lines", "method", "target")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers = (),
        body: bytes | AsyncIterable[bytes] | None = None,
        content_length: int | None = None,
        lines: tuple[bytes, int] | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.content_length = content_length
        self.lines = lines

    @property
    def replayable(self) -> bool:
        return self.body is None or isinstance(self.body, bytes)

    def __repr__(self) -> str:
        return f"<Outgoing {self.method.decode('latin-1')} {self.target.decode('latin-1')}>"


def render(request: Outgoing, host: bytes, prefix: bytes = b"", extra: Headers = ()) -> bytes:
    """The head of `request`, blank line included. `host`: the value of Host unless the request brings its own.

    `prefix` stands before the target (the absolute form towards a forward proxy); `extra` headers are added at the end.
    Raises InvalidRequest for anything that would make more or fewer lines of it than were meant.
    """
    headers = request.headers
    body = request.body
    if request.lines is not None:
        return _render_again(request, request.lines, host, prefix, extra)
    lines = [b"%b %b%b HTTP/1.1" % (request.method, prefix, request.target)]
    for name, _ in headers:
        if len(name) == 4 and name.lower() == b"host":
            break
    else:
        lines.append(b"Host: " + host)
    lines += [b": ".join(pair) for pair in headers]
    if extra:
        lines += [b": ".join(pair) for pair in extra]
    if body is None:
        if request.method not in _WITHOUT_BODY:
            lines.append(b"Content-Length: 0")
    elif isinstance(body, bytes):
        lines.append(b"Content-Length: %d" % len(body))
    elif request.content_length is not None:
        lines.append(b"Content-Length: %d" % request.content_length)
    else:
        lines.append(b"Transfer-Encoding: chunked")
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    breaks = len(lines)
    # Counting the line ends finds every way to smuggle a line in, for less than looking at each value.
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head or b" " in request.target:
        _refuse(request)
    return head


def _render_again(request: Outgoing, known: tuple[bytes, int], host: bytes, prefix: bytes, extra: Headers) -> bytes:
    """The same, of headers that were rendered before."""
    body = request.body
    lines, breaks = known
    breaks += 4
    for headers in (request.headers, extra):
        if headers:
            lines += b"".join([b"%b: %b\r\n" % pair for pair in headers])
            breaks += len(headers)
    if type(body) is bytes:
        head = b"%b %b%b HTTP/1.1\r\nHost: %b\r\n%bContent-Length: %d\r\n\r\n" % (
            request.method, prefix, request.target, host, lines, len(body),
        )  # fmt: skip
    else:
        framing = b"Transfer-Encoding: chunked"
        if body is None or request.content_length is not None:
            framing = b"Content-Length: %d" % (request.content_length or 0)
        head = b"%b %b%b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n\r\n" % (
            request.method, prefix, request.target, host, lines, framing,
        )  # fmt: skip
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head or b" " in request.target:
        _refuse(request)
    return head


def _refuse(request: Outgoing) -> None:
    bad = b"\r\n\0"
    for name, value in request.headers:
        if any(c in bad for c in name) or any(c in bad for c in value):
            raise InvalidRequest(f"header {name!r} holds a line break or a NUL byte: it cannot be sent")
    raise InvalidRequest("method, target or Host of the request holds a space, a line break or a NUL byte")
