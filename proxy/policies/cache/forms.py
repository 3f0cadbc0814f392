"""What a follower gets of a flight that was started for another form of the same answer.

Calls that differ in ``stream`` and ``stream_options`` only ask the same question, so they share a flight:

    asked for      of a flight that is       gets
    whole          a stream                  its events added up, when all have come
    a stream       whole                     the events that a stream of it would have had, when it has come
    with usage     a stream without          the events as they come, and before the last one the usage, unless one of
                                             them has told it
    without usage  a stream with             the events as they come, without the one that holds the usage
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exact import read
from proxy.exchange import Answer
from proxy.policies.cache import serve
from proxy.policies.cache.keeping import openai_usage, with_usage
from proxy.stream.sse import Parser, events_of

if TYPE_CHECKING:
    from proxy.dialects.base import Dialect
    from proxy.exchange import RawHeaders, Sink, Source
    from proxy.flight import Flight
    from proxy.policies.cache.call import Call
    from proxy.stream.sse import Event

__all__ = ["joined"]

MOST: Final = 64 * 1024 * 1024
"""Bytes of a stream that are added up for who asked for a whole answer."""
ON_LOOP: Final = 64 * 1024
"""Bytes of it that are added up on the loop (2 ms); more is left to a thread."""


async def joined(flight: Flight, call: Call) -> Answer:
    """The flight's answer in the form that this caller asked for. Raises ProxyError."""
    exchange, dialect = call.exchange, call.dialect
    answer = await flight.join(exchange)
    if answer.source is None:
        if exchange.streaming and answer.status == 200 and answer.body is not None:
            return _as_events(answer, call)
    elif answer.events and not exchange.streaming:
        return await _added_up(answer, answer.source, flight, dialect)
    elif answer.events:
        wanted, has = serve.asks_usage(exchange, dialect), serve.asks_usage(flight.exchange, dialect)
        if wanted is not has:
            answer.source = _Restyled(answer.source, flight, dialect, add=wanted)
    return answer


def _as_events(answer: Answer, call: Call) -> Answer:
    body = answer.body
    try:
        # Not the body's own tree, in which large integers are rounded.
        tree = None if body is None else read(body.encode())
    except ValueError:
        tree = None
    if type(tree) is not dict:
        return answer
    if tree.get("error") or not call.dialect.finish(tree).complete:
        raise ProxyError("upstream_invalid_response", "The shared answer is none that could be told as events.")
    told = serve.events(call.exchange, call.dialect, tree)
    told.origin, told.headers = answer.origin, _retyped(answer.headers, told.headers)
    return told


async def _added_up(answer: Answer, source: Source, flight: Flight, dialect: Dialect) -> Answer:
    gathering = _Gathering(source)
    try:
        source.start(gathering)
        data = await gathering.over
    except BaseException as error:
        source.abort()
        if isinstance(error, Exception) and not isinstance(error, ProxyError):
            raise ProxyError("upstream_invalid_response", "The shared answer broke off.") from None
        raise
    if len(data) > ON_LOOP:
        tree = await asyncio.get_running_loop().run_in_executor(None, _sum, data, dialect)
    else:
        tree = _sum(data, dialect)
    if type(tree) is not dict:
        raise ProxyError("upstream_invalid_response", "The shared events do not add up to an answer.")
    pipe = flight.flow.pipe
    with_usage(tree, dialect, flight.exchange.usage, None if pipe is None else pipe.hidden_usage)
    headers = _retyped(answer.headers, [serve.JSON])
    return Answer(answer.status, headers, origin=answer.origin, body=Document.of(tree))


def _sum(data: bytes, dialect: Dialect) -> Any:
    return dialect.collect(events_of(data))


def _retyped(headers: RawHeaders, added: RawHeaders) -> RawHeaders:
    names = {name for name, _ in added}
    return [*(pair for pair in headers if pair[0].lower() not in names), *added]


class _Gathering:
    """A sink that waits for the end. over: all bytes, or why they broke off."""

    __slots__ = ("_pieces", "_size", "_source", "over")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pieces: list[bytes] = []
        self._size = 0
        self.over: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def feed(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MOST:
            self._source.abort()
            self.fail(ProxyError("upstream_invalid_response", f"The shared answer is larger than {MOST} bytes."))

    def finish(self) -> None:
        if not self.over.done():
            self.over.set_result(b"".join(self._pieces))

    def fail(self, error: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(error)


class _Restyled:
    """A stream on its way to one caller, with the usage added or left out. Source and sink at once."""

    __slots__ = ("_add", "_dialect", "_due", "_flight", "_last", "_parser", "_sink", "_source")

    def __init__(self, source: Source, flight: Flight, dialect: Dialect, *, add: bool) -> None:
        self._source = source
        self._flight = flight
        self._dialect = dialect
        self._add = self._due = add
        self._parser = Parser()
        self._sink: Sink | None = None
        self._last: Event | None = None

    def start(self, sink: Sink) -> None:
        self._sink = sink
        self._source.start(self)

    def pause(self) -> None:
        self._source.pause()

    def resume(self) -> None:
        self._source.resume()

    def abort(self) -> None:
        self._sink = None
        self._source.abort()

    def feed(self, data: bytes) -> None:
        self._pass(self._parser.feed(data))

    def finish(self) -> None:
        self._pass(self._parser.end())
        if self._due:  # there was no final event
            self._send(self._usage())
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.finish()

    def fail(self, error: Exception) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.fail(error)

    def _pass(self, events: list[Event]) -> None:
        out: list[Event] = []
        for event in events:
            reading = self._dialect.read(event)
            if reading.usage_only and not self._add:
                continue
            if reading.usage is not None:
                self._due = False  # clients add up what they are told
            if reading.final and self._due:
                out.extend(self._usage())
            elif type(event.json) is dict:
                self._last = event
            out.append(event)
        self._send(out)

    def _send(self, events: list[Event]) -> None:
        sink = self._sink
        if events and sink is not None:
            sink.feed(b"".join([event.encode() for event in events]))

    def _usage(self) -> list[Event]:
        """The event that the provider would have sent to who asked for it: said in the frame of the last one."""
        self._due = False
        pipe, last = self._flight.flow.pipe, self._last
        if pipe is None or pipe.usage is None or last is None:
            return []
        frame = {**last.json, "choices": [], "usage": pipe.hidden_usage or openai_usage(pipe.usage)}
        return self._dialect.replay(frame, include_usage=True)[:-1]
