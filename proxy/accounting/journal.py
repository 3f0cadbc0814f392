"""The journal: what must survive a crash, appended to a local file before a call's last piece leaves.

``append`` writes at once, into a memory map where it can (see ``mapped``): 0.4 us a line with the room that is made for
it, where a ``write`` of its own takes 1.3. Sharing a write among the lines of one turn of the loop would cost more than
either: sockets are flushed at the end of the very turn in which they were written to, so each request and each last
piece would have to be held back until the lines stand (a future, a callback and the way back into the coroutine: 2 us;
or a list of held writes and a turn of the loop more), and a turn seldom has more than a few.

What was written survives the process, also ``kill -9``. With ``fsync: true`` it survives the machine: lines wait on a
list, one write and one sync in a thread take all that gathered, and whoever must know that its line stands awaits
``flushed``. ``direct`` says which of the two it is.

States: ``ok``; ``slow`` (a write took over 100 ms: writes run in a thread until 50 quick ones in a row); ``full`` (no
room or an I/O error: lines wait in memory, up to a bound, and are tried again every second until they fit).

Two promises hold for the lines in a segment: every line in a file is whole (but for the last one of a process that
died in the middle of it, which the next start cuts off), and the begin of every open call stands in the newest segment,
because a new segment starts with a copy of them. So old segments can go as soon as the ledger has them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxy.accounting import record
from proxy.accounting.ledger.base import Position
from proxy.accounting.mapped import MappedFile, can_map
from proxy.accounting.segments import Directory, claim, read_lines, repair

__all__ = ["Journal", "recover"]

log = logging.getLogger("proxy.accounting")

SLOW_WRITE = 0.100
_monotonic = time.monotonic
_QUICK_WRITE = 0.010
_QUICK_IN_A_ROW = 50
_TRY_AGAIN = 1.0
_AT_ONCE = 2_000  # lines a write, some 0.6 MB: what waited for long does not stop the loop when it goes out


class Journal:
    """Opened by one process on one event loop. ``open`` repairs and recovers, ``close`` writes what is left."""

    def __init__(
        self,
        root: Path,
        *,
        fsync: bool = False,
        on_full: str = "continue",
        segment_bytes: int = 8 << 20,
        held_bytes: int = 64 << 20,
        mapped: bool | None = None,
        alarm: Callable[[str, str], None] | None = None,
    ) -> None:
        """``root``: directory for journals; ``held_bytes``: how much may wait in memory while there is no room;
        ``mapped``: whether to write through a memory map (None: where the file system allows).

        ``alarm(state, text)`` is called on the loop when ``state`` changes to ``ok``, ``slow``, ``full`` or ``lost``.
        """
        if on_full not in ("continue", "refuse"):
            raise ValueError(f"on_full: {on_full!r}; allowed are continue, refuse")
        self._root = root
        self._fsync = fsync
        self.on_full = on_full
        self._segment_bytes = segment_bytes
        self._held_bytes = held_bytes
        self._mapped = mapped
        self._alarm = alarm
        self.state = "closed"
        self.refusing = False
        """Whether new calls must be refused: no room to write, and configured so."""
        self.direct = False
        """Whether a line stands in the file when ``append`` returns; else ``flushed`` tells."""
        self.lost = 0
        """Lines that were given up because no more could be held in memory while the disk was full."""
        self.recovered = 0
        """Calls found as abandoned when the journal was opened."""
        self.ids = record.Ids()
        self._pending: list[bytes] = []
        self._open: dict[int, bytes] = {}
        self._scheduled = False
        self._waiters: list[asyncio.Future[bool]] = []  # one each: a cancelled caller cancels only its own
        self._in_flight: list[asyncio.Future[bool]] = []
        self._writing: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._quick = 0
        self._in_thread = fsync
        self._measured = 0
        self._measured_bytes = 0
        self._segment: MappedFile | None = None
        self._ended = Position(0, 0)

    # --- life

    def open(self) -> None:
        """Claim a directory, repair its last line, close the calls of the process that died. Blocks: at start only."""
        self.directory = claim(self._root)
        if self._mapped is None:
            self._mapped = can_map(self.directory.path)
        left = recover(self.directory)
        self.recovered = len(left)
        # A new file for each start: a power cut may have made the old one shorter than the ledger remembers it, and
        # what is added below that place would never be read.
        self.number = max(self.directory.segments(), default=0) + 1
        self._loop = asyncio.get_running_loop()
        self._ended = Position(self.number, 0)
        self.state = "ok"
        self._pending = left
        try:
            self._segment = self._file(self.number)
            if left:
                self._write(left)
                self._pending = []
            self._go_on()
        except OSError as error:
            self._no_room(error)

    async def close(self, *, release: bool = True) -> None:
        """Write what is left and give the directory back; without ``release`` that is left to who still reads it."""
        if self.state == "closed":
            return
        self.direct = False
        if self._again is not None:
            self._again.cancel()
            self._again = None
        while self._writing is not None:
            await self._writing
        if self._pending:
            try:
                self._write(self._pending)
                self._pending = []
            except OSError as error:
                log.error(
                    "journal %s: %d lines are lost at the end: %s", self.directory.path, len(self._pending), error
                )
        _wake(self._waiters, written=not self._pending)
        if self._segment is not None:
            self._segment.close()
            self._ended = self.place
            self._segment = None
        self.state = "closed"
        self.refusing = False
        if release:
            self.directory.release()

    # --- writing

    def begin(self, number: int, line: bytes) -> None:
        """Append the begin of call ``number``, a line of ``record.begin``."""
        self._open[number] = line
        self.append(line)

    def end(self, number: int, line: bytes) -> None:
        """Append the end of call ``number``, a line of ``record.end``."""
        self._open.pop(number, None)
        self.append(line)

    def append(self, line: bytes) -> None:
        """Append one line (with its newline); see ``direct`` for when it stands in the file."""
        if not self.direct:
            self._pending.append(line)
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._flush)
            return
        started = _monotonic()
        segment = self._segment
        if segment is not None and (size := segment.size + len(line)) <= segment.room:
            copy = segment.copy  # `put`, written out: its call would be as much as the copy
            copy(line)
            segment.size = size
        elif not self._put(line):
            return
        took = _monotonic() - started
        if took > SLOW_WRITE:
            self._too_slow(took)

    def _put(self, line: bytes) -> bool:
        """The same where room has to be made first. Says whether there was any."""
        try:
            segment = self._segment
            if segment is None or segment.size >= self._segment_bytes:
                segment = self._next_segment()
            segment.put(line)
        except OSError as error:
            self._pending.append(line)
            self._no_room(error)
            return False
        return True

    def flushed(self) -> asyncio.Future[bool]:
        """Done when everything appended so far stands in the file: True. False at once if there is no room for it."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        if self.state in ("full", "closed"):
            waiter.set_result(False)
        elif self._pending:
            self._waiters.append(waiter)
        elif self._writing is not None:
            self._in_flight.append(waiter)
        else:
            waiter.set_result(True)
        return waiter

    @property
    def place(self) -> Position:
        """The end of what stands in the files. To be asked from any thread."""
        segment = self._segment
        return self._ended if segment is None else Position(segment.number, segment.size)

    @property
    def held(self) -> int:
        """Lines that wait in memory."""
        return len(self._pending)

    def _flush(self) -> None:
        self._scheduled = False
        if self._writing is not None or not self._pending or self.state == "closed":
            return
        if self.state == "full":
            self._bound()
            _wake(self._waiters, written=False)
            return
        if self._in_thread:
            self._writing = self._loop.create_task(self._write_in_thread())
            return
        started = time.monotonic()
        lines, self._pending = self._pending[:_AT_ONCE], self._pending[_AT_ONCE:]
        try:
            self._write(lines)
        except OSError as error:
            self._pending = lines + self._pending
            self._no_room(error)
            return
        took = time.monotonic() - started
        if took > SLOW_WRITE:
            self._too_slow(took)
        self._written()

    def _too_slow(self, took: float) -> None:
        self._in_thread = True
        self.direct = False
        self._quick = 0
        self._change("slow", f"a write of the journal took {took * 1000:.0f} ms; writes run in a thread now")

    def _go_on(self) -> None:
        """Write directly again, if nothing stands in the way."""
        self.direct = self.state == "ok" and not self._in_thread and self._writing is None and not self._pending

    def _written(self) -> None:
        if not self._pending:
            _wake(self._waiters, written=True)
            self._go_on()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    async def _write_in_thread(self) -> None:
        try:
            while self._pending and self.state != "full":
                lines, self._pending = self._pending, []
                self._in_flight, self._waiters = self._waiters, []
                started = time.monotonic()
                try:
                    await asyncio.to_thread(self._write, lines)
                except OSError as error:
                    self._pending = lines + self._pending
                    self._no_room(error)
                    return
                _wake(self._in_flight, written=True)
                self._judge(time.monotonic() - started)
        finally:
            self._writing = None
            if self._pending and not self._scheduled and self.state != "full":
                self._scheduled = True
                self._loop.call_soon(self._flush)
            self._go_on()

    def _judge(self, took: float) -> None:
        """Go back to writing on the loop once the disk is quick again."""
        self._quick = self._quick + 1 if took < _QUICK_WRITE else 0
        if self.state == "slow" and self._quick >= _QUICK_IN_A_ROW:
            self._in_thread = self._fsync
            self._change("ok", "the journal's disk is quick again")

    def _write(self, lines: list[bytes]) -> None:
        """All lines in one write, whole or not at all. Raises ``OSError``."""
        segment = self._segment
        if segment is None or segment.size >= self._segment_bytes:
            segment = self._next_segment()
        segment.write(b"".join(lines), sync=self._fsync)

    def _next_segment(self) -> MappedFile:
        """Start a new file with the begins of all open calls, so that the older files are no longer needed for them."""
        old = self._segment
        number = self.number if old is None else old.number + 1
        segment = self._file(number)
        if old is not None:
            try:
                segment.write(b"".join(self._open.copy().values()))
            except OSError:
                segment.close()
                self.directory.file(number).unlink(missing_ok=True)
                raise
            old.close()
        self._segment, self.number = segment, number
        return segment

    def _file(self, number: int) -> MappedFile:
        mapped, limit = bool(self._mapped), self._segment_bytes
        return MappedFile(self.directory.file(number), number, mapped=mapped, limit=limit)

    # --- no room

    def _no_room(self, error: OSError) -> None:
        reason = "no room" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else str(error)
        self.direct = False
        if self.state != "full":
            then = "calls are refused" if self.on_full == "refuse" else "calls go on, their records wait in memory"
            self._change("full", f"journal {self.directory.path}: {reason}; {then} until it can be written again")
        self._bound()
        _wake(self._in_flight, written=False)
        _wake(self._waiters, written=False)
        if self._again is None:
            self._again = self._loop.call_later(_TRY_AGAIN, self._try_again)

    def _try_again(self) -> None:
        self._again = None
        if self.state != "full":
            return
        lines, rest = self._pending[:_AT_ONCE], self._pending[_AT_ONCE:]
        try:
            self._write(lines)
        except OSError as error:
            self._no_room(error)
            return
        waited, self._pending = len(self._pending), rest
        self._quick = self._measured = self._measured_bytes = 0
        self._change("ok", f"the journal can be written again; {waited} lines that waited go in")
        self._written()

    def _bound(self) -> None:
        """Give the oldest lines up when more wait than may; said once for each thousand."""
        self._measured_bytes += sum(map(len, self._pending[self._measured :]))
        self._measured = len(self._pending)
        if self._measured_bytes <= self._held_bytes:
            return
        given_up = 0
        while self._measured_bytes > self._held_bytes * 0.9:  # a tenth at once, not a list shifted for every line
            self._measured_bytes -= len(self._pending[given_up])
            given_up += 1
        del self._pending[:given_up]
        self._measured = len(self._pending)
        before, self.lost = self.lost, self.lost + given_up
        if before // 1_000 != self.lost // 1_000 or not before:
            self._tell("lost", f"the journal has had no room for so long that {self.lost} records are lost")

    def _change(self, state: str, text: str) -> None:
        self.state = state
        self.refusing = state == "full" and self.on_full == "refuse"
        self._tell(state, text)

    def _tell(self, state: str, text: str) -> None:
        log.log(logging.INFO if state == "ok" else logging.ERROR, "%s", text)
        if self._alarm is not None:
            self._alarm(state, text)


def _wake(waiters: list[asyncio.Future[bool]], *, written: bool) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(written)
    waiters.clear()


def recover(directory: Directory) -> list[bytes]:
    """Repair the segments and make an end, ``abandoned``, for every call that has a begin and none.

    The caller appends these lines in one write. Stopped before or during that, the next start makes them again.
    """
    numbers = directory.segments()
    if not numbers:
        return []
    for number in numbers:
        repair(directory.file(number))
    begun: dict[int, list[Any]] = {}
    ended: set[int] = set()
    for number in numbers:
        for line in read_lines(directory.file(number).read_bytes(), str(directory.file(number))):
            if line[0] == "b":
                begun[line[1]] = line
            else:
                ended.add(line[1])
    left = [line for number, line in begun.items() if number not in ended]
    if left:
        log.warning(
            "journal %s: %d calls were in flight when the last process died; entered as abandoned with their estimates "
            "(%.6f USD)",
            directory.path,
            len(left),
            sum(line[5] for line in left) / 1e9,
        )
    return [record.abandoned(line) for line in left]
