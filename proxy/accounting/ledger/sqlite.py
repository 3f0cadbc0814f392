"""The ledger in one SQLite file: WAL. Right for one machine.

What writes blocks its caller: that is the writer's thread. Queries run in a thread of their own, because the loop asks
them. Several processes may share the file (workers): each transaction takes the write lock at its start and waits for
it up to five seconds.

Rows go in by many at a time: with every step of a statement the interpreter's lock is given away and asked for again,
and a busy loop pays for each of these changes ten times what the row costs.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from proxy.accounting.ledger.base import Conflict, Position
from proxy.accounting.ledger.batch import Batch
from proxy.accounting.ledger.statements import TABLES, Dialect, fresh_tables, schema

__all__ = ["SqliteLedger"]

_AT_ONCE = 256
"""Rows a statement: more of them would save nothing any more."""


class SqliteLedger:
    """See ``Ledger``. After an error the connection is dropped and made anew by the next call."""

    dialect = Dialect("?")

    def __init__(self, file: Path) -> None:
        self.file = file
        self._writer: sqlite3.Connection | None = None
        self._writing = threading.RLock()
        self._reader: sqlite3.Connection | None = None
        self._read_thread = ThreadPoolExecutor(1, "ledger-read")

    async def open(self) -> None:
        with self._writing:
            self._connect()

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._read_thread, self._drop_reader)
        await loop.run_in_executor(self._read_thread, self._drop_writer)  # waits for a transaction that still runs
        self._read_thread.shutdown()

    async def release(self) -> None:
        self._drop_writer()

    async def position(self, source: str) -> Position | None:
        with self._writing:
            row = self._connect().execute(self.dialect.read_position, (source,)).fetchone()
        return Position(*row) if row else None

    async def apply(self, source: str, begun: Position, reached: Position, batch: Batch) -> None:
        with self._writing:
            connection = self._connect()
            try:
                connection.execute("BEGIN IMMEDIATE")
                self._enter(connection, source, begun, reached, batch)
                connection.execute("COMMIT")
            except Conflict:
                connection.execute("ROLLBACK")
                raise
            except BaseException:
                self._drop_writer()  # rolls back; a full or lost disk may have left the connection in any state
                raise

    async def rows(self, sql: str, parameters: Sequence[Any]) -> list[Sequence[Any]]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._read_thread, self._read, sql, parameters)

    async def prune(self, table: str, before: int, limit: int) -> int:
        _, step = TABLES[table]
        with self._writing:
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

    # --- what writes

    def _connect(self) -> sqlite3.Connection:
        if self._writer is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            # autocommit: transactions are begun and ended by name
            connection = sqlite3.connect(self.file, timeout=5.0, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                self._make_tables(connection)
                connection.execute("PRAGMA temp_store = MEMORY")
                for statement in fresh_tables():
                    connection.execute(statement)
            except BaseException:
                connection.close()
                raise
            self._writer = connection
        return self._writer

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        """Make what is not there, in one transaction: of several processes that start together one does it."""
        connection.execute("BEGIN IMMEDIATE")
        known = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'parts'").fetchone()[0]
        for statement in schema("sqlite"):
            connection.execute(statement)
        if not known:  # a ledger from before there were any
            for statement in (self.dialect.parts_of("hours"), self.dialect.spreads_of("costs")):
                connection.execute(statement)
        connection.execute("COMMIT")

    def _enter(
        self, connection: sqlite3.Connection, source: str, begun: Position, reached: Position, batch: Batch
    ) -> None:
        dialect = self.dialect
        connection.execute(dialect.start_position, (source, *begun))
        if connection.execute(dialect.move_position, (source, *reached, *begun)).rowcount != 1:
            raise Conflict(source)
        _insert(connection, dialect.insert_groups, list(batch.groups.values()))
        if batch:
            _insert(connection, dialect.insert_plain_calls, batch.plain)
            _insert(connection, dialect.insert_calls, batch.calls)
            _insert(connection, dialect.insert_costs, [(*place, calls) for place, calls in batch.costs.items()])
            _insert(connection, dialect.insert_sums, batch.sums())
            for statement in dialect.roll_up:
                connection.execute(statement)
            connection.execute("DELETE FROM fresh")
            connection.execute("DELETE FROM fresh_costs")

    def _drop_writer(self) -> None:
        with self._writing:
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


def _insert(connection: sqlite3.Connection, statement: Callable[[int], str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Enter rows with ``statement(rows at once)``: whole blocks first, then what is left by halves of a block."""
    place, block = 0, _AT_ONCE
    while place < len(rows):
        while block > len(rows) - place:
            block //= 2
        connection.execute(statement(block), list(chain.from_iterable(rows[place : place + block])))
        place += block
