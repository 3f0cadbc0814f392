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
from collections.abc import Iterable, Sequence
from typing import Any

from proxy.accounting.histogram import bucket_of
from proxy.accounting.record import CACHED, DIMENSIONS, OUTCOMES, UNPRICED

__all__ = ["CALL_COLUMNS", "GROUP_COLUMNS", "SUMS", "Batch", "group_number"]

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
    "cached_input",
    "cache_write",
    "reasoning",
    "rest",  # further counts of Usage.PACKED as text, mostly none
    "cost",
    "saved",
)

REACHED = 16  # a call: it reached an upstream or was served from a cache
REFUSED = 32  # refused here, no upstream saw it
FAILED = 64

SUMS = {
    "calls": "(flags >> 4) & 1",
    "cached_calls": "flags & 1",
    "refused": "(flags >> 5) & 1",
    "failed": "(flags >> 6) & 1",
    "estimated": "(flags >> 1) & 1",
    "unpriced": "(flags >> 2) & 1",
    "free": "(flags >> 3) & 1",
    "ms": "ms",
    "input_tokens": "input",
    "output_tokens": "output",
    "cached_input": "cached_input",
    "cache_write": "cache_write",
    "reasoning": "reasoning",
    "cost": "cost",
    "saved": "saved",
}
"""What the roll-ups keep: name there -> what it sums over the rows of ``calls``."""

DAY = 86_400_000

log = logging.getLogger("proxy.accounting")

_MODEL = DIMENSIONS.index("model")
_REFUSED = OUTCOMES.index("refused")
_CANCELLED = OUTCOMES.index("cancelled")
_FAILED = (OUTCOMES.index("failed"), OUTCOMES.index("abandoned"))
_LARGEST = (1 << 63) - 1
_LARGEST_SMALL = (1 << 15) - 1  # of a SMALLINT


class Batch:
    """Rows of one transaction. ``numbers`` remembers group numbers across batches (text -> number)."""

    def __init__(self, numbers: dict[str, int]) -> None:
        self.calls: list[tuple[Any, ...]] = []
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
        if len(usage) == 2:
            asked, given = usage
            self.calls.append(
                (
                    at,
                    group,
                    request,
                    outcome,
                    status,
                    flags,
                    ms,
                    first_ms,
                    attempts,
                    asked,
                    given,
                    0,
                    0,
                    0,
                    None,
                    cost,
                    saved,
                )
            )
        else:
            counts = _counts(usage)
            self.calls.append(
                (at, group, request, outcome, status, flags, ms, first_ms, attempts, *counts, cost, saved)
            )
        for entry in more:
            self._extra(at, request, outcome, entry)

    def _extra(self, at: int, request: str, outcome: int, entry: Sequence[Any]) -> None:
        who, flags, cost, version, usage = entry
        text = f"{who}\t{version}"
        group = self._numbers.get(text) or self._new_group(text)
        self.calls.append((at, group, request, outcome, 0, flags, 0, 0, 0, *_counts(usage), cost, 0))

    def mend(self) -> None:
        """Bring every value into the range of its column, after a database refused the batch for one of them."""
        small = {CALL_COLUMNS.index(name) for name in ("outcome", "status", "flags", "attempts")}
        self.calls = [
            tuple(_mended(value, _LARGEST_SMALL if place in small else _LARGEST) for place, value in enumerate(row))
            for row in self.calls
        ]
        self.groups = {number: tuple(_mended(value, _LARGEST) for value in row) for number, row in self.groups.items()}

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


def _mended(value: Any, limit: int) -> Any:
    if isinstance(value, str):  # PostgreSQL takes neither NUL nor lone surrogates in text
        return value.replace("\0", " ").encode("utf-8", "replace").decode()
    if isinstance(value, int | float):
        return max(0, min(int(value), limit))
    return value


def _counts(usage: Sequence[int]) -> tuple[int, int, int, int, int, str | None]:
    counts = [*usage, 0, 0, 0, 0, 0]
    rest = ",".join(map(str, usage[5:])) if len(usage) > 5 else None
    return counts[0], counts[1], counts[2], counts[3], counts[4], rest
