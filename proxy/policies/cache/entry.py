"""One stored answer as bytes: no pickle, nothing that runs.

    magic 1 | flags 1 | tag count 1 | tags 8 each | stored at, fresh for (2 doubles) | meta length 2 | meta | body

Tags stand at the front so that invalidation reads the first bytes only. They are keyed hashes: an entry found by
somebody says nothing of whose it is. meta is JSON: ``[usage counts, estimated]``, and for events of which the one that
told the usage was hidden, also the usage as it was told there. The body is the JSON of a whole answer, one embedding,
or the events of a stream as they came; compressed when it is large.
"""

from __future__ import annotations

import struct
import zlib
from math import inf
from typing import Any, Final

import orjson

from proxy.accounting.usage import Usage
from proxy.exact import read, written

__all__ = ["MAX_TAGS", "TAG", "Entry", "EntryError", "laid_out", "packed", "tags_end", "tags_of", "times_of"]

MAGIC: Final = 0xCE
COMPRESSED: Final = 1
EVENTS: Final = 2
USAGE: Final = 4
TAG: Final = 8
MAX_TAGS: Final = 40
_TIMES: Final = struct.Struct(">ddH")
_FRONTS: Final = [[bytes((MAGIC, flags, tags)) for flags in range(8)] for tags in range(MAX_TAGS + 1)]
_MOST: Final = 256 * 1024 * 1024
_PACKED_ON_LOOP: Final = 32 * 1024
_NO_USAGE: Final = b"null"
_MOST_META: Final = 4096


class EntryError(ValueError):
    """Bytes that are not an entry. Treated as a miss; the entry is removed."""


class Entry:
    """stored_at: wall seconds. fresh_for: seconds. counts, estimated: what the original used. body: not compressed;
    JSON, or with ``events`` server-sent events, of which one holds usage if ``with_usage``. tags: those that it was
    stored with. told: usage that none of the events holds, in the provider's own shape."""

    __slots__ = ("_meta", "body", "events", "fresh_for", "stored_at", "tags", "with_usage")

    def __init__(
        self,
        body: bytes,
        stored_at: float,
        fresh_for: float,
        counts: tuple[int, ...] | None = None,
        *,
        estimated: bool = False,
        told: Any = None,
    ) -> None:
        self.body = body
        self.stored_at = stored_at
        self.fresh_for = fresh_for
        self.events = self.with_usage = False
        self.tags = b""
        self._meta = _NO_USAGE if counts is None else orjson.dumps((counts, estimated))
        if counts is not None and told is not None:
            meta = written((counts, estimated, told))
            if len(meta) <= _MOST_META:
                self._meta = meta

    @property
    def counts(self) -> tuple[int, ...] | None:
        """What the original call used, packed; None when nobody counted."""
        meta = _meta(self._meta)
        return None if meta is None else meta[0]

    @property
    def estimated(self) -> bool:
        """Whether that is an estimate."""
        meta = _meta(self._meta)
        return meta is not None and meta[1]

    @property
    def usage(self) -> Usage | None:
        """The same as an object, which others may be given as well. Raises EntryError."""
        found = _usages.get(self._meta)
        if found is None:
            meta = _meta(self._meta)
            if meta is None:
                return None
            found = Usage.unpack(meta[0], estimated=meta[1])
            if len(_usages) >= _REMEMBERED:
                _usages.clear()
            _usages[self._meta] = found
        return found

    @property
    def told(self) -> Any:
        """The usage that the provider told and ``body`` does not. None: the body tells it, or nobody does. Raises
        EntryError."""
        try:
            meta = read(self._meta)
        except ValueError as error:
            raise EntryError(f"a damaged entry ({type(error).__name__})") from None
        return meta[2] if type(meta) is list and len(meta) > 2 else None

    def add_up(self, body: bytes) -> None:
        """Be the whole answer that the events amount to: ``body``, which tells its usage itself."""
        self.body, self.events = body, False
        self._meta = orjson.dumps(_meta(self._meta))

    def encode(self, tags: bytes = b"", *, compress_above: int = _MOST) -> bytes:
        """The bytes to store. tags: at most ``MAX_TAGS`` of ``TAG`` bytes each, one after the other."""
        meta, body, flags = self._meta, self.body, self.events * EVENTS | self.with_usage * USAGE
        if len(body) > compress_above:
            body, flags = zlib.compress(body, 1), flags | COMPRESSED
        return laid_out(flags, tags, self.stored_at, self.fresh_for, meta, body)

    @classmethod
    def decode(cls, data: bytes, start: int = 0) -> Entry:
        """The entry that stands in ``data`` from ``start`` on. Raises EntryError."""
        try:
            if data[start] != MAGIC:
                raise EntryError("not an entry of this version")
            flags = data[start + 1]
            place = start + 3 + data[start + 2] * TAG
            entry = cls.__new__(cls)
            entry.stored_at, entry.fresh_for, length = _TIMES.unpack_from(data, place)
            place += _TIMES.size
            entry.tags = data[start + 3 : place - _TIMES.size]
            entry._meta = data[place : place + length]
            body = data[place + length :]
            entry.body = _unpack(body) if flags & COMPRESSED else body
            entry.events, entry.with_usage = flags & EVENTS != 0, flags & USAGE != 0
            return entry
        except EntryError:
            raise
        except (IndexError, struct.error, zlib.error) as error:
            raise EntryError(f"a damaged entry ({type(error).__name__})") from None


def laid_out(flags: int, tags: bytes, stored_at: float, fresh_for: float, meta: bytes, body: bytes) -> bytes:
    """An entry's bytes, from its parts (see the module's text)."""
    times = _TIMES.pack(stored_at, fresh_for, len(meta))
    return b"".join((_FRONTS[len(tags) // TAG][flags], tags, times, meta, body))


_REMEMBERED: Final = 512
_usages: Final[dict[bytes, Usage]] = {}
"""Popular answers are served often, and reading their usage would cost as much as all the rest."""


def _meta(data: bytes) -> tuple[tuple[int, ...], bool] | None:
    try:
        meta = orjson.loads(data)
        return None if meta is None else (tuple(map(int, meta[0])), bool(meta[1]))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise EntryError(f"a damaged entry ({type(error).__name__})") from None


def packed(data: bytes, start: int = 0) -> bool:
    """Whether reading the entry that stands in ``data`` from ``start`` on may take over a millisecond."""
    return len(data) > _PACKED_ON_LOOP and bool(data[start + 1] & COMPRESSED)


def times_of(data: bytes, start: int = 0) -> tuple[float, float]:
    """When the entry that stands in ``data`` from ``start`` on was stored (wall seconds), and until when it is fresh.
    Endlessly for what is no entry: whoever reads it will find out."""
    try:
        stored_at, fresh_for, _ = _TIMES.unpack_from(data, start + 3 + data[start + 2] * TAG)
    except (IndexError, struct.error):
        return inf, inf
    return stored_at, stored_at + fresh_for


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
