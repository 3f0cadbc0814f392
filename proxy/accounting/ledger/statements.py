"""The SQL of the ledger, one text for SQLite and PostgreSQL; parameters are ``?1`` there and ``$1`` here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from proxy.accounting.ledger.batch import CALL_COLUMNS, DAY, GROUP_COLUMNS, HOUR, MOST_SUM, NOTHING_MORE, PLAIN, SUMS

__all__ = ["DAY", "HOUR", "PARTS", "SPREADS", "TABLES", "Dialect", "fresh_tables", "schema"]

TABLES = {
    "calls": ("at", 1),
    "hours": ("slot", HOUR),
    "parts": ("slot", HOUR),
    "days": ("slot", DAY),
    "costs": ("slot", DAY),
    "spreads": ("slot", DAY),
}
"""Table -> (its time column, milliseconds a step of that column)."""
PARTS = ("", "model", "project", "principal", "key", "upstream", "task", "route", "model_asked")
"""Dimensions that have hourly sums of their own; the empty one is all calls. Stored as the place in this tuple: new
ones are added at the end. Tags are none: they may have any number of values."""

SPREADS = ("", "model")
"""Those that also have a histogram of costs of their own."""
_KEYS = {"costs": "slot, grp, bucket", "parts": "dim, slot, value", "spreads": "dim, slot, value, bucket"}


class Dialect:
    """The statements with one database's parameter mark (``?`` or ``$``)."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self.read_position = f"SELECT segment, place FROM positions WHERE source = {mark}1"
        self.start_position = (
            f"INSERT INTO positions (source, segment, place) VALUES ({self.marks(3)}) ON CONFLICT (source) DO NOTHING"
        )
        self.move_position = (
            f"UPDATE positions SET segment = {mark}2, place = {mark}3 "
            f"WHERE source = {mark}1 AND segment = {mark}4 AND place = {mark}5"
        )
        self.roll_up = (
            self._roll_up("hours", 1),
            self._roll_up("days", 24),
            self.parts_of("fresh"),
            self._roll_up_costs(),
            self.spreads_of("fresh_costs"),
        )

    @cache  # noqa: B019 - two dialects, a handful of counts
    def insert_calls(self, rows: int) -> str:
        """So many rows of ``calls`` with one statement."""
        return f"INSERT INTO calls ({', '.join(CALL_COLUMNS)}) VALUES {self._rows(rows, len(CALL_COLUMNS))}"

    @cache  # noqa: B019 - see above
    def insert_plain_calls(self, rows: int) -> str:
        """The same for rows of which the first ``PLAIN`` columns say all (``NOTHING_MORE``)."""
        more = "".join(f", {'NULL' if value is None else value}" for value in NOTHING_MORE)
        return f"INSERT INTO calls ({', '.join(CALL_COLUMNS)}) VALUES {self._rows(rows, PLAIN, more)}"

    @cache  # noqa: B019 - see above
    def insert_groups(self, rows: int) -> str:
        """So many rows of ``groups``; those there are stay."""
        return (
            f"INSERT INTO groups ({', '.join(GROUP_COLUMNS)}) VALUES {self._rows(rows, len(GROUP_COLUMNS))} "
            "ON CONFLICT (id) DO NOTHING"
        )

    @cache  # noqa: B019 - see above
    def insert_costs(self, rows: int) -> str:
        """So many rows of the temporary table ``fresh_costs``."""
        return f"INSERT INTO fresh_costs (slot, grp, bucket, calls) VALUES {self._rows(rows, 4)}"

    @cache  # noqa: B019 - see above
    def insert_sums(self, rows: int) -> str:
        """So many rows of the temporary table ``fresh``: new rows by hour and group."""
        return f"INSERT INTO fresh (slot, grp, {', '.join(SUMS)}) VALUES {self._rows(rows, len(SUMS) + 2)}"

    def marks(self, count: int, first: int = 1) -> str:
        """``?1, ?2, ...``"""
        return ", ".join(f"{self._mark}{number}" for number in range(first, first + count))

    def _rows(self, rows: int, columns: int, more: str = "") -> str:
        if self._mark == "?":  # SQLite looks each number up among those before it, and without them counts itself
            return ", ".join([f"({', '.join('?' * columns)}{more})"] * rows)
        return ", ".join(f"({self.marks(columns, row * columns + 1)}{more})" for row in range(rows))

    def _bounded(self, sum_of: str) -> str:
        """At most ``MOST_SUM``."""
        return f"{'MIN' if self._mark == '?' else 'LEAST'}({sum_of}, {MOST_SUM})"

    def _roll_up(self, table: str, hours: int) -> str:
        names = ", ".join(SUMS)
        sums = ", ".join(self._bounded(f"SUM({name})") for name in SUMS)
        added = ", ".join(f"{name} = {self._bounded(f'{table}.{name} + excluded.{name}')}" for name in SUMS)
        # ordered, so that two replicas lock the rows they share in the same order
        return (
            f"INSERT INTO {table} (slot, grp, {names}) SELECT slot / {hours}, grp, {sums} FROM fresh WHERE TRUE "
            f"GROUP BY 1, 2 ORDER BY 1, 2 ON CONFLICT (slot, grp) DO UPDATE SET {added}"
        )

    def parts_of(self, source: str) -> str:
        """The statement that adds sums by hour and group (``fresh``, or all ``hours``) to ``parts``. One for all
        dimensions: each statement is a few turns of the interpreter's lock."""
        names = ", ".join(SUMS)
        sums = ", ".join(self._bounded(f"SUM({name})") for name in SUMS)
        added = ", ".join(f"{name} = {self._bounded(f'parts.{name} + excluded.{name}')}" for name in SUMS)
        selected = " UNION ALL ".join(
            f"SELECT {place}, slot, {name or repr('')}, {sums} FROM {source} JOIN groups ON groups.id = {source}.grp "
            "GROUP BY 2, 3"
            for place, name in enumerate(PARTS)
        )
        return (
            f"INSERT INTO parts (dim, slot, value, {names}) {selected} ORDER BY 1, 2, 3 "
            f"ON CONFLICT (dim, slot, value) DO UPDATE SET {added}"
        )

    @staticmethod
    def _roll_up_costs() -> str:
        return (
            "INSERT INTO costs (slot, grp, bucket, calls) SELECT slot, grp, bucket, calls FROM fresh_costs WHERE TRUE "
            "ORDER BY 1, 2, 3 ON CONFLICT (slot, grp, bucket) DO UPDATE SET calls = costs.calls + excluded.calls"
        )

    @staticmethod
    def spreads_of(source: str) -> str:
        """The statement that adds calls by cost bucket and group (``fresh_costs``, or all ``costs``) to ``spreads``."""
        selected = " UNION ALL ".join(
            f"SELECT {place}, slot, {name or repr('')}, bucket, SUM(calls) FROM {source} "
            f"JOIN groups ON groups.id = {source}.grp GROUP BY 2, 3, 4"
            for place, name in enumerate(SPREADS)
        )
        return (
            f"INSERT INTO spreads (dim, slot, value, bucket, calls) {selected} ORDER BY 1, 2, 3, 4 "
            "ON CONFLICT (dim, slot, value, bucket) DO UPDATE SET calls = spreads.calls + excluded.calls"
        )

    def spread(self, by: bool) -> str:
        """Calls by cost bucket between two days of one dimension, by its values if asked."""
        value = "value, " if by else ""
        return (
            f"SELECT {value}bucket, {_whole_sum('calls')} FROM spreads WHERE dim = {self._mark}3 "
            f"AND slot >= {self._mark}1 AND slot < {self._mark}2 GROUP BY {value}bucket"
        )

    def part(self, columns: Sequence[str]) -> str:
        """One dimension's sums between two hours; ``columns``: what goes before them, of ``slot`` and ``value``."""
        return (
            f"SELECT {', '.join((*columns, *SUMS))} FROM parts "
            f"WHERE dim = {self._mark}3 AND slot >= {self._mark}1 AND slot < {self._mark}2"
        )

    def totals(self, table: str, columns: str, where: str) -> str:
        """Sums of one table between two moments, by ``columns`` (SQL for the dimensions, may be empty)."""
        time, _ = TABLES[table]
        source = SUMS.values() if table == "calls" else SUMS.keys()
        sums = ", ".join(_whole_sum(name) for name in source)
        by = f"GROUP BY {columns}" if columns else ""
        chosen = f"{columns}, " if columns else ""
        return (
            f"SELECT {chosen}{sums} FROM {table} JOIN groups ON groups.id = {table}.grp "
            f"WHERE {table}.{time} >= {self._mark}1 AND {table}.{time} < {self._mark}2 {where} {by}"
        )

    def histogram(self, columns: str, where: str) -> str:
        """Calls by cost bucket between two days, by ``columns``."""
        chosen = f"{columns}, " if columns else ""
        return (
            f"SELECT {chosen}bucket, {_whole_sum('calls')} FROM costs JOIN groups ON groups.id = costs.grp "
            f"WHERE slot >= {self._mark}1 AND slot < {self._mark}2 {where} GROUP BY {chosen}bucket"
        )

    def prune(self, table: str, limit: int) -> str:
        """Delete at most ``limit`` of the rows before a moment."""
        time, _ = TABLES[table]
        row = "rowid" if self._mark == "?" else "ctid"
        if self._mark == "?" and table != "calls":  # tables without rowid: the key itself
            key = _KEYS.get(table, "slot, grp")
            return (
                f"DELETE FROM {table} WHERE ({key}) IN "
                f"(SELECT {key} FROM {table} WHERE {time} < ?1 ORDER BY {key} LIMIT {limit})"
            )
        return (
            f"DELETE FROM {table} WHERE {row} IN "
            f"(SELECT {row} FROM {table} WHERE {time} < {self._mark}1 ORDER BY {time} LIMIT {limit})"
        )

    @property
    def mark_pruned(self) -> str:
        """Remember that a table is no longer complete before a moment."""
        return (
            f"INSERT INTO pruned (name, before) VALUES ({self.marks(2)}) "
            "ON CONFLICT (name) DO UPDATE SET before = excluded.before WHERE excluded.before > pruned.before"
        )


