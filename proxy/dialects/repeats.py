"""Events that differ from the one before in a single text: read without parsing their JSON.

A stream sends the same frame hundreds of times and changes a few letters in it. Once an event has been read whole and
proved to be a frame around one text, an event that begins and ends with the same bytes and has a JSON string between
them is the same object with another string: the grammar leaves no other reading. Its tree is parsed only if somebody
asks for it. One reader belongs to one stream; it keeps one frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from orjson import JSONDecodeError, JSONEncodeError, dumps, loads

from proxy.dialects.base import Piece, Plain, Reader, Reading

if TYPE_CHECKING:
    from proxy.dialects.base import Channel, Dialect, Kind
    from proxy.stream.sse import Event

__all__ = ["Repeats"]

_LESSONS: Final = 12
"""Frames that are learned of one stream at most: one whose frames all differ pays for so many and no more."""
_PADDING: Final = b'"obfuscation":"'
"""OpenAI pads each event with a random word, so that its length says nothing of the text."""
_MARK: Final = "\x01repeats\x01"
_MARKED: Final = dumps(_MARK)
_UNREAD: Final = (0, 0)


class Repeats(Reader):
    """The reader of one stream that keeps to one frame."""

    __slots__ = (
        "_channel", "_commits", "_end", "_head", "_key", "_kind", "_lessons", "_path", "_role", "_tail",
    )  # fmt: skip

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect)
        self._lessons = _LESSONS
        self._head = b""
        self._tail = b""
        self._end = b""

    def read(self, event: Event) -> Reading:
        """See ``Reader``."""
        known: Reading | None = event.reading
        if known is not None:
            return known
        raw = event.raw
        stop = self._stop(raw)
        if stop:
            start = len(self._head) - 1
            try:
                text = loads(raw[start:stop])
            except JSONDecodeError:
                text = None
            if type(text) is str and text:
                piece = Piece({self._key: text}, self._key, self._kind, self._role, self._path, self._channel)
                event.reading = reading = Plain((piece,), self._commits, self.model)
                event.frame(start, stop)
                return reading
        said = self._dialect.read(event)
        if not stop and self._lessons and len(said.pieces) == 1:
            self._learn(event, said)
        return said

    def skim(self, data: bytes) -> tuple[int, int]:
        """See ``Reader``."""
        head = self._head
        if not head or not data.startswith(head):
            return _UNREAD
        start = len(head) - 1
        if not self._end and data.endswith(self._tail):
            try:  # a JSON string has no newline in it: what is one from end to end is a single event
                text = loads(data[start : 1 - len(self._tail)])
            except JSONDecodeError:
                pass
            else:
                return (1, len(text)) if type(text) is str and text else _UNREAD
        events = _cut(data)
        chars = 0
        try:
            for raw in events:
                stop = self._stop(raw)
                text = loads(raw[start:stop]) if stop else None
                if type(text) is not str or not text:
                    return _UNREAD
                chars += len(text)
        except JSONDecodeError:
            return _UNREAD
        return len(events), chars

    def _stop(self, raw: bytes) -> int:
        """Where the text ends in an event that has the frame; 0 where the frame is another or none is known."""
        head = self._head
        if not head or not raw.startswith(head):
            return 0
        if self._end:
            return self._padded(raw)
        return len(raw) - len(self._tail) + 1 if raw.endswith(self._tail) else 0

    def _padded(self, raw: bytes) -> int:
        """Where the text ends in an event with padding; 0 when this is none of ours."""
        if not raw.endswith(self._end):
            return 0
        at = raw.rfind(self._tail)
        padding = raw[at + len(self._tail) : -len(self._end)]
        return at + 1 if at > 0 and (not padding or padding.isalnum()) else 0

    def _learn(self, event: Event, said: Reading) -> None:
        piece = said.pieces[0]
        if piece.whole or said.closes or said.closes is None or said.finish is not None or said.usage is not None:
            return
        if said.final or said.error or said.usage_only or event.edited or not piece.text:
            return
        self._lessons -= 1
        raw = event.raw
        data = event.data
        if data is None or raw.count(data) != 1:
            return
        token = _token(data, piece.text)
        at = -1 if token is None else data.rfind(token)
        if token is None or at < 0 or not _proved(data, at, at + len(token), event.json, piece):
            return
        at += raw.find(data)
        tail, end = raw[at + len(token) - 1 :], b""
        padding = tail.find(_PADDING)
        if padding >= 0:
            middle = padding + len(_PADDING)
            close = tail.find(b'"', middle)
            if not tail[middle:close].isalnum():
                return
            tail, end = tail[:middle], tail[close:]
        self._head, self._tail, self._end = raw[: at + 1], tail, end
        self._key: Any = piece.key
        self._kind: Kind = piece.kind
        self._role: str = piece.role
        self._path: tuple[str | int, ...] = piece.path
        self._channel: Channel = piece.channel
        self._commits = said.commits
        self.model = said.model


def _cut(data: bytes) -> list[bytes]:
    """Events that end in an empty line, and what stands behind the last one."""
    parts = data.split(b"\n\n")
    rest = parts.pop()
    events = [part + b"\n\n" for part in parts]
    return [*events, rest] if rest else events


def _token(data: bytes, text: str) -> bytes | None:
    """``text`` as it is written in ``data``, quotes included, if it stands there once; else None."""
    try:
        token = dumps(text)
    except JSONEncodeError:  # a lone surrogate
        return None
    return token if data.count(token) == 1 else None


def _proved(data: bytes, start: int, stop: int, tree: Any, piece: Piece) -> bool:
    """Whether the string at ``data[start:stop]`` is the piece and nothing but it: another string in its place changes
    the tree there and nowhere else, and no key stands twice."""
    marked = data[:start] + _MARKED + data[stop:]
    try:
        other = loads(marked)
        holder: Any = other
        mine: Any = tree
        for step in piece.path[:-1]:
            holder, mine = holder[step], mine[step]
        if mine is not piece.holder or piece.path[-1] != piece.key or holder[piece.key] != _MARK:
            return False
        if _strings(dumps(other)) != _strings(marked):
            return False
        holder[piece.key] = piece.text
    except (JSONDecodeError, LookupError, TypeError):
        return False
    return bool(other == tree)


def _strings(data: bytes) -> int:
    """Quotes that are no part of a text: a key that stands twice shows in their number."""
    return data.count(b'"') - data.count(b'\\"')
