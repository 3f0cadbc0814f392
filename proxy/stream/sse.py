"""Server-sent events: bytes in, events out, the same bytes out again.

The parser only finds where events end; what stands in one is looked at when someone asks. An event that nobody
edits leaves as exactly the bytes it came in, so the concatenated ``raw`` of all events is the stream itself.

Lines end at ``\\r\\n``, ``\\n`` or ``\\r`` and at nothing else (U+2028 and its like belong to the text), on bytes,
so a character cut between two chunks does no harm. An empty line ends an event, which leaves at once. When a chunk
is cut between ``\\r`` and ``\\n``, the event leaves at ``\\r`` and the late ``\\n`` passes as an event without data.

Source of the format: WHATWG HTML, "Server-sent events", section "Interpreting an event stream".
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from proxy.errors import ProxyError
from proxy.exact import rounds, slowly, written

__all__ = ["MAX_EVENT", "Event", "EventTooLargeError", "Parser", "events_of"]

MAX_EVENT: Final = 8 * 1024 * 1024
"""Bytes of one unfinished event that a parser holds before it gives up."""

_BOM: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
# Atomic groups: without them a lone \r\n would be tried again as two line ends.
_EVENT_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LF: Final = 10
_UNREAD: Final[Any] = object()


class EventTooLargeError(ProxyError):
    """An upstream's event grew beyond what is held for one."""

    def __init__(self, held: int, bound: int) -> None:
        super().__init__(
            "upstream_invalid_response",
            f"the upstream sent {held} bytes of one server-sent event without ending it; at most {bound} are held",
        )


class Event:
    """One server-sent event.

    raw: exactly the bytes it came in, terminator included.
    data: its ``data`` lines joined with a newline, None when it has none (a comment, a bare newline).
    name: the ``event`` field, None without one.
    json: the parsed data, None when that is not JSON (``[DONE]``). It may be edited in place; say so with ``touch``.
    reading: where the dialect keeps what it made of the event; read it with ``Dialect.read``.

    ``data``, ``name`` and ``json`` are worked out when first asked for and then kept.
    """

    __slots__ = ("_data", "_json", "_name", "_span", "edited", "raw", "reading")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.edited = False
        self.reading: Any = None
        self._json: Any = _UNREAD
        self._data: Any = _UNREAD
        self._span: tuple[int, int] | None = None

    @property
    def data(self) -> bytes | None:
        """The ``data`` lines joined with a newline; None without any."""
        data: bytes | None = self._data
        if data is _UNREAD:
            if self.edited:
                self._data = data = written(self.json)
            else:
                self._split()
                data = self._data
        return data

    @property
    def name(self) -> str | None:
        """The ``event`` field; None without one."""
        if self._data is _UNREAD or self.edited:
            data = self._data
            self._split()
            if self.edited:
                self._data = data  # what stands in ``raw`` is old
        name: str | None = self._name
        return name

    @property
    def json(self) -> Any:
        """The parsed data, None when it is not JSON. May be edited in place; say so with ``touch``."""
        value = self._json
        if value is _UNREAD:
            if self._span is not None:
                return self._unframed()
            raw = self.raw
            if raw.startswith(b"data: {") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
                try:
                    value = orjson.loads(raw[6:])
                except orjson.JSONDecodeError:
                    value = _load(raw[6:])
            else:
                data = self.data
                value = None if data is None else _load(data)
            self._json = value
        return value

    @property
    def done(self) -> bool:
        """Whether this is OpenAI's last event, ``data: [DONE]``."""
        return b"[DONE]" in self.raw and self.data == b"[DONE]"

    def touch(self) -> None:
        """Say that ``json`` was edited: ``encode`` writes it anew. Without JSON there is nothing to edit."""
        if self._span is not None or self.json is not None:
            self.edited = True
            self._data = _UNREAD

    def encode(self) -> bytes:
        """The bytes to send: ``raw`` while nothing was edited, else every other line as it was and one data line."""
        if not self.edited:
            return self.raw
        raw = self.raw
        if self._span is not None:
            start, stop = self._span
            return raw[:start] + written(self.reading.pieces[0].text) + raw[stop:]
        payload = self.data or b""
        if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2:
            return b"data: " + payload + b"\n\n"
        end = b"\r\n" if b"\r\n" in raw else b"\n" if b"\n" in raw else b"\r"
        out: list[bytes] = []
        done = False
        for line in _LINE_END.split(raw):
            if line.removeprefix(_BOM).partition(b":")[0] != b"data":
                if line:
                    out.append(line + end)
            elif not done:
                done = True
                out.append((_BOM if line.startswith(_BOM) else b"") + b"data: " + payload + end)
        out.append(end)
        return b"".join(out)

    def exactly(self) -> None:
        """Parse the data now, with integers beyond 64 bits as they stand there: ``json`` rounds them."""
        data = self.data
        if data is not None:
            try:
                self._json = slowly(data)
            except ValueError:
                self._json = None

    def frame(self, start: int, stop: int) -> None:
        """Say that ``raw[start:stop]`` is the only piece of ``reading`` as a JSON string: until somebody asks for
        ``json`` the piece stands alone, and an edit of it is written in the string's place."""
        self._span = (start, stop)

    def _unframed(self) -> Any:
        """``json`` of an event whose piece stood alone: the piece is then an edit of the tree again."""
        self._span = None
        edited, self.edited = self.edited, False
        tree = self.json
        if edited:
            self.edited, self._data = True, _UNREAD
        piece = self.reading.pieces[0]
        holder = tree
        for step in piece.path[:-1]:
            holder = holder[step]
        holder[piece.key] = piece.text
        piece.holder = holder
        return tree

    def fork(self) -> Event:
        """An independent event with the same bytes: nothing that can be edited is shared."""
        return Event(self.encode())

    @staticmethod
    def made(data: Any, name: str | None = None) -> Event:
        """A new event of our own. data: a value to write as JSON, or bytes to stand as they are (``b"[DONE]"``)."""
        payload = bytes(data) if isinstance(data, bytes | bytearray) else written(data)
        if b"\n" in payload or b"\r" in payload:
            payload = b"\ndata: ".join(_LINE_END.split(payload))
        head = b"" if name is None else b"event: " + name.encode() + b"\n"
        return Event(head + b"data: " + payload + b"\n\n")

    def _split(self) -> None:
        """Fill ``data`` and ``name``, by slicing in the two shapes that nearly all events have."""
        raw = self.raw
        last = len(raw) - 2
        if b"\r" not in raw:
            first = raw.find(b"\n")
            if first == last and raw.startswith(b"data: "):
                self._name: str | None = None
                self._data = raw[6:-2]
                return
            if (
                raw.startswith(b"event: ")
                and raw.startswith(b"\ndata: ", first)
                and raw.find(b"\n", first + 1) == last
                and raw.endswith(b"\n\n")
            ):
                self._name = raw[7:first].decode("utf-8", "replace")
                self._data = raw[first + 7 : -2]
                return
        data: list[bytes] = []
        name: str | None = None
        for line in _LINE_END.split(raw.removeprefix(_BOM)):
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.removeprefix(b" ").decode("utf-8", "replace")
        self._name = name
        self._data = b"\n".join(data) if data else None

    def __repr__(self) -> str:
        return f"Event({self.encode()!r})"


