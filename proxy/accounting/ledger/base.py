"""What a ledger is, to its writer and to reports: rows once, sums by dimension, pruning in small steps."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from proxy.accounting.ledger.batch import SUMS, Batch
from proxy.accounting.ledger.statements import DAY, HOUR, PARTS, SPREADS, TABLES, Dialect
from proxy.accounting.record import DIMENSIONS

__all__ = [
    "Conflict",
    "Ledger",
    "Position",
    "Slice",
    "Totals",
    "add",
    "ask_histogram",
    "ask_totals",
    "open_ledger",
    "slices",
]

Totals = dict[str, int]
"""Name of ``SUMS`` -> sum; money in nano-dollars, ``ms`` in milliseconds."""


class Position(NamedTuple):
    """How far a journal has been taken over: everything before ``place`` (bytes) in ``segment``."""

    segment: int
    place: int


class Conflict(Exception):  # noqa: N818 - not an error: a fact the writer acts on
    """The ledger's position is not the one the batch began at: an earlier commit got through unseen. Read it again."""


class Ledger(Protocol):
    """One database. Every method may raise the driver's errors; nothing is half done when it does.

    Written by the loop of the writer's thread, read by the loop that serves: no connection is shared between loops.
    """

    async def open(self) -> None:
        """Connect and make the tables if they are not there."""

    async def close(self) -> None:
        """Disconnect."""

    async def release(self) -> None:
        """Close what the running loop has opened to write: its last call before it ends."""

    async def position(self, source: str) -> Position | None:
        """How far journal ``source`` is in here; None if never seen."""

    async def apply(self, source: str, begun: Position, reached: Position, batch: Batch) -> None:
        """Rows, roll-ups and the new position in one transaction. Raises ``Conflict``."""

    async def rows(self, sql: str, parameters: Sequence[Any]) -> list[Sequence[Any]]:
        """The answer to a query."""

    async def prune(self, table: str, before: int, limit: int) -> int:
        """Delete at most ``limit`` rows older than ``before`` (Unix ms); how many there were to delete."""

    @property
    def dialect(self) -> Dialect:
        """Its SQL."""


class Slice(NamedTuple):
    """A stretch of time to be read from one table, in milliseconds."""

    table: str
    since: int
    until: int


def slices(since: int, until: int, pruned: Mapping[str, int], *, finest: str = "") -> list[Slice]:
    """Cut ``[since, until)`` (Unix ms) so that whole days come from ``days``, whole hours from ``hours``, the rest
    from ``calls``.

    Where finer rows are pruned the coarser table stands in for the edge: its whole hour (day) is counted. ``finest``:
    nothing is to be added up beyond it (``hours``, ``days``), and the edges are whole hours.
    """
    if since >= until:
        return []
    if finest == "days":
        days: list[Slice] = []
        _cut(days, since - since % HOUR, until + -until % HOUR, (("days", DAY), ("hours", HOUR)))
        return days
    if finest == "hours":
        first, last = since - since % HOUR, until + -until % HOUR
        # A day at a time: the database sorts what it groups, and a month is more than its sorter keeps in memory.
        return [Slice("hours", start, min(start + DAY, last)) for start in range(first, last, DAY)]
    if since < pruned.get("calls", 0):
        since -= since % HOUR
    if until < pruned.get("calls", 0):
        until += -until % HOUR
    if since < pruned.get("hours", 0):
        since -= since % DAY
    if until < pruned.get("hours", 0):
        until += -until % DAY
    parts: list[Slice] = []
    _cut(parts, since, until, (("days", DAY), ("hours", HOUR), ("calls", 1)))
    return parts


def _cut(parts: list[Slice], since: int, until: int, tables: Sequence[tuple[str, int]]) -> None:
    (table, step), finer = tables[0], tables[1:]
    first, last = since + -since % step, until - until % step
    if first >= last:
        if finer:
            _cut(parts, since, until, finer)
        return
    if since < first:
        _cut(parts, since, first, finer)
    parts.append(Slice(table, first, last))
    if last < until:
        _cut(parts, last, until, finer)


