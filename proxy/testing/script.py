"""The usual steps of a ``FakeUpstream`` script: whole answers, streams, and every way to fail."""

from __future__ import annotations

import asyncio
import gzip as gzip_module
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Literal

import orjson

from proxy.testing.upstream import Call, Step

Framing = Literal["length", "chunked", "close"]
"""How the end of a body is known: content-length, chunks, or the end of the connection."""
Stage = Literal["before_head", "in_head", "after_head", "in_body"]
"""Where a failure strikes: before any byte, in the middle of the head, after it, in the middle of the body."""
Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_PART = b'{"id": "chatcmpl-cut", "object": "chat.completion", "choi'


def _head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def _pairs(headers: Headers | None) -> list[tuple[str, str]]:
    if headers is None:
        return []
    return list(headers.items()) if isinstance(headers, Mapping) else list(headers)


def _framed(framing: Framing, length: int) -> tuple[str, str]:
    match framing:
        case "length":
            return ("content-length", str(length))
        case "chunked":
            return ("transfer-encoding", "chunked")
        case "close":
            return ("connection", "close")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def reply(
    json: Any = None,
    *,
    status: int = 200,
    headers: Headers | None = None,
    body: bytes | None = None,
    content_type: str | None = "application/json",
    framing: Framing = "length",
    gzip: bool = False,
    delay: float = 0.0,
    early: bool = False,
    pieces: int = 1,
) -> Step:
    """A whole answer. json or body: what it says. delay: seconds before the head. early: answer when the request's
    head is there, without reading its body. pieces: how many chunks (or writes) the body leaves in."""
    data = body if body is not None else orjson.dumps(json)
    if gzip:
        data = gzip_module.compress(data, mtime=0)

    async def step(call: Call) -> None:
        if delay:
            await asyncio.sleep(delay)
        given = _pairs(headers)
        if content_type is not None and all(name.lower() != "content-type" for name, _ in given):
            given.insert(0, ("content-type", content_type))
        if gzip:
            given.append(("content-encoding", "gzip"))
        bodiless = call.method == "HEAD" or status in (204, 304)
        if status != 204:
            given.append(_framed("length" if bodiless else framing, len(data)))
        call.write(_head(status, given))
        if not bodiless:
            size = max(1, -(-len(data) // pieces))
            for start in range(0, len(data), size):
                part = data[start : start + size]
                call.write(_chunk(part) if framing == "chunked" else part)
                await call.drain()
            if framing == "chunked":
                call.write(b"0\r\n\r\n")
        if early or framing == "close":
            call.close()

    step.early = early  # type: ignore[attr-defined]
    return step


def events(
    *what: bytes | str | Mapping[str, Any],
    status: int = 200,
    headers: Headers | None = None,
    held: bool = False,
    gap: float = 0.0,
    framing: Framing = "chunked",
    gzip: bool = False,
    then: Literal["end", "reset", "close", "hang"] = "end",
) -> Step:
    """A stream of server-sent events. Each of ``what`` is one: bytes leave as they are, a string is the data of an
    event, a mapping its JSON.

    held: each event waits for ``call.release()`` (``upstream.release()``). gap: seconds between events.
    then: after the last event end in good order, reset, close without the framing's end, or go silent. gzip: each
    event is flushed through one gzip stream.
    """

    async def step(call: Call) -> None:
        given = _pairs(headers)
        if all(name.lower() != "content-type" for name, _ in given):
            given.insert(0, ("content-type", "text/event-stream; charset=utf-8"))
        if gzip:
            given.append(("content-encoding", "gzip"))
        encoded = [_event(one) for one in what]
        call.write(_head(status, [*given, _framed(framing, sum(map(len, encoded)))]))
        squeeze = _Gzip() if gzip else None
        for index, data in enumerate(encoded):
            if held:
                await call.turn()
            elif gap and index:
                await asyncio.sleep(gap)
            out = squeeze.flush(data) if squeeze else data
            call.write(_chunk(out) if framing == "chunked" else out)
            await call.drain()
        if then == "hang":
            await asyncio.Event().wait()
        if then == "reset":
            # What was written has to reach the client before the reset throws it away.
            await asyncio.sleep(0.02)
            call.reset()
        elif then == "close":
            call.close()
        else:
            if squeeze and framing == "chunked":
                call.write(_chunk(squeeze.end()))
            if framing == "chunked":
                call.write(b"0\r\n\r\n")
            elif framing == "close":
                call.close()

    return step


class _Gzip:
    def __init__(self) -> None:
        import zlib  # noqa: PLC0415 - only for the few steps that compress a stream

        self._stream = zlib.compressobj(wbits=31)
        self._flush = zlib.Z_SYNC_FLUSH

    def flush(self, data: bytes) -> bytes:
        return self._stream.compress(data) + self._stream.flush(self._flush)

    def end(self) -> bytes:
        return self._stream.flush()


def _event(one: bytes | str | Mapping[str, Any]) -> bytes:
    if isinstance(one, bytes):
        return one
    data = one.encode() if isinstance(one, str) else orjson.dumps(one)
    return b"data: " + data + b"\n\n"


def _up_to(stage: Stage) -> bytes:
    head = _head(200, [("content-type", "application/json"), ("content-length", "500")])
    match stage:
        case "before_head":
            return b""
        case "in_head":
            return head[:30]
        case "after_head":
            return head
        case "in_body":
            return head + _PART


def reset(stage: Stage = "before_head") -> Step:
    """Answer up to ``stage``, then a TCP reset."""

    async def step(call: Call) -> None:
        if stage != "before_head":
            call.write(_up_to(stage))
            await asyncio.sleep(0.02)  # or the reset overtakes what was written
        call.reset()

    return step


def close(stage: Stage = "before_head") -> Step:
    """Answer up to ``stage``, then close in good order: the framing is broken, TCP is not."""

    async def step(call: Call) -> None:
        call.write(_up_to(stage))
        call.close()

    return step


def hang(stage: Stage = "before_head") -> Step:
    """Answer up to ``stage``, then say nothing more until the client leaves or the server stops."""

    async def step(call: Call) -> None:
        call.write(_up_to(stage))
        await asyncio.Event().wait()

    return step


def garbage(data: bytes = b"\x16\x03\x01 this is not HTTP\r\n\r\n") -> Step:
    """Answer with bytes that are no HTTP, then close."""

    async def step(call: Call) -> None:
        call.write(data)
        call.close()

    return step