class Parser:
    """Cuts a byte stream into events. One parser per stream; every byte is looked at a bounded number of times.

    held: the bytes of an event whose end has not come; the same object for as long as the stream lasts.
    """

    __slots__ = ("held", "max_event")

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self.max_event = max_event
        self.held = bytearray()

    @property
    def pending(self) -> int:
        """Bytes held of an event whose end has not come."""
        return len(self.held)

    def feed(self, data: bytes) -> list[Event]:
        """The events that end within ``data``, in order.

        Raises:
            EventTooLargeError: more than ``max_event`` bytes came without an end.
        """
        held = self.held
        if held:
            seen = max(0, len(held) - 2)
            held += data
            if held.find(b"\n\n", seen) < 0 and _EVENT_END.search(held, seen) is None:
                if len(held) > self.max_event:
                    raise EventTooLargeError(len(held), self.max_event)
                return []
            data = bytes(held)
            held.clear()
        # Nearly every read is one event: its first empty line stands at its end.
        if data.find(b"\n\n") + 2 == len(data) > 2 and b"\r" not in data and data[0] != _LF:
            return [Event(data)]
        if b"\r" in data or b"\n\n\n" in data or data.startswith(b"\n"):
            if not _only_crlf(data):
                return self._scan(data)
            parts = data.split(b"\r\n\r\n")
            self._hold(parts.pop())
            return [Event(part + b"\r\n\r\n") for part in parts]
        parts = data.split(b"\n\n")
        self._hold(parts.pop())
        return [Event(part + b"\n\n") for part in parts]

    def end(self) -> list[Event]:
        """What is left without a terminator, as one event."""
        if not self.held:
            return []
        left = bytes(self.held)
        self.held.clear()
        return [Event(left)]

    def _scan(self, data: bytes) -> list[Event]:
        """The slower way, for lone or mixed line ends and runs of empty lines."""
        events: list[Event] = []
        start, size = 0, len(data)
        while start < size:
            if data[start] in b"\r\n":  # an empty line with nothing before it
                end = start + (2 if data.startswith(b"\r\n", start) else 1)
            else:
                found = _EVENT_END.search(data, start)
                if found is None:
                    break
                end = found.end()
            events.append(Event(data[start:end]))
            start = end
        self._hold(data[start:])
        return events

    def _hold(self, rest: bytes) -> None:
        self.held += rest
        if len(rest) > self.max_event:
            raise EventTooLargeError(len(rest), self.max_event)


def events_of(data: bytes) -> list[Event]:
    """All events of a stream that is here as a whole; no integer in them is rounded.

    Raises:
        EventTooLargeError: see ``Parser``.
    """
    parser = Parser()
    events = [*parser.feed(data), *parser.end()]
    if rounds(data):
        for event in events:
            event.exactly()
    return events


def _only_crlf(data: bytes) -> bool:
    """Whether every line end is ``\\r\\n`` and no event is empty, so that events can be cut by splitting."""
    ends = data.count(b"\r\n")
    return (
        data.count(b"\r") == ends == data.count(b"\n") and b"\r\n\r\n\r\n" not in data and not data.startswith(b"\r\n")
    )


def _load(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # Servers written in Python send NaN among log probabilities, and escapes may cut a surrogate pair between
        # two events: neither is strict JSON, both must still be inspected. [DONE] and plain garbage end here.
        if not data.lstrip().startswith(b"{"):
            return None
        try:
            return slowly(data)
        except ValueError:
            return None
