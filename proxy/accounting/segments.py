"""The journal's files: numbered segments in one directory, claimed by one process, repaired when it starts.

journal/w0/source          an id made once: the ledger remembers per source how far it has read
journal/w0/lock            held (flock) as long as the process lives
journal/w0/00000001.log    lines of JSON; only the last one is written to, and has zeros behind its lines meanwhile
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

__all__ = ["Directory", "claim", "filled", "free_directories", "read_ends", "read_lines", "repair"]

log = logging.getLogger("proxy.accounting")

_CHUNK = 1 << 20
_BEGIN = b'["b"'
_PIECE = 250


class Directory:
    """A journal directory that this process holds."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self.source = _source(path)

    def segments(self) -> list[int]:
        """The numbers of the segments, oldest first."""
        return sorted(int(entry.stem) for entry in self.path.glob("*.log") if entry.stem.isdigit())

    def file(self, number: int) -> Path:
        """The file of segment ``number``."""
        return self.path / f"{number:08d}.log"

    def size(self, number: int) -> int:
        """Bytes of the file of segment ``number``; 0 without one."""
        try:
            return self.file(number).stat().st_size
        except FileNotFoundError:
            return 0

    def remove(self) -> None:
        """Delete the directory of a process that is gone; everything in it is in the ledger."""
        for number in self.segments():
            self.file(number).unlink(missing_ok=True)
        for name in ("source", "lock"):
            (self.path / name).unlink(missing_ok=True)
        self.path.rmdir()
        self.release()

    def release(self) -> None:
        """Let another process have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def claim(root: Path) -> Directory:
    """The first directory ``w0``, ``w1``, ... under ``root`` that no living process holds; made if need be."""
    for number in range(10_000):
        if (held := _try(root / f"w{number}", make=True)) is not None:
            return held
    raise OSError(f"{root}: 10,000 journals in use; is something starting processes without end?")


def free_directories(root: Path) -> Iterator[Directory]:
    """Directories left by processes that are gone, claimed one by one."""
    for path in sorted(root.glob("w*")):
        if path.is_dir() and (held := _try(path, make=False)) is not None:
            yield held


def _try(path: Path, *, make: bool) -> Directory | None:
    if make:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # removed by its new owner a moment ago
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:  # else: removed between our open and our lock
            return Directory(path, lock)
    except BlockingIOError:
        pass
    os.close(lock)
    return None


def _source(path: Path) -> str:
    """The id of this journal, made on first use. Written whole or not at all (rename)."""
    file = path / "source"
    try:
        if name := file.read_text().strip():
            return name
    except FileNotFoundError:
        pass
    name = secrets.token_hex(8)
    fresh = path / "source.new"
    fresh.write_text(name)
    fresh.rename(file)
    return name


def filled(file: Path) -> int:
    """Bytes of a segment without the zeros that stand behind the lines of one that is in use."""
    with file.open("rb", buffering=0) as stream:
        end = os.fstat(stream.fileno()).st_size
        while end:
            start = max(0, end - _CHUNK)
            stream.seek(start)
            kept = len(stream.read(end - start).rstrip(b"\0"))
            if kept:
                return start + kept
            end = start
    return 0


def repair(file: Path) -> int:
    """Cut off what a process that died left at the end: zeros, an unfinished line. Returns the bytes of the line."""
    size = filled(file)
    with file.open("r+b") as stream:
        end = _whole(stream, size)
        if end < file.stat().st_size:
            stream.truncate(end)
    if end < size:
        log.warning(
            "journal %s: cut %d bytes of a line that was never finished; the record it began is lost, "
            "its call will be found as abandoned",
            file,
            size - end,
        )
    return size - end


def _whole(stream: BinaryIO, size: int) -> int:
    """Where the last whole line ends. A line with a zero in it was being copied: its end may have come first."""
    end = _after_newline(stream, size)
    if end:
        start = _after_newline(stream, end - 1)
        stream.seek(start)
        if b"\0" in stream.read(end - start):
            return start
    return end


def _after_newline(stream: BinaryIO, end: int) -> int:
    """The place behind the last newline before ``end``; 0 without one."""
    while end:
        start = max(0, end - _CHUNK)
        stream.seek(start)
        place = stream.read(end - start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0


def read_lines(data: bytes, where: str) -> list[list[Any]]:
    """The records in whole lines of a segment; zeros behind them are nothing. A line that is no record (a damaged disk)
    is skipped and said.
    """
    return _parse(data.rstrip(b"\0").split(b"\n"), where)


def read_ends(data: bytes, where: str) -> Iterator[list[list[Any]]]:
    """Only the end records, in pieces: the ledger wants no more, and a parse must not hold the interpreter for long."""
    lines = [line for line in data.split(b"\n") if not line.startswith(_BEGIN)]
    for start in range(0, len(lines), _PIECE):
        yield _parse(lines[start : start + _PIECE], where)


def _parse(lines: list[bytes], where: str) -> list[list[Any]]:
    try:
        records: list[list[Any]] = orjson.loads(b"[" + b",".join(filter(None, lines)) + b"]")
        return records
    except orjson.JSONDecodeError:
        records = []
    for line in lines:
        if not line.strip(b"\x00 "):
            continue
        try:
            record = orjson.loads(line)
            if isinstance(record, list) and record and record[0] in ("b", "e"):
                records.append(record)
                continue
        except orjson.JSONDecodeError:
            pass
        log.error("journal %s: skipped a damaged line of %d bytes", where, len(line))
    return records
