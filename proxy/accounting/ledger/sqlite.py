"""The ledger in one SQLite file: WAL, one thread that writes, one that reads. Right for one machine.

Several processes may share the file (workers): each transaction takes the write lock at its start and waits for it
up to five seconds.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from proxy.accounting.ledger.base import Conflict, Position
from proxy.accounting.ledger.batch import Batch
from proxy.accounting.ledger.statements import TABLES, Dialect, fresh_table, schema

__all__ = ["SqliteLedger"]

T = TypeVar("T")


def _flat(batch: Batch) -> list[tuple[int, ...]]:
    return [(*place, calls) for place, calls in batch.costs.items()]


class SqliteLedger:
    """See ``Ledger``. After an error the connection is dropped and made anew by the next call."""

    dialect = Dialect("?", "calls WHERE id > ?1")

    def __init__(self, file: Path) -> None:
        self.file = file
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._write_thread = ThreadPoolExecutor(1, "ledger-write")
        self._read_thread = ThreadPoolExecutor(1, "ledger-read")

    async def open(self) -> None:
        await self._run(self._write_thread, self._connect)

    async def close(self) -> None:
        await self._run(self._read_thread, self._drop_reader)
        await self._run(self._write_thread, self._drop_writer)
        self._read_thread.shutdown()
        self._write_thread.shutdown()

    async def position(self, source: str) -> Position | None:
        return await self._run(self._write_thread, lambda: self._position(source))

    async def apply(self, source: str, begun: Position, reached: Position, batch: Batch) -> None:
        await self._run(self._write_thread, lambda: self._apply(source, begun, reached, batch))

    async def rows(self, sql: str, parameters: Sequence[Any]) -> list[Sequence[Any]]:
        return await self._run(self._read_thread, lambda: self._read(sql, parameters))

    async def prune(self, table: str, before: int, limit: int) -> int:
        return await self._run(self._write_thread, lambda: self._prune(table, before, limit))

    async def execute(self, sql: str) -> None:
        """Run one statement in the writing thread (tests, maintenance)."""
        await self._run(self._write_thread, lambda: self._connect().execute(sql).close())

    @staticmethod
    async def _run(thread: ThreadPoolExecutor, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, job)

    # --- in the writing thread

    def _connect(self) -> sqlite3.Connection:
        if self._writer is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            # autocommit: transactions are begun and ended by name below
            connection = sqlite3.connect(self.file, timeout=5.0, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                for statement in schema("sqlite"):
                    connection.execute(statement)
                connection.execute("PRAGMA temp_store = MEMORY")
                connection.execute(fresh_table())
            except BaseException:
                connection.close()
                raise
            self._writer = connection
        return self._writer

    def _position(self, source: str) -> Position | None:
        row = self._connect().execute(self.dialect.read_position, (source,)).fetchone()
        return Position(*row) if row else None

    def _apply(self, source: str, begun: Position, reached: Position, batch: Batch) -> None:
        connection = self._connect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(self.dialect.start_position, (source, *begun))
            moved = connection.execute(self.dialect.move_position, (source, *reached, *begun)).rowcount
            if moved != 1:
                raise Conflict(source)
            if batch.groups:
                connection.executemany(self.dialect.insert_group, batch.groups.values())
            if batch.calls:
                last = connection.execute("SELECT COALESCE(MAX(id), 0) FROM calls").fetchone()[0]
                connection.executemany(self.dialect.insert_call, batch.calls)
                connection.execute(self.dialect.sum_up, (last,))
                for statement in self.dialect.roll_up:
                    connection.execute(statement)
                connection.execute("DELETE FROM fresh")
                connection.executemany(self.dialect.insert_costs, _flat(batch))
            connection.execute("COMMIT")
        except Conflict:
            connection.execute("ROLLBACK")
            raise
        except BaseException:
            self._drop_writer()  # rolls back; a full or lost disk may have left the connection in any state
            raise

    def _prune(self, table: str, before: int, limit: int) -> int:
        _, step = TABLES[table]
        connection = self._connect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            count = connection.execute(self.dialect.prune(table, limit), (before // step,)).rowcount
            if count:
                connection.execute(self.dialect.mark_pruned, (table, before // step * step))
            connection.execute("COMMIT")
            if count:
                connection.execute("PRAGMA incremental_vacuum(64)").fetchall()
        except BaseException:
            self._drop_writer()
            raise
        return count

    def _drop_writer(self) -> None:
        connection, self._writer = self._writer, None
        if connection is not None:
            connection.close()

    # --- in the reading thread

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[Sequence[Any]]:
        if self._reader is None:
            self._reader = sqlite3.connect(
                f"{self.file.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0, check_same_thread=False
            )
        try:
            return self._reader.execute(sql, tuple(parameters)).fetchall()
        except sqlite3.Error:
            self._drop_reader()
            raise

    def _drop_reader(self) -> None:
        connection, self._reader = self._reader, None
        if connection is not None:
            connection.close()
