"""The head of a request as the flow takes it, and a head that comes again.

A client library says the same head on a connection call after call: only the length of the body differs. Such a head
is recognised by comparing bytes with the one that aiohttp's parser accepted before, and is not parsed again. What is
compared is everything but the digits of Content-Length, and the read has to hold exactly one whole request; anything
else goes to the parser as ever. The remembered head lives and dies with its connection, so what it says (credentials
too) is never seen by another client.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from aiohttp import hdrs
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy, istr

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from aiohttp.http_parser import RawRequestMessage

_SLASHES: Final = re.compile(r"/{2,}")
_DOTS: Final = re.compile(r"[/\\]\.{1,2}(?:[/\\]|$)")
"""A segment that leads elsewhere; the backslash is a slash to many servers."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})\r\n", re.IGNORECASE)
_REQUEST_ID: Final = istr("X-Request-ID")
LONGEST: Final = 8192
"""Bytes of head that a connection remembers at most."""
_ordinary: Final[set[bytes]] = set()


class Head:
    """What the parser made of a request's head, and what every call asks of it. Frozen: calls may share one.

    path: decoded, slashes collapsed, without query; raw_path: the same as received; query: raw, without ``?``.
    dotted: the path has a dot segment, plain or percent-coded. upgrade: another protocol is asked for.
    length: of the body, where the client said it. keep: the connection may be used again. ours: it has x-sidecar
    headers. size: bytes of the target and of all header names and values. Three more are remembered only on a head that
    may come again: sent_up, the header lines that go up and their count, by what is left out of them
    (``proxy.upstream.render``); admitted, where it was routed to (``Snapshot.admit``); framed, its part of an entry's
    name (``cache``).
    """

    __slots__ = (
        "admitted", "coding", "dotted", "expects", "framed", "headers", "host", "http10", "keep", "kind", "length",
        "method", "origin", "ours", "path", "query", "raw_headers", "raw_path", "said_id", "sent_up", "size", "target",
        "upgrade",
    )  # fmt: skip

    def __init__(self, message: RawRequestMessage) -> None:
        headers = message.headers
        self.method = message.method
        self.target = message.path
        self.path, self.raw_path, self.query, self.dotted = parse_target(message.path)
        self.headers: Mapping[str, str] = headers
        self.raw_headers: tuple[tuple[bytes, bytes], ...] = message.raw_headers
        self.size = len(message.path) + sum(map(len, chain.from_iterable(message.raw_headers)))
        get = headers.get
        length = get(hdrs.CONTENT_LENGTH)
        self.length = None if length is None else int(length)
        self.host = get(hdrs.HOST)
        self.origin = get(hdrs.ORIGIN)
        self.kind = get(hdrs.CONTENT_TYPE)
        self.coding = get(hdrs.CONTENT_ENCODING)
        self.said_id = get(_REQUEST_ID)
        expects = get(hdrs.EXPECT)
        self.expects = expects is not None and expects.lower() == "100-continue"
        self.http10 = message.version < (1, 1)
        self.upgrade = message.upgrade
        self.keep = not message.should_close and not message.upgrade
        self.ours = False
        for name, _ in message.raw_headers:
            if name not in _ordinary and _is_ours(name):
                self.ours = True
                break
        self.sent_up: dict[Hashable, tuple[bytes, int]] | None = None
        self.admitted: Any = None
        self.framed: tuple[Any, Any] | None = None

    def with_length(self, length: int) -> Head:
        """The same head before a body of another length."""
        other = object.__new__(Head)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        headers = CIMultiDict(self.headers)
        headers[hdrs.CONTENT_LENGTH] = str(length)
        digits = b"%d" % length
        other.headers = CIMultiDictProxy(headers)
        other.length = length
        other.size = self.size + len(digits) - len(str(self.length))
        other.raw_headers = tuple(
            (pair[0], digits) if len(pair[0]) == 14 and pair[0].lower() == b"content-length" else pair
            for pair in self.raw_headers
        )
        return other


class Whole:
    """A body that came in one piece with its head; the part of aiohttp's StreamReader that this proxy uses."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def is_eof(self) -> bool:
        """Whether all of it has come."""
        return True

    def at_eof(self) -> bool:
        """Whether all of it was read."""
        return not self.data

    def read_nowait(self, count: int = -1) -> bytes:
        """The rest of it."""
        data, self.data = self.data, b""
        return data

    async def readany(self) -> bytes:
        """The rest of it."""
        return self.read_nowait()


Payload = StreamReader | Whole
"""The body of a call, as it comes."""


class Repeat:
    """A head that may come again. ``head`` is its latest reading."""

    __slots__ = ("_after", "_before", "_digits", "head")

    def __init__(self, before: bytes, after: bytes, head: Head) -> None:
        self._before = before
        self._after = after
        self._digits = len(before)
        self.head = head

    def body(self, data: bytes) -> bytes | None:
        """The body, if ``data`` is exactly this head, for any length, and a body of that length. Else None."""
        if not data.startswith(self._before):
            return None
        start = self._digits
        end = data.find(b"\r", start, start + 10)
        if end < 0 or not data.startswith(self._after, end):
            return None
        digits = data[start:end]
        if not digits.isdigit():
            return None
        body = data[end + len(self._after) :]
        length = int(digits)
        if len(body) != length or not length:
            return None
        if length != self.head.length:
            self.head = self.head.with_length(length)
        return body


def learn(data: bytes, message: RawRequestMessage, head: Head) -> Repeat | None:
    """What to remember of a request that began with ``data``; None when it is not the plain kind.

    ``message`` is the parser's reading of it, and the parser was between two requests when ``data`` came.
    """
    end = data.find(b"\r\n\r\n", 0, LONGEST)
    if end < 0 or message.chunked or message.upgrade or head.http10 or head.expects or data[:1] in (b"\r", b"\n"):
        return None
    found = list(_LENGTH.finditer(data, 0, end + 2))
    if len(found) != 1 or not head.keep:
        return None
    head.sent_up = {}
    return Repeat(data[: found[0].start(1)], data[found[0].end(1) : end + 4], head)


@lru_cache(512)
def parse_target(target: str) -> tuple[str, str, str, bool]:
    """(decoded path, raw path, query, whether the path has dot segments) of a request target; slashes collapsed,
    absolute form accepted."""
    if not target.startswith("/"):
        scheme, found, rest = target.partition("://")
        if found and scheme.isalpha():
            slash = rest.find("/")
            target = rest[slash:] if slash >= 0 else "/"
    raw, _, query = target.partition("?")
    raw = raw.partition("#")[0]
    if "//" in raw:
        raw = _SLASHES.sub("/", raw)
    path = unquote(raw) if "%" in raw else raw
    return path, raw, query, "." in path and _DOTS.search(path) is not None


def _is_ours(name: bytes) -> bool:
    """Whether a header is one of ours; names that are not are remembered, within a bound."""
    if name[:10].lower() == b"x-sidecar-":
        return True
    if len(_ordinary) < 512:
        _ordinary.add(name)
    return False