async def ask_totals(
    ledger: Ledger,
    since: int,
    until: int,
    by: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
    *,
    finest: str = "",
) -> dict[tuple[Any, ...], Totals]:
    """Sums between two moments (Unix ms) by columns of ``groups`` (and ``slot``, an hour's number, with ``finest``:
    ``hours`` to see them apart, ``days`` for those of UTC), exact where rows stand.

    ``where`` holds dimension values that must be equal. An empty ``by`` gives the one key ``()``.
    """
    now = int(time.time() * 1000)
    if until > now:  # nothing stands there: whole days and hours can be read to their end
        until += -until % DAY
    names = [name for name in by if name != "slot"]
    if finest == "hours" and not where and len(names) <= 1 and (not names or names[0] in PARTS):
        return await _ask_part(ledger, since, until, by, PARTS.index(names[0] if names else ""))
    pruned = {name: int(before) for name, before in await ledger.rows("SELECT name, before FROM pruned", ())}
    found: dict[tuple[Any, ...], Totals] = {}
    condition, values = _where(ledger, where)
    for part in slices(since, until, pruned, finest=finest):
        _, step = TABLES[part.table]
        hours = step // HOUR
        columns = ", ".join(f"slot * {hours}" if name == "slot" and hours > 1 else name for name in by)
        sql = ledger.dialect.totals(part.table, columns, condition)
        _collect(found, await ledger.rows(sql, (part.since // step, part.until // step, *values)), len(by))
    return found


async def _ask_part(
    ledger: Ledger, since: int, until: int, by: Sequence[str], dim: int
) -> dict[tuple[Any, ...], Totals]:
    """Hours apart, by one dimension at most: they stand in a table of their own."""
    columns = ["slot" if name == "slot" else "value" for name in by]
    found: dict[tuple[Any, ...], Totals] = {}
    rows = await ledger.rows(ledger.dialect.part(columns), (since // HOUR, -(-until // HOUR), dim))
    _collect(found, rows, len(by))
    return found


def _collect(found: dict[tuple[Any, ...], Totals], rows: Iterable[Sequence[Any]], width: int) -> None:
    names = tuple(SUMS)
    for row in rows:
        if row[width] is None:  # a sum over nothing
            continue
        key, totals = tuple(row[:width]), dict(zip(names, row[width:], strict=True))
        if key in found:
            add(found[key], totals)
        else:
            found[key] = totals


def add(sums: Totals, more: Totals) -> None:
    """Add ``more`` to ``sums``."""
    for name, value in more.items():
        sums[name] += value


async def ask_histogram(
    ledger: Ledger, since: int, until: int, by: Sequence[str] = (), where: Mapping[str, str] | None = None
) -> dict[tuple[Any, ...], list[tuple[int, int]]]:
    """Calls by cost bucket for the days (UTC) that ``[since, until)`` touches."""
    days = (since // DAY, -(-until // DAY))
    if not where and len(by) <= 1 and (not by or by[0] in SPREADS):
        rows = await ledger.rows(ledger.dialect.spread(bool(by)), (*days, SPREADS.index(by[0] if by else "")))
    else:
        condition, values = _where(ledger, where)
        rows = await ledger.rows(ledger.dialect.histogram(", ".join(by), condition), (*days, *values))
    found: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    for row in rows:
        found.setdefault(tuple(row[: len(by)]), []).append((row[-2], row[-1]))
    return found


def _where(ledger: Ledger, where: Mapping[str, str] | None) -> tuple[str, list[str]]:
    conditions: list[str] = []
    values: list[str] = []
    mark = ledger.dialect.marks(1)[0]
    for name, value in (where or {}).items():
        if name not in DIMENSIONS:
            raise ValueError(f"{name!r} is no dimension; there are {', '.join(DIMENSIONS)}")
        values.append(value)
        conditions.append(f"AND groups.{name} = {mark}{len(values) + 2}")
    return " ".join(conditions), values


def open_ledger(url: str, data: Path) -> Ledger:
    """The ledger that ``url`` names (not yet opened): ``sqlite://FILE``, ``postgresql://...``, empty: in ``data``."""
    if not url:
        url = f"sqlite://{data / 'ledger.db'}"
    kind, _, rest = url.partition("://")
    if kind == "sqlite" and rest:
        from proxy.accounting.ledger.sqlite import SqliteLedger  # noqa: PLC0415 - only the one that is used

        return SqliteLedger(Path(rest).expanduser())
    if kind in ("postgresql", "postgres"):
        from proxy.accounting.ledger.postgres import PostgresLedger  # noqa: PLC0415 - asyncpg is heavy and optional

        return PostgresLedger(url)
    shown = re.sub(r"//[^@/]*@", "//...@", url)
    raise ValueError(f"ledger: {shown!r}: must be sqlite:///path/to/file or postgresql://...")
