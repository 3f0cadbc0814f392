"""Moves the journal to the ledger in batches, exactly once, and keeps the ledger small.

The journal is read from its files also while this process writes them: one way for live records, for what a dead
process left, and for what piled up while the database was down. The ledger holds the position up to which it has
each journal and moves it in the transaction that brings the rows, so a batch is in there whole or not at all,
and a commit whose answer was lost is seen when the position is read again.

All of it happens in one thread with a loop of its own, which sleeps for a second, takes what has gathered, and sleeps
again. The loop that serves calls is never asked, and of the interpreter only short pieces are taken at a time: a thread
that runs into the loop's way at every row costs the calls ten times what it needs itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from proxy.accounting.journal import Journal, recover
from proxy.accounting.ledger.base import Conflict, Ledger, Position
from proxy.accounting.ledger.batch import Batch
from proxy.accounting.segments import Directory, free_directories
from proxy.accounting.tail import Tail

__all__ = ["Retention", "Writer"]

log = logging.getLogger("proxy.accounting")

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 10.0
_PRUNE_EVERY = 60.0
_PRUNED_AT_ONCE = 500
_PRUNE_STEPS = 20
_PRUNE_PAUSE = 0.02
_LAST_MOMENT = 1.0
_PATIENT = sys.getswitchinterval()
_IMPATIENT = 0.0001
"""Seconds after which a thread that waits for the interpreter asks for it, while there are rows to be moved. The loop
gives it away at each of its turns and has it back before a thread is awake; then the wait begins anew, so that with
turns shorter than Python's own 5 ms nobody would ever ask, and thousands of times a second be woken in vain."""

Retention = Mapping[str, float]
"""Table (``calls``, ``hours``, ``days``, ``costs``) -> seconds that its rows are kept; a table left out keeps all."""


