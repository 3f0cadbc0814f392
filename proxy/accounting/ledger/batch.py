"""Journal records as ledger rows: pure, no I/O.

A row of ``calls`` is one end record, or one further attempt of it (``n = 0``: it costs, and is no call). Its nine
dimensions and its price version stand once in ``groups``; the row carries the group's number, 63 bits of a hash of the
text, so that replicas agree on it without asking each other (a million groups collide with a chance of 5e-8).

What is a call: ``calls`` counts a row per caller that an upstream or the cache served, and one per revalidation, which
is a call of ours. So ``calls - cached_calls`` reached an upstream. What a caller who left has cost may stand in a later
row, which counts none.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from proxy.accounting.histogram import bucket_of
from proxy.accounting.record import CACHED, DIMENSIONS, ESTIMATED, FREE, OUTCOMES, UNPRICED

__all__ = [
    "CALL_COLUMNS",
    "GROUP_COLUMNS",
    "HOUR",
    "MOST_COST",
    "MOST_SUM",
    "NOTHING_MORE",
    "PLAIN",
    "SUMS",
    "Batch",
    "group_number",
]

GROUP_COLUMNS = (
    "id",
    "principal",
    "project",
    "tags",
    "task",
    "route",
    "model_asked",
    "model",
    "upstream",
    "key",
    "version",
)

CALL_COLUMNS = (
    "at",  # end of the call, Unix milliseconds
    "grp",
    "request",
    "outcome",  # place in record.OUTCOMES
    "status",
    "flags",  # of record, and REACHED, REFUSED, FAILED below
    "ms",
    "first_ms",
    "attempts",
    "input",
    "output",
    "cost",
    "cached_input",
    "cache_write",
    "reasoning",
    "rest",  # further counts of Usage.PACKED as text, mostly none
    "saved",
)

PLAIN = 12
"""So many of ``CALL_COLUMNS`` say all of most calls; the others are ``NOTHING_MORE`` then, which need not be bound."""

NOTHING_MORE = (0, 0, 0, None, 0)

MOST_COST = 10**14
"""Nano-dollars of one row at most: no call costs 100,000 USD, and what says so must not spoil the sums it is in."""

MOST_SUM = 1 << 53
"""What a roll-up says at most, in nano-dollars (9 million USD an hour), tokens or milliseconds: a thousand such rows
can still be added up, and a row that is out of all bounds holds up none behind it.
"""

REACHED = 16  # a call: it reached an upstream or was served from a cache
REFUSED = 32  # refused here, no upstream saw it
FAILED = 64

_BITS = {
    "calls": REACHED,
    "cached_calls": CACHED,
    "refused": REFUSED,
    "failed": FAILED,
    "estimated": ESTIMATED,
    "unpriced": UNPRICED,
    "free": FREE,
}
_COLUMNS = {
    "ms": "ms",
    "input_tokens": "input",
    "output_tokens": "output",
    "cached_input": "cached_input",
    "cache_write": "cache_write",
    "reasoning": "reasoning",
    "cost": "cost",
    "saved": "saved",
}

SUMS = {**{name: f"(flags >> {bit.bit_length() - 1}) & 1" for name, bit in _BITS.items()}, **_COLUMNS}
"""What the roll-ups keep: name there -> what it sums over the rows of ``calls``."""

HOUR = 3_600_000
DAY = 24 * HOUR

log = logging.getLogger("proxy.accounting")

_MODEL = DIMENSIONS.index("model")
_REFUSED = OUTCOMES.index("refused")
_CANCELLED = OUTCOMES.index("cancelled")
_FAILED = (OUTCOMES.index("failed"), OUTCOMES.index("abandoned"))
_LARGEST = (1 << 63) - 1
_LARGEST_SMALL = (1 << 15) - 1  # of a SMALLINT
_FLAGS = CALL_COLUMNS.index("flags")
_SUMMED = tuple(CALL_COLUMNS.index(column) for column in _COLUMNS.values())
_TEXTS = frozenset({CALL_COLUMNS.index("request"), CALL_COLUMNS.index("rest")})
_SMALL = frozenset(CALL_COLUMNS.index(name) for name in ("outcome", "status", "flags", "attempts"))


class Batch:
    """Rows of one transaction. ``numbers`` remembers group numbers across batches (text -> number)."""

    def __init__(self, numbers: dict[str, int]) -> None:
        self.plain: list[tuple[Any, ...]] = []
        """Rows of ``calls`` of which the first ``PLAIN`` columns say all."""
        self.calls: list[tuple[Any, ...]] = []
        """The others, whole."""
        self.groups: dict[int, tuple[Any, ...]] = {}
        self.costs: dict[tuple[int, int, int], int] = {}
        """(day, group, cost bucket) -> priced calls"""
        self._numbers = numbers

    def add(self, records: Iterable[Sequence[Any]]) -> None:
        """Add what of ``records`` is an end; a begin is only for the journal.

        A record that has not the right shape is skipped and said: it must not hold up all that stand behind it.
        """
        for line in records:
            if line[0] != "e":
                continue
            try:
                self._call(line)
            except (ValueError, TypeError, IndexError) as error:
                log.error("ledger: skipped a journal record of the wrong shape: %s", error)

    def _call(self, line: Sequence[Any]) -> None:
        _, _, at, request, who, outcome, status, flags, ms, first_ms, attempts, cost, saved, version, usage, more = line
        text = f"{who}\t{version}"
        group = self._numbers.get(text) or self._new_group(text)
        if flags & CACHED:
            flags |= REACHED
        else:
            if attempts:
                flags |= REACHED
                if outcome in _FAILED:
                    flags |= FAILED
            elif outcome == _REFUSED:
                flags |= REFUSED
            # The cost of a caller who left may follow in a row of its own, once it is known.
            if not flags & UNPRICED and (version or (attempts and outcome != _CANCELLED and _names_model(who))):
                place = (at // DAY, group, bucket_of(cost))
                self.costs[place] = self.costs.get(place, 0) + 1
        if len(usage) == 2 and not saved:  # as most are
            asked, given = usage
            cost = _possible(cost)
            self.plain.append((at, group, request, outcome, status, flags, ms, first_ms, attempts, asked, given, cost))
        else:
            known = (at, group, request, outcome, status, flags, ms, first_ms, attempts)
            self._row(known, usage, cost, saved)
        for entry in more:
            self._extra(at, request, outcome, entry)

    def _extra(self, at: int, request: str, outcome: int, entry: Sequence[Any]) -> None:
        who, flags, cost, version, usage = entry
        text = f"{who}\t{version}"
        group = self._numbers.get(text) or self._new_group(text)
        self._row((at, group, request, outcome, 0, flags, 0, 0, 0), usage, cost, 0)

    def _row(self, known: tuple[Any, ...], usage: Sequence[int], cost: int, saved: int) -> None:
        asked, given, *counts = [*usage[:5], 0, 0, 0, 0, 0][:5]
        cost, saved = _possible(cost), _possible(saved)
        more = (*counts, ",".join(map(str, usage[5:])) or None, saved)
        if more == NOTHING_MORE:
            self.plain.append((*known, asked, given, cost))
        else:
            self.calls.append((*known, asked, given, cost, *more))

    def __len__(self) -> int:
        """How many rows of ``calls`` there are."""
        return len(self.plain) + len(self.calls)

    def rows(self) -> list[tuple[Any, ...]]:
        """All of them, whole."""
        return [*[(*row, *NOTHING_MORE) for row in self.plain], *self.calls]

    def sums(self) -> list[tuple[int, ...]]:
        """What the rows come to: hour, group, and the values of ``SUMS``; an hour of a group may stand there twice.
        Column by column, which takes a third of what SQLite needs to sort the rows and to add them up.
        """
        found: list[tuple[int, ...]] = []
        for rows in (self.plain, self.calls):
            groups: dict[int, list[tuple[Any, ...]]] = {}
            for row in rows:
                known = groups.get(row[1])
                if known is None:
                    known = groups[row[1]] = []
                known.append(row)
            for group, together in groups.items():
                found += [(hour, group, *_sums(part)) for hour, part in _hours(together)]
        return found

    def mend(self) -> None:
        """Bring every value into the range of its column, after a database refused the batch for one of them."""
        self.plain, self.calls = [
            [
                tuple(
                    _mended_text(value)
                    if place in _TEXTS
                    else _mended(value, _LARGEST_SMALL if place in _SMALL else _LARGEST)
                    for place, value in enumerate(row)
                )
                for row in rows
            ]
            for rows in (self.plain, self.calls)
        ]
        self.groups = {
            number: (number, *(_mended_text(value) for value in values)) for number, (_, *values) in self.groups.items()
        }

    def _new_group(self, text: str) -> int:
        number = group_number(text)
        if len(self._numbers) > 100_000:  # tags can have any number of values
            self._numbers.clear()
        self._numbers[text] = number
        self.groups[number] = (number, *text.split("\t"))
        return number


def _names_model(who: str) -> bool:
    """Whether the call was for a model at all: a list of models or a file has no price, and costs nothing."""
    return who.split("\t", _MODEL + 1)[_MODEL] != ""


def group_number(text: str) -> int:
    """The number of a group: 63 bits of BLAKE2b of its values joined by tabs."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()) & _LARGEST


