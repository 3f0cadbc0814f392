"""The ledger in PostgreSQL (asyncpg): several replicas write to one database.

New rows come by COPY into a temporary table and go from there, in one transaction with the position and the roll-ups.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from proxy.accounting.ledger.base import Conflict, Position
from proxy.accounting.ledger.batch import CALL_COLUMNS, Batch
from proxy.accounting.ledger.statements import TABLES, Dialect, fresh_tables, schema

if TYPE_CHECKING:
    import asyncpg

__all__ = ["PostgresLedger"]

_SCHEMA_LOCK = 0x6C_6C_6D_73  # replicas that start together make the tables one after the other
_CONNECT = 5.0
_COMMAND = 30.0


class PostgresLedger:
    """See ``Ledger``. One connection for each loop that writes, one for queries; after an error it is made anew."""

    dialect = Dialect("$")

    def __init__(self, url: str) -> None:
        self._url = url
        self._writers: dict[asyncio.AbstractEventLoop, _Session] = {}
        self._reader: asyncpg.Connection | None = None
        self._reading = asyncio.Lock()

    async def open(self) -> None:
        session = self._session()
        async with session.lock:
            await self._connect(session)

    async def close(self) -> None:
        await self.release()
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close(timeout=_CONNECT)

    async def release(self) -> None:
        session = self._writers.pop(asyncio.get_running_loop(), None)
        if session is not None and session.connection is not None:
            await session.connection.close(timeout=_CONNECT)

    async def position(self, source: str) -> Position | None:
        async with self._writing() as connection:
            row = await connection.fetchrow(self.dialect.read_position, source)
        return Position(row[0], row[1]) if row else None

    async def apply(self, source: str, begun: Position, reached: Position, batch: Batch) -> None:
        async with self._writing() as connection:
            await self._apply(connection, source, begun, reached, batch)

    async def rows(self, sql: str, parameters: Sequence[Any]) -> list[Sequence[Any]]:
        async with self._reading:
            if self._reader is None or self._reader.is_closed():
                self._reader = await self._dial()
            return [tuple(row) for row in await self._reader.fetch(sql, *parameters)]

    async def prune(self, table: str, before: int, limit: int) -> int:
        _, step = TABLES[table]
        async with self._writing() as connection:
            return await self._prune(connection, table, before // step, step, limit)

    async def _prune(self, connection: asyncpg.Connection, table: str, before: int, step: int, limit: int) -> int:
        async with connection.transaction():
            count = int((await connection.execute(self.dialect.prune(table, limit), before)).split()[-1])
            if count:
                await connection.execute(self.dialect.mark_pruned, table, before * step)
        return count

    async def _apply(
        self, connection: asyncpg.Connection, source: str, begun: Position, reached: Position, batch: Batch
    ) -> None:
        async with connection.transaction():
            await connection.execute(self.dialect.start_position, source, *begun)
            moved = await connection.execute(self.dialect.move_position, source, *reached, *begun)
            if moved != "UPDATE 1":
                raise Conflict(source)
            if batch.groups:
                rows = [row for _, row in sorted(batch.groups.items())]  # in one order: no deadlock
                await connection.executemany(self.dialect.insert_groups(1), rows)
            if batch:
                await connection.copy_records_to_table("incoming", records=batch.rows(), columns=list(CALL_COLUMNS))
                names = ", ".join(CALL_COLUMNS)
                await connection.execute(f"INSERT INTO calls ({names}) SELECT {names} FROM incoming")
                costs = [(*place, calls) for place, calls in batch.costs.items()]
                await connection.copy_records_to_table("fresh_costs", records=costs)
                await connection.copy_records_to_table("fresh", records=batch.sums())
                for statement in self.dialect.roll_up:
                    await connection.execute(statement)
                await connection.execute("TRUNCATE incoming, fresh, fresh_costs")

    def _session(self) -> _Session:
        return self._writers.setdefault(asyncio.get_running_loop(), _Session())

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[asyncpg.Connection]:
        """The running loop's connection; after any error but a conflict it is thrown away, whatever state it is in."""
        session = self._session()
        async with session.lock:
            try:
                yield await self._connect(session)
            except Conflict:
                raise
            except BaseException:
                connection, session.connection = session.connection, None
                if connection is not None:
                    connection.terminate()
                raise

    async def _connect(self, session: _Session) -> asyncpg.Connection:
        connection = session.connection
        if connection is None or connection.is_closed():
            connection = await self._dial()
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _SCHEMA_LOCK)
                known = await connection.fetchval("SELECT to_regclass('parts') IS NOT NULL")
                for statement in schema("postgres"):
                    await connection.execute(statement)
                if not known:  # a ledger from before there were any
                    await connection.execute("LOCK TABLE hours, costs IN SHARE MODE")
                    for statement in (self.dialect.parts_of("hours"), self.dialect.spreads_of("costs")):
                        await connection.execute(statement)
            await connection.execute("CREATE TEMP TABLE incoming (LIKE calls INCLUDING DEFAULTS)")
            await connection.execute("ALTER TABLE incoming DROP COLUMN id")
            for statement in fresh_tables():
                await connection.execute(statement)
            session.connection = connection
        return connection

    async def _dial(self) -> asyncpg.Connection:
        import asyncpg as driver  # noqa: PLC0415 - heavy and optional

        return await driver.connect(
            self._url, timeout=_CONNECT, command_timeout=_COMMAND, server_settings={"application_name": "llm-sidecar"}
        )


class _Session:
    """What one loop writes with: a connection belongs to its loop."""

    def __init__(self) -> None:
        self.connection: asyncpg.Connection | None = None
        self.lock = asyncio.Lock()
