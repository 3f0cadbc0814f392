"""Reads a journal's end records from a place onward: the ledger's writer follows the journal with it.

No directory is listed while the journal is followed: segments are numbered one after the other, and who writes them
knows the newest. Only at the start, and where a file is missing, the directory is asked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from proxy.accounting.ledger.base import Position
from proxy.accounting.segments import Directory, read_ends

__all__ = ["Piece", "Tail"]

log = logging.getLogger("proxy.accounting")

_CHUNK = 1 << 20  # some 3,000 calls: a transaction
_LONGEST_LINE = 16 << 20
_BREATH = 0.0005
"""Seconds between two parsed pieces: the loop's thread must not meet a busy interpreter for longer than one takes."""


class Piece(NamedTuple):
    """What one look found: the place it began at, the place reached, and the whole lines between the two.

    more: there was more to read at once. What has come since then is left to gather.
    """

    begun: Position
    reached: Position
    lines: bytes
    where: str
    more: bool

    def records(self) -> Iterator[list[list[Any]]]:
        """The end records, a few hundred at a time."""
        first = True
        for records in read_ends(self.lines, self.where):
            if not first:
                time.sleep(_BREATH)
            first = False
            yield records


class Tail:
    """Follows one journal directory. Blocks: it belongs into the writer's thread."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self._oldest = 0  # the oldest segment that may still be there; 0: not looked yet
        self._file: BinaryIO | None = None
        self._number = 0

    def read(self, position: Position | None, written: Position) -> Piece:
        """The next chunk behind ``position`` (None: from the first segment there is). ``written``: up to where lines
        stand. What is behind it may be half a line; no line is added to an older segment any more.
        """
        newest = written.segment
        if position is None:
            numbers = self.directory.segments()
            position = Position(numbers[0] if numbers else newest, 0)
            self._oldest = position.segment
        segment, place = position
        data = self._chunk(segment, place)
        if data is not None and segment == newest:
            data = data[: max(0, written.place - place)]
        if data is None:  # someone tidied up by hand, or it begins later than the ledger remembers
            later = [number for number in self.directory.segments() if number > segment]
            return Piece(position, Position(later[0], 0) if later else position, b"", "", bool(later))
        whole = data[: data.rfind(b"\n") + 1]
        if whole:
            more = segment < newest or len(data) >= _CHUNK
            reached = Position(segment, place + len(whole))
            return Piece(position, reached, whole, str(self.directory.file(segment)), more)
        if segment >= newest:
            return Piece(position, position, b"", "", False)
        if data.strip(b"\0"):
            log.error(
                "journal %s: skipped %d bytes at its end that are no line", self.directory.file(segment), len(data)
            )
        return Piece(position, Position(segment + 1, 0), b"", "", True)

    def remove_before(self, segment: int) -> None:
        """Delete the files that the ledger has wholly."""
        if self._oldest == segment:
            return
        if self._oldest:
            numbers = list(range(self._oldest, segment))
        else:
            numbers = [number for number in self.directory.segments() if number < segment]
        for number in numbers:
            self.directory.file(number).unlink(missing_ok=True)
        self._oldest = segment

    def close(self) -> None:
        """Give the open file back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _chunk(self, segment: int, place: int) -> bytes | None:
        """Bytes from ``place`` onward, one whole line at least if there is one; None without a file."""
        if self._file is None or self._number != segment:
            self.close()
            try:
                self._file = self.directory.file(segment).open("rb", buffering=0)
            except FileNotFoundError:
                return None
            self._number = segment
        self._file.seek(place)
        data = self._file.read(_CHUNK)
        while data and b"\n" not in data and len(data) < _LONGEST_LINE and (more := self._file.read(_CHUNK)):
            data += more
        return data