def _hours(rows: list[tuple[Any, ...]]) -> Iterable[tuple[int, list[tuple[Any, ...]]]]:
    """The rows by the hour in which they end: mostly one."""
    times = [row[0] for row in rows]
    first, last = min(times) // HOUR, max(times) // HOUR
    if first == last:
        return ((first, rows),)
    hours: dict[int, list[tuple[Any, ...]]] = {}
    for row in rows:
        hours.setdefault(row[0] // HOUR, []).append(row)
    return hours.items()


def _sums(rows: list[tuple[Any, ...]]) -> list[int]:
    """The values of ``SUMS`` over rows of one length."""
    columns = list(zip(*rows, strict=True))
    flags = Counter(columns[_FLAGS]).items()
    counted = [sum(count for value, count in flags if value & bit) for bit in _BITS.values()]
    added = [sum(columns[place]) if place < len(columns) else 0 for place in _SUMMED]
    return [min(value, MOST_SUM) for value in (*counted, *added)]


def _possible(cost: Any) -> Any:
    """At most ``MOST_COST``; what is no integer is left to ``mend``."""
    return MOST_COST if type(cost) is int and cost > MOST_COST else cost


def _mended(value: Any, limit: int) -> int:
    return max(0, min(int(value), limit)) if isinstance(value, int | float) else 0


def _mended_text(value: Any) -> str | None:
    """PostgreSQL takes neither NUL nor lone surrogates in text."""
    return None if value is None else str(value).replace("\0", " ").encode("utf-8", "replace").decode()