class Writer:
    """Runs in a thread beside a journal; ``close`` brings over what it can within a time."""

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

        ``alarm(state, text)`` is told ``down`` and ``up`` of the ledger, once each time, on the loop that ``start``ed.
        """
        self._journal = journal
        self._ledger = ledger
        self._root = root
        self._gather = gather
        self._retention = dict(retention or {})
        self._alarm = alarm
        self._clock = clock
        self._numbers: dict[str, int] = {}
        self._position: Position | None = None
        self._thread: threading.Thread | None = None
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self.state = "up"
        self.written = 0
        """Rows brought over by this process."""
        self.error = ""
        """What the ledger said last, while it is down."""

    # --- on the loop that serves calls

    def start(self) -> None:
        """Begin to move records. The journal must be open."""
        self._callers = asyncio.get_running_loop()
        self._over = self._callers.create_future()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._run(), name="ledger-writer")
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    async def close(self, timeout: float = 5.0) -> bool:
        """Bring over what is left, for at most ``timeout`` seconds; whether all is in the ledger. The rest comes at the
        next start. Close the journal before, so that its last lines are in its file.
        """
        if self._thread is None:
            return True
        self._ask(self._stop.set)
        done, _ = await asyncio.wait((self._over,), timeout=timeout)
        if done:
            self._thread.join()
            return self.state == "up"
        self._ask(self._task.cancel)
        await asyncio.wait((self._over,), timeout=_LAST_MOMENT)  # one that hangs in its driver is left behind
        return False

    @property
    def alive(self) -> bool:
        """Whether the thread still runs: it may read and delete the journal's files."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def behind(self) -> int:
        """Bytes of the journal that the ledger does not have yet (a few ``stat`` calls)."""
        directory, position = self._journal.directory, self._position
        written = self._journal.place
        total = 0
        for number in directory.segments():
            size = written.place if number == written.segment else directory.size(number)
            if position is None or number > position.segment:
                total += size
            elif number == position.segment:
                total += size - position.place
        return total

    async def caught_up(self) -> None:
        """Return when everything that stood in the journal's files at the call is in the ledger. Waits for a ledger
        that is down; give it a deadline.
        """
        wanted = self._journal.place
        while self._position is None or self._position < wanted:
            self._ask(self._wake.set)
            await asyncio.sleep(0.01)

    def _ask(self, call: Callable[[], object]) -> None:
        """Have something called in the thread, unless it has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    # --- in the thread

    def _work(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
        finally:
            self._loop.close()
            self._tell_callers(self._ended)

    def _ended(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _tell_callers(self, call: Callable[..., object], *arguments: str) -> None:
        with contextlib.suppress(RuntimeError):  # their loop may be gone
            self._callers.call_soon_threadsafe(call, *arguments)

    async def _run(self) -> None:
        tail = Tail(self._journal.directory)
        try:
            await self._follow(tail)
        finally:
            tail.close()
            with contextlib.suppress(Exception):  # a database that is down cannot be left better
                await self._ledger.release()

    async def _follow(self, tail: Tail) -> None:
        pause = _FIRST_PAUSE
        pruned = 0.0
        while True:
            closing = self._stop.is_set()
            self._wake.clear()
            try:
                if self._root is not None:
                    await self._take_over()
                while await self._move_own(tail):
                    self._is_up()  # also where calls come faster than they can be brought over
                pause = _FIRST_PAUSE
                self._is_up()
                if not closing and time.monotonic() - pruned > _PRUNE_EVERY and not await self._prune():
                    pruned = time.monotonic()
            except Exception as error:  # whatever a driver raises: the records wait in the journal
                self._is_down(error)
                if closing:
                    return
                await self._sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            if closing:
                return
            await self._until_grown()

    async def _until_grown(self) -> None:
        """Let records gather. Nobody tells that one has come: a look once a second costs less than telling."""
        while not self._stop.is_set() and not self._wake.is_set():
            await self._sleep(self._gather, wake=True)
            if self._position != self._journal.place:
                return

    async def _sleep(self, seconds: float, *, wake: bool = False) -> None:
        """Until the writer is closed, and with ``wake`` until somebody waits, but for ``seconds`` at most."""
        events = [self._loop.create_task(self._stop.wait())]
        if wake:
            events.append(self._loop.create_task(self._wake.wait()))
        try:
            await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for event in events:
                event.cancel()

    async def _move_own(self, tail: Tail) -> bool:
        """Bring one chunk of our own journal over; whether there is more. Calls that came meanwhile gather first: a
        transaction for each few of them would keep the interpreter from the loop that serves."""
        position = self._position
        written = self._journal.place  # asked before the file is read: what stands in an older one is all of it
        if position is None:
            position = await self._ledger.position(tail.directory.source)
        try:
            moved, self._position = await self._move(tail, position, written)
        except Conflict:
            self._position = None
            return True
        except BaseException:
            self._position = None  # the commit may or may not have got through: the ledger knows
            raise
        return moved

    async def _move(self, tail: Tail, position: Position | None, written: Position) -> tuple[bool, Position]:
        """Bring one chunk over; whether there is more to bring at once, and the place reached."""
        piece = tail.read(position, written)
        if piece.reached == piece.begun:
            return False, piece.begun
        batch = Batch(self._numbers)
        sys.setswitchinterval(_IMPATIENT)
        try:
            for records in piece.records():
                batch.add(records)
            await self._apply(tail.directory.source, piece.begun, piece.reached, batch)
        except BaseException:
            self._numbers.clear()  # groups of this batch may not be in there
            raise
        finally:
            sys.setswitchinterval(_PATIENT)
        self.written += len(batch)
        tail.remove_before(piece.reached.segment)
        return piece.more, piece.reached

    async def _apply(self, source: str, begun: Position, reached: Position, batch: Batch) -> None:
        try:
            await self._ledger.apply(source, begun, reached, batch)
        except Exception as error:
            if not isinstance(error, ValueError | OverflowError | TypeError) and not _is_data_error(error):
                raise
            log.error("ledger: refused a value (%s); the batch is entered with its values brought into range", error)
            batch.mend()
            await self._ledger.apply(source, begun, reached, batch)

    async def _take_over(self) -> None:
        """Bring the journals of processes that are gone over, then delete them."""
        assert self._root is not None
        for directory in list(free_directories(self._root)):
            try:
                await self._take(directory)
            except BaseException:
                directory.release()
                raise
            directory.remove()
            log.info("journal %s: taken over from a process that is gone", directory.path)
        self._root = None

    async def _take(self, directory: Directory) -> None:
        left = recover(directory)
        if left:
            with directory.file(directory.segments()[-1]).open("ab") as stream:
                stream.write(b"".join(left))
        newest = max(directory.segments(), default=1)
        written = Position(newest, directory.size(newest))
        tail = Tail(directory)
        try:
            more, position = True, await self._ledger.position(directory.source)
            while more:
                try:
                    more, position = await self._move(tail, position, written)
                except Conflict:
                    position = await self._ledger.position(directory.source)
        finally:
            tail.close()

    async def _prune(self) -> bool:
        """Delete what is older than its retention, a few rows a step, with room for others between the steps; whether
        there is more. Records are moved in between.
        """
        steps = _PRUNE_STEPS
        for table, seconds in self._retention.items():
            before = int((self._clock() - seconds) * 1000)
            while await self._ledger.prune(table, before, _PRUNED_AT_ONCE):
                steps -= 1
                if self._stop.is_set() or not steps:
                    self._wake.set()
                    return True
                await self._sleep(_PRUNE_PAUSE)
        return False

    def _is_up(self) -> None:
        if self.state != "up":
            self.state, self.error = "up", ""
            self._say("up", "the ledger answers again; what waited in the journal is in it")

    def _is_down(self, error: Exception) -> None:
        self.error = f"{type(error).__name__}: {error}"
        if self.state != "down":
            self.state = "down"
            self._say("down", f"the ledger cannot be written ({self.error}); records wait in the journal, calls go on")

    def _say(self, state: str, text: str) -> None:
        log.log(logging.INFO if state == "up" else logging.ERROR, "%s", text)
        if self._alarm is not None:
            self._tell_callers(self._alarm, state, text)


def _is_data_error(error: Exception) -> bool:
    """PostgreSQL's class 22: a value is at fault, not the connection."""
    return str(getattr(error, "sqlstate", "")).startswith("22")
