"""The ledger in PostgreSQL (asyncpg): several replicas write to one database.

New rows come by COPY into a temporary table and go from there, in one transaction with the position and the roll-ups.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proxy.accounting.ledger.base import Conflict, Position
from proxy.accounting.ledger.batch import CALL_COLUMNS, Batch
from proxy.accounting.ledger.statements import TABLES, Dialect, fresh_table, schema

if TYPE_CHECKING:
    import asyncpg

__all__ = ["PostgresLedger"]

_SCHEMA_LOCK = 0x6C_6C_6D_73  # replicas that start together make the tables one after the other
_CONNECT = 5.0
_COMMAND = 30.0


class PostgresLedger:
    """See ``Ledger``. One connection for the writer, one for queries; after an error it is made anew."""

    dialect = Dialect("$", "incoming")

    def __init__(self, url: str) -> None:
        self._url = url
        self._writer: asyncpg.Connection | None = None
        self._reader: asyncpg.Connection | None = None
        self._writing = asyncio.Lock()
        self._reading = asyncio.Lock()

    async def open(self) -> None:
        async with self._writing:
            await self._connect()

    async def close(self) -> None:
        for connection in (self._writer, self._reader):
            if connection is not None:
                await connection.close(timeout=_CONNECT)
        self._writer = self._reader = None

    async def position(self, source: str) -> Position | None:
        async with self._writing:
            connection = await self._connect()
            row = await self._guard(connection.fetchrow(self.dialect.read_position, source))
        return Position(row[0], row[1]) if row else None

    async def apply(self, source: str, begun: Position, reached: Position, batch: Batch) -> None:
        async with self._writing:
            await self._guard(self._apply(await self._connect(), source, begun, reached, batch))

    async def rows(self, sql: str, parameters: Sequence[Any]) -> list[Sequence[Any]]:
        async with self._reading:
            if self._reader is None or self._reader.is_closed():
                self._reader = await self._dial()
            return [tuple(row) for row in await self._reader.fetch(sql, *parameters)]

    async def prune(self, table: str, before: int, limit: int) -> int:
        _, step = TABLES[table]
        async with self._writing:
            return int(await self._guard(self._prune(await self._connect(), table, before // step, step, limit)))

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
                await connection.executemany(self.dialect.insert_group, rows)
            if batch.calls:
                await connection.copy_records_to_table("incoming", records=batch.calls, columns=list(CALL_COLUMNS))
                names = ", ".join(CALL_COLUMNS)
                await connection.execute(f"INSERT INTO calls ({names}) SELECT {names} FROM incoming")
                await connection.execute(self.dialect.sum_up)
                for statement in self.dialect.roll_up:
                    await connection.execute(statement)
                costs = [(*place, calls) for place, calls in sorted(batch.costs.items())]
                await connection.executemany(self.dialect.insert_costs, costs)
                await connection.execute("TRUNCATE incoming, fresh")

    async def _connect(self) -> asyncpg.Connection:
        if self._writer is None or self._writer.is_closed():
            connection = await self._dial()
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _SCHEMA_LOCK)
                for statement in schema("postgres"):
                    await connection.execute(statement)
            await connection.execute("CREATE TEMP TABLE incoming (LIKE calls INCLUDING DEFAULTS)")
            await connection.execute("ALTER TABLE incoming DROP COLUMN id")
            await connection.execute(fresh_table())
            self._writer = connection
        return self._writer

    async def _dial(self) -> asyncpg.Connection:
        import asyncpg as driver  # noqa: PLC0415 - heavy and optional

        return await driver.connect(
            self._url, timeout=_CONNECT, command_timeout=_COMMAND, server_settings={"application_name": "llm-sidecar"}
        )

    async def _guard(self, work: Any) -> Any:
        """Run ``work``; after any error but a conflict the connection is thrown away, whatever state it is in."""
        try:
            return await work
        except Conflict:
            raise
        except BaseException:
            connection, self._writer = self._writer, None
            if connection is not None:
                connection.terminate()
            raise
