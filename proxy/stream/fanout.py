"""One stream of events, many readers, each from the start and at its own speed.

A follower gets every event from the beginning. What has come is kept while it is under ``KEPT``
bytes, so that a new follower can still join; beyond that only what the slowest reader has not yet
taken is kept, and a reader that lags by more than ``KEPT`` is ended loudly. The upstream is read at
the pace of the fastest reader within that bound: it pauses only when every reader has paused. A stream that
nobody else may join (``keep`` is off) keeps nothing that its readers have taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError
from proxy.policy import Stage
from proxy.stream.sse import Event

if TYPE_CHECKING:
    from proxy.exchange import EndReason, Sink, Source

KEPT: Final = 4 * 1024 * 1024


class LaggingReaderError(ProxyError):
    """A reader took its events so slowly that they can no longer be kept for it."""

    def __init__(self) -> None:
        text = f"This answer is shared with other callers, and this one fell more than {KEPT >> 20} MiB behind them."
        super().__init__("overloaded", text)


def _nothing() -> None:
    return


class FanOut:
    """Takes bytes (``write``) that hold whole events; hands them to every ``Subscription``.

    It is the ``out`` of the pipe below a split. on_empty: called when the last reader leaves a stream that has not
    ended. keep: keep what has come for readers that join later. source: what is paused when no reader drinks.
    passing: the events that the next ``write`` holds, if whoever writes knows them (``Tap``): a single reader that
    understands events gets them as they are and parses nothing again. closing: the stream was stopped, and what is
    written now are its last events: they leave together with the reason (``fail``), since to some readers an answer is
    complete with its last event.
    """

    __slots__ = (
        "_dropped", "_ended", "_error", "_on_empty", "_paused", "_pieces", "_readers", "_size",
        "closing", "keep", "passing", "sealed", "source",
    )  # fmt: skip

    def __init__(self, on_empty: Callable[[], None], *, keep: bool = True) -> None:
        self._pieces: list[bytes] = []
        self._dropped = 0
        self._size = 0
        self._readers: list[Subscription] = []
        self._ended = False
        self._error: Exception | None = None
        self._on_empty = on_empty
        self._paused = False
        self.closing = False
        self.keep = keep
        self.passing: list[Event] = []
        self.source: Source | None = None
        self.sealed = False

    @property
    def joinable(self) -> bool:
        """Whether a new reader can still get everything from the start."""
        return self._dropped == 0 and not self.sealed and self._error is None

    @property
    def whole(self) -> bytes | None:
        """All bytes of the stream once it ended well and none were dropped; else None."""
        return b"".join(self._pieces) if self._ended and self._error is None and self._dropped == 0 else None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._ended

    def write(self, data: bytes) -> None:
        """One piece, at the pace it comes."""
        events, self.passing = self.passing, []
        readers = self._readers
        if events and not self.closing and len(readers) == 1 and readers[0]._takes(self._dropped + len(self._pieces)):
            if self.keep:
                self._pieces.append(data)
                self._size += len(data)
            else:
                self._dropped += 1
            readers[0]._take(events)
        else:
            self._pieces.append(data)
            self._size += len(data)
            for reader in tuple(readers):
                reader._more()
            if not self.keep:
                self._drop_taken()
        if self._size > KEPT:
            self._trim()
        self._balance()

    def end(self) -> None:
        """All pieces have come."""
        self._close(None)

    def fail(self, error: Exception) -> None:
        """The stream broke off; readers learn of it after the pieces that came."""
        self._close(error)

    def _close(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._error = error
        self.source = None
        for reader in tuple(self._readers):
            reader._more()

    def let_go(self) -> None:
        """Nobody has to know any more when the last reader leaves. The two would else hold each other, and every call
        would be garbage for the collector instead of freed at its end."""
        self._on_empty = _nothing

    def subscribe(self) -> Subscription:
        """A new reader, from the start."""
        reader = Subscription(self)
        self._readers.append(reader)
        self._balance()
        return reader

    def _drop_taken(self) -> None:
        """Forget what every reader has taken. Before the first reader, everything is kept for it."""
        if not self._readers:
            return
        count = min(reader.position for reader in self._readers) - self._dropped
        if count > 0:
            self._drop(count)

    def _drop(self, count: int) -> None:
        self._size -= sum(map(len, self._pieces[:count]))
        del self._pieces[:count]
        self._dropped += count

    def _trim(self) -> None:
        """Too much is kept: nobody can join any more, what was taken goes, and those that lag too far are ended."""
        self.sealed = True
        self._drop_taken()
        while self._size > KEPT and self._pieces:
            for reader in [reader for reader in self._readers if reader.position <= self._dropped]:
                reader._lagging()
            self._drop(1)

    def _balance(self) -> None:
        """Pause the source exactly while every reader has paused."""
        source = self.source
        if source is None or not self._readers:
            return
        for reader in self._readers:
            if not reader.paused:
                if self._paused:
                    self._paused = False
                    source.resume()
                return
        if not self._paused:
            self._paused = True
            source.pause()

    def _left(self, reader: Subscription) -> None:
        if reader in self._readers:
            self._readers.remove(reader)
            if self._readers:
                self._balance()
            elif not self._ended:
                self._on_empty()


class Subscription:
    """One reader: the Source of one caller's answer. leaves: called when it leaves before the end."""

    __slots__ = ("_events", "_fan", "_over", "_pushing", "_sink", "leaves", "paused", "position")

    def __init__(self, fan: FanOut) -> None:
        self._fan = fan
        self._sink: Sink | None = None
        self._events: Callable[[list[Event]], None] | None = None
        self._over = False
        self._pushing = False
        self.leaves: Callable[[], None] = _nothing
        self.paused = False
        self.position = fan._dropped

    def start(self, sink: Sink) -> None:
        """Push everything that came so far, and then what comes."""
        if self._over:  # ended for lagging before it began
            sink.fail(LaggingReaderError())
            return
        self._sink = sink
        self._events = getattr(sink, "take", None)
        self._more()

    def pause(self) -> None:
        """This reader is full; the others go on."""
        if not self.paused:
            self.paused = True
            self._fan._balance()

    def resume(self) -> None:
        """This reader drinks again."""
        if self.paused:
            self.paused = False
            self._fan._balance()
            self._more()

    def abort(self) -> None:
        """This reader has left; the others do not notice."""
        self._over = True
        leaves, self.leaves = self.leaves, _nothing
        leaves()
        self._sink = self._events = None
        self._fan._left(self)

    def _takes(self, end: int) -> bool:
        """Whether this reader has everything up to ``end`` and takes events."""
        return self._events is not None and self.position == end and not (self.paused or self._over or self._pushing)

    def _take(self, events: list[Event]) -> None:
        self.position += 1
        sink = self._sink
        assert self._events is not None and sink is not None
        try:
            self._events([Event(event.encode()) if event.edited else event for event in events])
        except Exception as error:  # as in `_more`
            self.abort()
            sink.fail(error)

    def _more(self) -> None:
        fan, sink = self._fan, self._sink
        if sink is None or self._over or self._pushing or (fan.closing and not fan._ended):
            return
        self._pushing = True
        try:
            while not self.paused and not self._over and self.position < fan._dropped + len(fan._pieces):
                piece = fan._pieces[self.position - fan._dropped]
                self.position += 1
                sink.feed(piece)
        except Exception as error:  # one reader's trouble must not reach the others
            self.abort()
            sink.fail(error)
            return
        finally:
            self._pushing = False
        if fan._ended and not self._over and not self.paused and self.position >= fan._dropped + len(fan._pieces):
            self._over = True
            self._sink = self._events = None
            self.leaves = _nothing
            fan._left(self)
            if fan._error is None:
                sink.finish()
            else:
                sink.fail(fan._error)

    def _lagging(self) -> None:
        sink, self._sink = self._sink, None
        self._events = None
        self._over = True
        self._fan._left(self)
        if sink is not None:
            sink.fail(LaggingReaderError())


