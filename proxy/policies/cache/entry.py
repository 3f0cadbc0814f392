"""One stored answer as bytes: no pickle, nothing that runs.

    magic 1 | flags 1 | tag count 1 | tags 8 each | stored at, fresh for (2 doubles) | meta length 2 | meta | body

Tags stand at the front so that invalidation reads the first bytes only. They are keyed hashes: an entry found by
somebody says nothing of whose it is. meta is JSON: ``[usage counts, estimated]``. The body is the JSON of a whole
answer, one embedding, or the events of a stream as they came; compressed when it is large.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import orjson

from proxy.accounting.usage import Usage

__all__ = ["MAX_TAGS", "TAG", "Entry", "EntryError", "packed", "tags_end", "tags_of"]

MAGIC: Final = 0xCE
COMPRESSED: Final = 1
EVENTS: Final = 2
USAGE: Final = 4
TAG: Final = 8
MAX_TAGS: Final = 40
_TIMES: Final = struct.Struct(">ddH")
_MOST: Final = 256 * 1024 * 1024
_PACKED_ON_LOOP: Final = 32 * 1024
_NO_USAGE: Final = b"null"


class EntryError(ValueError):
    """Bytes that are not an entry. Treated as a miss; the entry is removed."""


class Entry:
    """stored_at: wall seconds. fresh_for: seconds. usage: what the original used. body: not compressed; JSON, or with
    ``events`` server-sent events, of which one holds usage if ``with_usage``."""

    __slots__ = ("body", "counts", "estimated", "events", "fresh_for", "stored_at", "with_usage")

    def __init__(
        self,
        body: bytes,
        stored_at: float,
        fresh_for: float,
        counts: tuple[int, ...] | None = None,
        *,
        estimated: bool = False,
        events: bool = False,
        with_usage: bool = False,
    ) -> None:
        self.body = body
        self.stored_at = stored_at
        self.fresh_for = fresh_for
        self.counts = counts
        self.estimated = estimated
        self.events = events
        self.with_usage = with_usage

    @property
    def usage(self) -> Usage | None:
        """What the original call used; None when nobody counted."""
        counts = self.counts
        if counts is None:
            return None
        if len(counts) == 2:  # nearly always, and half the work
            return Usage(input=counts[0], output=counts[1], estimated=self.estimated)
        return Usage.unpack(counts, estimated=self.estimated)

    def encode(self, tags: bytes = b"", *, compress_above: int = _MOST) -> bytes:
        """The bytes to store. tags: at most ``MAX_TAGS`` of ``TAG`` bytes each, one after the other."""
        counts = self.counts
        meta = _NO_USAGE if counts is None else orjson.dumps((counts, self.estimated))
        body, flags = self.body, self.events * EVENTS | self.with_usage * USAGE
        if len(body) > compress_above:
            body, flags = zlib.compress(body, 1), flags | COMPRESSED
        times = _TIMES.pack(self.stored_at, self.fresh_for, len(meta))
        return b"".join((bytes((MAGIC, flags, len(tags) // TAG)), tags, times, meta, body))

    @classmethod
    def decode(cls, data: bytes, start: int = 0) -> Entry:
        """The entry that stands in ``data`` from ``start`` on. Raises EntryError."""
        try:
            if data[start] != MAGIC:
                raise EntryError("not an entry of this version")
            flags = data[start + 1]
            place = start + 3 + data[start + 2] * TAG
            stored_at, fresh_for, length = _TIMES.unpack_from(data, place)
            place += _TIMES.size
            body = data[place + length :]
            if flags & COMPRESSED:
                body = _unpack(body)
            if length != 4:
                meta: Any = orjson.loads(data[place : place + length])
                entry = cls(body, stored_at, fresh_for, tuple(meta[0]), estimated=bool(meta[1]))
            else:
                entry = cls(body, stored_at, fresh_for)
            entry.events, entry.with_usage = bool(flags & EVENTS), bool(flags & USAGE)
            return entry
        except EntryError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, struct.error, zlib.error) as error:
            raise EntryError(f"a damaged entry ({type(error).__name__})") from None


def packed(data: bytes, start: int = 0) -> bool:
    """Whether reading the entry that stands in ``data`` from ``start`` on may take over a millisecond."""
    return len(data) > _PACKED_ON_LOOP and bool(data[start + 1] & COMPRESSED)


def _unpack(body: bytes) -> bytes:
    """Bounded, so that a forged entry cannot fill the memory."""
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(body, _MOST)
    if not unpacker.eof:
        raise EntryError("a damaged entry (it does not end)")
    return plain


def tags_end(data: bytes, start: int = 0) -> int:
    """Where the tags of an entry end. Raises EntryError."""
    if len(data) < start + 3 or data[start] != MAGIC:
        raise EntryError("not an entry of this version")
    return start + 3 + data[start + 2] * TAG


def tags_of(data: bytes, start: int = 0) -> frozenset[bytes]:
    """The tags of an entry, of which only the beginning is needed. Raises EntryError."""
    end = tags_end(data, start)
    return frozenset(data[place : place + TAG] for place in range(start + 3, end, TAG))
