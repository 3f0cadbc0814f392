"""Moves the journal to the ledger in batches, exactly once, and keeps the ledger small.

The journal is read from its files also while this process writes them: one way for live records, for what a dead
process left, and for what piled up while the database was down. The ledger holds the position up to which it has
each journal and moves it in the transaction that brings the rows, so a batch is in there whole or not at all,
and a commit whose answer was lost is seen when the position is read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from proxy.accounting.journal import Journal, recover
from proxy.accounting.ledger.base import Conflict, Ledger, Position
from proxy.accounting.ledger.batch import Batch
from proxy.accounting.segments import Directory, free_directories, read_ends

__all__ = ["Retention", "Writer"]

log = logging.getLogger("proxy.accounting")

_CHUNK = 1 << 20  # some 2,000 calls
_LONGEST_LINE = 16 << 20
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 10.0

Retention = Mapping[str, float]
"""Table (``calls``, ``hours``, ``days``, ``costs``) -> seconds that its rows are kept; a table left out keeps all."""


class Writer:
    """Runs as one task beside a journal; ``close`` brings over what it can within a time."""

    def __init__(
        self,
        journal: Journal,
        ledger: Ledger,
        *,
        root: Path | None = None,
        gather: float = 1.0,
        retention: Retention | None = None,
        alarm: Callable[[str, str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``gather``: seconds that records gather before a transaction. ``root``: where journals of dead processes lie.

        ``alarm(state, text)`` is told ``down`` and ``up`` of the ledger, once each time.
        """
        self._journal = journal
        self._ledger = ledger
        self._root = root
        self._gather = gather
        self._retention = dict(retention or {})
        self._alarm = alarm
        self._clock = clock
        self._numbers: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._position: Position | None = None
        self.state = "up"
        self.written = 0
        """Rows brought over by this process."""
        self.error = ""
        """What the ledger said last, while it is down."""

    def start(self) -> None:
        """Begin to move records. The journal must be open."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="ledger-writer")

    async def close(self, timeout: float = 5.0) -> bool:
        """Bring over what is left, for at most ``timeout`` seconds; whether all is in the ledger. The rest comes at the
        next start. Close the journal before, so that its last lines are in its file.
        """
        if self._task is None:
            return True
        self._stop.set()
        self._journal.grew.set()
        done, _ = await asyncio.wait((self._task,), timeout=timeout)
        if done:
            return self.state == "up"
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        return False

    @property
    def behind(self) -> int:
        """Bytes of the journal that the ledger does not have yet (a few ``stat`` calls)."""
        directory, position = self._journal.directory, self._position
        total = 0
        for number in directory.segments():
            with contextlib.suppress(FileNotFoundError):
                size = directory.file(number).stat().st_size
                if position is None or number > position.segment:
                    total += size
                elif number == position.segment:
                    total += size - position.place
        return total

    async def caught_up(self) -> None:
        """Return when everything that stood in the journal's files at the call is in the ledger. Waits for a ledger
        that is down; give it a deadline.
        """
        while self._position is None or self.behind:
            self._journal.grew.set()
            await asyncio.sleep(0.01)

    # --- the task

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        pruned = 0.0
        while True:
            closing = self._stop.is_set()
            self._journal.grew.clear()
            try:
                if self._root is not None:
                    await self._take_over()
                while await self._move(self._journal.directory):
                    pass
                pause = _FIRST_PAUSE
                self._is_up()
                if not closing and time.monotonic() - pruned > 60:
                    await self._prune()
                    pruned = time.monotonic()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # whatever a driver raises: the records wait in the journal
                self._is_down(error)
                if closing:
                    return
                await self._wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            if closing:
                return
            await self._journal.grew.wait()
            await self._wait(self._gather)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _move(self, directory: Directory) -> bool:
        """Bring one chunk over; whether there may be more."""
        own = directory is self._journal.directory
        position = self._position if own else None
        if position is None:
            position = await self._ledger.position(directory.source)
        begun, reached, batch = await asyncio.to_thread(self._read, directory, position)
        if reached == begun and not batch.calls:
            if own:
                self._position = begun
            return False
        try:
            await self._apply(directory.source, begun, reached, batch)
        except Conflict:
            self._position = None
            self._numbers.clear()
            return True
        except BaseException:
            self._position = None  # the commit may or may not have got through: the ledger knows
            self._numbers.clear()  # groups of this batch may not be in there
            raise
        if own:
            self._position = reached
        self.written += len(batch.calls)
        await asyncio.to_thread(_remove_before, directory, reached.segment)
        return True

    async def _apply(self, source: str, begun: Position, reached: Position, batch: Batch) -> None:
        try:
            await self._ledger.apply(source, begun, reached, batch)
        except Exception as error:
            if not isinstance(error, ValueError | OverflowError | TypeError) and not _is_data_error(error):
                raise
            log.error("ledger: refused a value (%s); the batch is entered with its values brought into range", error)
            batch.mend()
            await self._ledger.apply(source, begun, reached, batch)

    def _read(self, directory: Directory, position: Position | None) -> tuple[Position, Position, Batch]:
        """From, to, and the rows between. Runs in a thread."""
        batch = Batch(self._numbers)
        numbers = directory.segments()
        if not numbers:
            begun = position or Position(1, 0)
            return begun, begun, batch
        begun = position or Position(numbers[0], 0)
        segment, place = begun
        if segment < numbers[0]:
            segment, place = numbers[0], 0
        file = directory.file(segment)
        newer = [number for number in numbers if number > segment]
        try:
            with file.open("rb") as stream:
                stream.seek(place)
                data = stream.read(_CHUNK)
                while data and b"\n" not in data and len(data) < _LONGEST_LINE and (more := stream.read(_CHUNK)):
                    data += more
        except FileNotFoundError:  # someone tidied up by hand
            data = b""
        whole = data[: data.rfind(b"\n") + 1]
        if whole:
            for records in read_ends(whole, str(file)):
                batch.add(records)
            return begun, Position(segment, place + len(whole)), batch
        if newer:  # this one is done, a newer one has begun: nothing is added here any more
            if data:
                log.error("journal %s: skipped %d bytes at its end that are no line", file, len(data))
            return begun, Position(newer[0], 0), batch
        return begun, begun if segment == begun.segment else Position(segment, place), batch

    async def _take_over(self) -> None:
        """Bring the journals of processes that are gone over, then delete them."""
        assert self._root is not None
        for directory in await asyncio.to_thread(lambda root: list(free_directories(root)), self._root):
            try:
                left = await asyncio.to_thread(recover, directory)
                if left:
                    await asyncio.to_thread(_append, directory, left)
                while await self._move(directory):
                    pass
            except BaseException:
                directory.release()
                raise
            await asyncio.to_thread(directory.remove)
            log.info("journal %s: taken over from a process that is gone", directory.path)
        self._root = None

    async def _prune(self) -> None:
        """Delete what is older than its retention, a few rows a step, with room for calls between the steps."""
        for table, seconds in self._retention.items():
            before = int((self._clock() - seconds) * 1000)
            while await self._ledger.prune(table, before, 500) and not self._stop.is_set():
                await self._wait(0.02)

    def _is_up(self) -> None:
        if self.state != "up":
            self.state, self.error = "up", ""
            self._tell("up", "the ledger answers again; what waited in the journal is in it")

    def _is_down(self, error: Exception) -> None:
        self.error = f"{type(error).__name__}: {error}"
        if self.state != "down":
            self.state = "down"
            self._tell("down", f"the ledger cannot be written ({self.error}); records wait in the journal, calls go on")

    def _tell(self, state: str, text: str) -> None:
        log.log(logging.INFO if state == "up" else logging.ERROR, "%s", text)
        if self._alarm is not None:
            self._alarm(state, text)


def _is_data_error(error: Exception) -> bool:
    """PostgreSQL's class 22: a value is at fault, not the connection."""
    return str(getattr(error, "sqlstate", "")).startswith("22")


def _append(directory: Directory, lines: list[bytes]) -> None:
    with directory.file(directory.segments()[-1]).open("ab") as stream:
        stream.write(b"".join(lines))


def _remove_before(directory: Directory, segment: int) -> None:
    for number in directory.segments():
        if number < segment:
            directory.file(number).unlink(missing_ok=True)