class Tap(Stage):
    """The last stage of the pipe that writes into a ``FanOut``: says which events the next write holds."""

    __slots__ = ("_fan",)

    def __init__(self, fan: FanOut) -> None:
        self._fan = fan

    def feed(self, event: Event) -> Sequence[Event]:
        self._fan.passing.append(event)
        return (event,)

    def end(self, reason: EndReason) -> Sequence[Event]:
        self._fan.closing = reason == "stopped"
        return ()


class Replay:
    """A source of events that are all here already: a cache hit as a stream. One piece a loop turn, so that
    a large replay neither blocks the loop nor fills a slow client's buffer."""

    __slots__ = ("_handle", "_paused", "_pieces", "_position", "_sink")

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._position = 0
        self._sink: Sink | None = None
        self._paused = False
        self._handle: asyncio.Handle | None = None

    @classmethod
    def raw(cls, data: bytes) -> Replay:
        """From the bytes of a stream."""
        return cls([data[at : at + 32 * 1024] for at in range(0, len(data), 32 * 1024)])

    @classmethod
    def of(cls, events: list[Event]) -> Replay:
        """From events; small ones travel together."""
        pieces: list[bytes] = []
        batch: list[bytes] = []
        size = 0
        for event in events:
            data = event.encode()
            batch.append(data)
            size += len(data)
            if size > 32 * 1024:
                pieces.append(b"".join(batch))
                batch, size = [], 0
        if batch:
            pieces.append(b"".join(batch))
        return cls(pieces)

    def start(self, sink: Sink) -> None:
        """Begin."""
        self._sink = sink
        self._push()

    def pause(self) -> None:
        """Wait."""
        self._paused = True

    def resume(self) -> None:
        """Go on in the next turn."""
        if self._paused:
            self._paused = False
            if self._handle is None and self._sink is not None:
                self._handle = asyncio.get_running_loop().call_soon(self._push)

    def abort(self) -> None:
        """Stop."""
        self._sink = None

    def _push(self) -> None:
        self._handle = None
        sink = self._sink
        if sink is None or self._paused:
            return
        if self._position < len(self._pieces):
            piece = self._pieces[self._position]
            self._position += 1
            sink.feed(piece)
        if self._sink is None or self._paused:
            return
        if self._position >= len(self._pieces):
            self._sink = None
            sink.finish()
        else:
            self._handle = asyncio.get_running_loop().call_soon(self._push)
