"""The way of a stream that somebody reads: bytes in, events through the stages, bytes out.

Everything happens synchronously inside the transport's ``data_received``: no task, no queue, no
future per event. The call's task sleeps until one of two moments:

* **commit**: the first event that carries content, a tool call or a finish (rule 3). Until then
  events are held and nothing has reached the client, so the attempt may still be thrown away.
* **end**: the answer is complete (the dialect's final event came, or the framing ended), broke
  off, or was stopped by a stage. The last piece is held as ``tail`` until the call is settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from proxy.dialects.base import NOTHING, Plain
from proxy.errors import ProxyError
from proxy.policy import Stop
from proxy.stream.sse import Parser

if TYPE_CHECKING:
    from proxy.accounting.usage import Usage
    from proxy.dialects.base import Dialect
    from proxy.exchange import EndReason, Source
    from proxy.policy import Stage
    from proxy.stream.sse import Event

HELD_BYTES: Final = 256 * 1024
"""What is held before the commit at most; beyond it the stream commits as it is."""


class Out(Protocol):
    """Where the bytes leave."""

    def write(self, data: bytes) -> None:
        """Send ``data`` now; the receiver slows the source down by itself."""


class Decoder(Protocol):
    """Undoes a content coding piece by piece."""

    def feed(self, data: bytes) -> bytes:
        """What can be decoded so far."""

    def finish(self) -> bytes:
        """The rest."""


@dataclass(frozen=True, slots=True)
class End:
    """How a stream ended. error: what the client is told when it did not end well."""

    reason: EndReason
    error: ProxyError | None = None
    cause: Exception | None = None


class Pipe:
    """Sink of a source's bytes (``feed``, ``finish``, ``fail``) and owner of the stages.

    usage: the last token counts seen. chars: characters of text seen, for an estimate when the provider is
    silent. finish_reason, model, service: as the provider said. error_event: the provider's own error event came.
    """

    __slots__ = (
        "_committed", "_counted", "_decoder", "_dialect", "_ended_stages", "_final", "_finished", "_held",
        "_held_bytes", "_hidden", "_hide_usage", "_out", "_parser", "_read", "_reader", "_released", "_skim", "_skims",
        "_source", "_stages", "_unfinished", "_waiter",
        "chars", "end", "error_event", "events", "finish_reason", "last", "model", "service", "tail", "usage",
    )  # fmt: skip

    def __init__(
        self, dialect: Dialect, source: Source, *, hide_usage: bool = False, decoder: Decoder | None = None
    ) -> None:
        self._dialect = dialect
        self._reader = reader = dialect.reader()
        self._read = reader.read
        self._skim = reader.skim
        self._source = source
        self._decoder = decoder
        self._hide_usage = hide_usage
        self._hidden: Event | None = None
        self._parser = parser = Parser()
        self._unfinished = parser.held
        self._skims = False  # nobody looks at events: their texts are counted, and the bytes pass
        self._stages: Sequence[Stage] = ()
        self._out: Out | None = None
        self._held: list[Event] = []
        self._held_bytes = 0
        self._committed = False
        self._counted = 0  # the characters of text that had come with the last token counts
        self._final = False
        self._finished = False
        self._released = False
        self._ended_stages = False
        self._waiter: asyncio.Future[None] | None = None
        self.tail: list[bytes] = []
        self.last = b""  # the bytes that left last
        self.end: End | None = None
        self.usage: Usage | None = None
        self.chars = 0
        self.events = 0
        self.finish_reason: str | None = None
        self.model: str | None = None
        self.service = ""
        self.error_event: Event | None = None

    # --- the transport's side ------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes of one read."""
        if self.end is not None:
            if not self._final:
                return
        elif self._skims and not self._final and not self._unfinished:
            count, chars = self._skim(data)
            if count:
                self.events += count
                self.chars += chars
                self.model = self._reader.model or self.model
                if self._out is not None:
                    self.last = data
                    self._out.write(data)
                return
        try:
            if self._decoder is not None:
                data = self._decoder.feed(data)
            events = self._parser.feed(data)
        except Exception as error:
            self._source.abort()
            self.fail(error)
            return
        if events:
            self.take(events)

    def take(self, events: list[Event]) -> None:
        """Events of one read, for a source that has events already."""
        read = self._read
        if len(events) == 1 and self._committed and self._out is not None and self.end is None and not self._final:
            # The usual case without the detour: one more text in the middle of an answer.
            reading = read(events[0])
            if type(reading) is Plain:
                piece = reading.pieces[0]
                self.chars += len(piece.holder[piece.key])
                self.model = reading.model or self.model
                self.events += 1
                self._push(events)
                return
        passed: list[Event] = []
        final: list[Event] = []
        for event in events:
            reading = read(event)
            if type(reading) is Plain:
                piece = reading.pieces[0]
                self.chars += len(piece.holder[piece.key])
                if reading.model is not None:
                    self.model = reading.model
                if reading.commits and not self._committed:
                    self._commit()
                (final if self._final else passed).append(event)
                continue
            if reading is NOTHING:
                (final if self._final else passed).append(event)
                continue
            for piece in reading.pieces:
                if not piece.whole:
                    self.chars += len(piece.holder[piece.key])
            if reading.usage is not None:
                self.usage = self._dialect.join_usage(self.usage, reading.usage)
                self._counted = self.chars
            if reading.model is not None:
                self.model = reading.model
            if reading.service:
                self.service = reading.service
            if reading.finish is not None:
                self.finish_reason = reading.finish
            if reading.error:
                self.error_event = event
            if reading.usage_only and self._hide_usage:
                self._hidden = event
                continue
            if reading.final:
                self._final = True
            if reading.commits:
                self._commit()
            (final if self._final else passed).append(event)
        self.events += len(passed) + len(final)
        if self._out is None:
            # Not attached yet: keep the order, note where the final event stands by keeping it last.
            self._held.extend(passed)
            self._held.extend(final)
            self._held_bytes += sum(len(event.raw) for event in events)
            if self._final or self.error_event is not None or self._held_bytes > HELD_BYTES:
                self._commit()
            if self._held_bytes > HELD_BYTES:
                self._source.pause()
            return
        if passed:
            self._push(passed)
        if final and self.end is None:
            self._hold_tail(final)
        elif final:
            self._late(final)

    def finish(self) -> None:
        """The source's framing ended."""
        if self._finished:
            return
        rest: list[Event] = []
        try:
            if self._decoder is not None:
                data = self._decoder.finish()
                rest = self._parser.feed(data) if data else []
            rest += self._parser.end()
        except Exception as error:
            self.fail(error)
            return
        if rest:
            self.take(rest)
        self._finished = True
        if self.end is None and self._out is not None:
            self._finish_now()
        self._wake()

    def fail(self, error: Exception) -> None:
        """The source broke off."""
        if self._finished:
            return
        self._finished = True
        if self.end is None:
            if self._final and self._out is None and not isinstance(error, ProxyError):
                pass  # complete before it broke: nobody needs to know
            else:
                reason: EndReason = "truncated" if type(error).__name__ == "Truncated" else "upstream_failed"
                self._close(End(reason, None, error))
        elif isinstance(error, ProxyError) and self.end.reason == "finished" and not self._released:
            # What came last looked like the end of an answer, and was how somebody before us stopped it.
            self.end = End("upstream_failed", None, error)
        self._wake()

    def pause(self) -> None:
        """The receiver is full."""
        self._source.pause()

    def resume(self) -> None:
        """The receiver drinks again."""
        self._source.resume()

    # --- the call's side -----------------------------------------------------------------------

    async def wait_commit(self) -> None:
        """Until something worth sending came, or the stream ended."""
        while not (self._committed or self._finished or self.end is not None):
            await self._sleep()

    async def wait_end(self) -> End:
        """Until the answer is complete or broken. The last piece stands in ``tail``."""
        while self.end is None:
            await self._sleep()
        return self.end

    async def wait_finished(self) -> None:
        """Until the source has nothing more."""
        while not self._finished:
            await self._sleep()

    @property
    def committed(self) -> bool:
        """Whether content, a tool call or a finish has come."""
        return self._committed

    @property
    def finished(self) -> bool:
        """Whether the source has nothing more."""
        return self._finished

    @property
    def final(self) -> bool:
        """Whether the dialect's final event has come."""
        return self._final

    @property
    def complete(self) -> bool:
        """Whether what came is a whole answer, as far as its dialect can tell."""
        return self._final or self.finish_reason is not None or not self._dialect.streams_end_with_done

    @property
    def counted(self) -> bool:
        """Whether the last token counts are those of the whole answer: it has ended, and no text came after them.
        Counts that came earlier (Anthropic's first event, counts in every chunk) are behind what was streamed."""
        ended = (
            self._final or self.finish_reason is not None or (self.end is not None and self.end.reason == "finished")
        )
        return ended and self.usage is not None and self._counted == self.chars

    @property
    def hidden_usage(self) -> Any:
        """The usage in the event that is hidden from the client, as the provider told it. None: there was none."""
        body = None if self._hidden is None else self._hidden.json
        return body.get("usage") if type(body) is dict else None

    def attach(self, stages: Sequence[Stage], out: Out) -> None:
        """From now on events go through ``stages`` (innermost first) and leave by ``out``; held ones at once."""
        self._stages = stages
        self._out = out
        self._skims = not stages and self._decoder is None
        held, self._held = self._held, []
        paused = self._held_bytes > HELD_BYTES
        # A source that broke off before anybody was attached: what had come leaves first, then the end is told.
        broken = self.end if self.end is not None and self.end.cause is not None else None
        if broken is not None:
            self.end = None
        if held:
            self._replay(held)
        if broken is not None and self.end is not None and self.end.reason == "finished":
            self.end = broken  # see `fail`
        elif self.end is None:
            if broken is not None:
                self._close(broken)
            elif self._finished:
                self._finish_now()
            elif paused:
                self._source.resume()

    def release(self) -> None:
        """The call is settled: let the last piece go."""
        self._released = True
        tail, self.tail = self.tail, []
        if tail and self._out is not None:
            self.last = data = b"".join(tail)
            self._out.write(data)

    def cut(self, error: ProxyError) -> End:
        """The call ends here for a reason of ours, unless its answer is complete. Returns how it ended."""
        if self.end is None:
            self._source.abort()
            self.fail(error)
        assert self.end is not None
        return self.end

    def cancel(self) -> None:
        """The client has left: nothing is written any more, the stages learn of it."""
        self._source.abort()
        if self.end is None:
            self.end = End("cancelled")
            self._end_stages("cancelled")
        self._finished = True
        self._out = None

    # --- inside --------------------------------------------------------------------------------

    def _replay(self, held: list[Event]) -> None:
        """Held events leave in order, at once, but for the final one and what follows it."""
        for index, event in enumerate(held):
            if event.reading is not None and event.reading.final:
                if index:
                    self._push(held[:index])
                if self.end is None:
                    self._hold_tail(held[index:])
                return
        self._push(held)

    def _push(self, events: list[Event]) -> None:
        if self.end is not None and not self._final:
            return
        out = self._through(events, 0)
        if out and self._out is not None:
            self.last = data = b"".join([event.encode() for event in out]) if len(out) > 1 else out[0].encode()
            self._out.write(data)

    def _through(self, events: Sequence[Event], first: int) -> Sequence[Event]:
        """Events through the stages from ``first`` on. A Stop ends the stream and returns what still leaves."""
        for number in range(first, len(self._stages)):
            stage = self._stages[number]
            out: list[Event] = []
            for event in events:
                said = stage.feed(event)
                if isinstance(said, Stop):
                    out.extend(said.events)
                    self._source.abort()
                    self._finished = True
                    self._ended_stages = True
                    for ended in self._stages[: number + 1]:
                        ended.end("stopped")  # what they hold comes after the place of the stop: it is not shown
                    above = list(self._through(out, number + 1))
                    above.extend(self._flush("stopped", number + 1))
                    if self.end is None:
                        self.end = End("stopped", said.error)
                    self._wake()
                    return above
                out.extend(said)
            events = out
        return events

    def _hold_tail(self, final: list[Event]) -> None:
        """The final event came: the stages flush in front of it, and what follows waits until the call is settled."""
        self._ended_stages = True
        out = self._flush("finished", 0, final)
        self.tail.extend(event.encode() for event in out)
        if self.end is None:
            self.end = End("finished")
        self._wake()

    def _late(self, events: list[Event]) -> None:
        """What a provider sends after its final event: the stages have ended, so texts that they cannot see any more
        do not leave."""
        if self.end is None or self.end.reason != "finished":
            return
        read = self._dialect.read
        data = b"".join([event.encode() for event in events if not read(event).pieces])
        if not self._released:
            self.tail.append(data)
        elif data and self._out is not None:
            self._out.write(data)

    def _finish_now(self) -> None:
        if self.error_event is not None:
            self._close(End("upstream_failed"))
        else:
            self._close(End("finished" if self.complete else "truncated"))

    def _close(self, end: End) -> None:
        """The stream is over: the stages flush, and what they held leaves with the last piece."""
        if self._out is not None:
            flushed = self._end_stages(end.reason)
            if flushed:
                self.tail.append(b"".join([event.encode() for event in flushed]))
        if self.end is None:
            self.end = end
        self._wake()

    def _end_stages(self, reason: EndReason) -> list[Event]:
        if self._ended_stages:
            return []
        self._ended_stages = True
        return self._flush(reason, 0)

    def _flush(self, reason: EndReason, first: int, last: Sequence[Event] = ()) -> list[Event]:
        """What the stages from ``first`` on still hold, in front of ``last``; each one's rest passes those above it.
        A Stop here is one as well: nothing follows it, and a stream that would have ended well ends stopped."""
        rest: list[Event] = []
        for number in range(first, len(self._stages)):
            stage = self._stages[number]
            before, stop = _fed(stage, rest)
            after: list[Event] = []
            if stop is None:
                after, stop = _fed(stage, last)
            held = stage.end("stopped" if stop is not None else reason)
            if stop is None:
                rest, last = [*before, *held], after
                continue
            rest, last = before + after, ()
            if reason == "finished":
                reason = "stopped"
                self._source.abort()
                self._finished = True
                if self.end is None:
                    self.end = End("stopped", stop.error)
        return [*rest, *last]

    def _commit(self) -> None:
        if not self._committed:
            self._committed = True
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _sleep(self) -> None:
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None


def _fed(stage: Stage, events: Sequence[Event]) -> tuple[list[Event], Stop | None]:
    """What leaves a stage for some events, up to its Stop."""
    out: list[Event] = []
    for event in events:
        said = stage.feed(event)
        if isinstance(said, Stop):
            out.extend(said.events)
            return out, said
        out.extend(said)
    return out, None
