"""A file that lines are added to through a memory map.

A line that was copied into a shared map is in the page cache, where a ``write`` would have put it, and survives the
process just as well, also ``kill -9``. But the copy takes 0.1 us where the system call takes 1 us, and the interpreter
is not given away and waited for.

Room is made before it is needed, a few pages at a time, by writing zeros: a full disk is met there, as an error that
can be dealt with, and not by the copy, as a signal that ends the process. That holds where a page that has its place on
the disk keeps it, and not on file systems that write elsewhere each time (btrfs, ZFS), or over a network; ``can_map``
tells, and without a map each line is a system call as ever. What is left for the signal (SIGBUS) is a file that
somebody truncates while it is in use, and a disk that cannot give back a page it once took. A process that has a SQLite
database in WAL mode open lives with the same: the index of the log is a shared map.

    in use     lines, zeros up to the room that was made, a hole up to the window's end
    closed     lines
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["MappedFile", "can_map"]

_PAGE: Final = mmap.ALLOCATIONGRANULARITY
_WINDOW: Final = 64 * _PAGE
"""Bytes that are mapped at once: few maps a second, and few pages that count as this process's memory."""
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_STEP: Final = 8 * _PAGE
"""Bytes of room that are made at once: so much may still be written after the disk is full. A write and a page fault
for each step: with two pages they were a quarter of a microsecond a call more, with sixteen hardly less."""
_ZEROS: Final = memoryview(bytes(_STEP))
_KEEP_PLACE: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})


class MappedFile:
    """One file, written by one process, one line after the other. Not for two threads at a time.

    ``number``: whatever the owner calls it. ``size``: the bytes of all lines; what stands behind them is nothing.
    Up to ``room`` a line may be copied behind them with ``copy``, by who adds its length to ``size``: ``put`` without
    its call. Never beyond ``limit``, so that the owner is asked once a file is as large as it should be.
    """

    __slots__ = ("_end", "_fd", "_length", "_limit", "_made", "_map", "_mapped", "copy", "number", "room", "size")

    def __init__(self, file: Path, number: int, *, mapped: bool = True, limit: int = 1 << 60) -> None:
        """Open ``file`` to add to what is in it; make it if there is none. Raises ``OSError``.

        ``mapped``: what ``can_map`` says of its directory.
        """
        self.number = number
        self._mapped = mapped
        self._limit = limit
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = self._length = self._made = os.fstat(self._fd).st_size
        self._end = self.room = 0  # of the window, and of what can be copied into it
        self._map: mmap.mmap | None = None
        self.copy: Callable[[bytes], object]

    def put(self, line: bytes) -> None:
        """Add a line. Raises ``OSError`` when there is no room for it; nothing of it stands in the file then."""
        end = self.size + len(line)
        if end > self.room:
            if not self._mapped:
                self.write(line)
                return
            self._make_room(end)
        self.copy(line)
        self.size = end

    def write(self, data: bytes, *, sync: bool = False) -> None:
        """Add ``data`` with a system call, all of it or nothing; with ``sync`` it is on the disk then.

        Raises ``OSError``.
        """
        try:
            _write_all(self._fd, data, self.size)
            if sync:
                os.fsync(self._fd)
        except OSError:
            self._unmap()
            os.ftruncate(self._fd, self.size)  # no half a line behind the last whole one
            self._length = self._made = self.size
            raise
        self.size += len(data)
        self._length = max(self._length, self.size)
        self._made = max(self._made, self.size)
        self._unmap()

    def close(self) -> None:
        """Cut off what is no line, and let the file go."""
        self._unmap()
        with contextlib.suppress(OSError):  # zeros that stay are cut off by who opens the journal next
            if self._length > self.size:
                os.ftruncate(self._fd, self.size)
        os.close(self._fd)

    def _make_room(self, end: int) -> None:
        if end > self._end:
            self._map_from(self.size, end)
        room = min(self._end, -(-end // _STEP) * _STEP)
        if room > self._made:
            missing = room - self._made
            _write_all(self._fd, _ZEROS[:missing] if missing <= _STEP else bytes(missing), self._made)
            self._made = room
        self.room = min(room, self._limit)

    def _map_from(self, start: int, end: int) -> None:
        """Map what follows ``start``, at least up to ``end``."""
        self._unmap()
        start -= start % _PAGE
        length = max(_WINDOW, -(-(end - start) // _PAGE) * _PAGE)
        if self._length < start + length:
            os.ftruncate(self._fd, start + length)
            self._length = start + length
        self._map = window = mmap.mmap(self._fd, length, offset=start)
        window.seek(self.size - start)
        self.copy = window.write
        self._end = start + length

    def _unmap(self) -> None:
        self._end = self.room = 0
        if self._map is not None:
            self._map.close()
            self._map = None


def _write_all(fd: int, data: bytes | memoryview, place: int) -> None:
    """After a short write the rest is tried, which says what is wrong."""
    written = os.pwrite(fd, data, place)
    while written < len(data):
        more = os.pwrite(fd, data[written:], place + written)
        if not more:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += more


def can_map(directory: Path) -> bool:
    """Whether files in ``directory`` stand on a file system whose pages keep their place on the disk.

    Source of the format: proc_pid_mountinfo(5); the mount with the longest path that leads to the directory counts.
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return False
    place = str(directory.resolve())
    longest, kind = "", ""
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), before.split(" ")[4])
        if len(point) >= len(longest) and (place == point or place.startswith(point.rstrip("/") + "/")):
            longest, kind = point, after.split(" ")[0]
    return kind in _KEEP_PLACE