def _whole_sum(expression: str) -> str:
    """A sum that is read as an ``int``: PostgreSQL adds BIGINT up to NUMERIC (a ``Decimal``), SMALLINT to BIGINT."""
    return f"CAST(SUM({expression}) AS BIGINT)"


def fresh_tables() -> tuple[str, str]:
    """The temporary tables for one connection, filled and emptied by every transaction."""
    return (
        f"CREATE TEMP TABLE fresh (slot BIGINT, grp BIGINT, {', '.join(f'{name} BIGINT' for name in SUMS)})",
        "CREATE TEMP TABLE fresh_costs (slot BIGINT, grp BIGINT, bucket SMALLINT, calls BIGINT)",
    )


def schema(kind: str) -> list[str]:
    """The statements that make the tables, for ``sqlite`` or ``postgres``; each may be run again."""
    lite = kind == "sqlite"
    text = (files("proxy.accounting.ledger") / "schema.sql").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    text = text.replace(
        "{serial}", "INTEGER PRIMARY KEY" if lite else "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    )
    text = text.replace("{int8}", "INTEGER" if lite else "BIGINT").replace(
        "{without_rowid}", "WITHOUT ROWID" if lite else ""
    )
    text = text.replace("{sums}", ", ".join(f"{name} {'INTEGER' if lite else 'BIGINT'} NOT NULL" for name in SUMS))
    return [statement.strip() for statement in text.split(";") if statement.strip()]
