"""Workers' pages made one.

metrics     counters and histograms are added up; a gauge is a picture of one process and keeps a label ``worker``
pages       those that are a picture of one process (``OF_ONE_PROCESS``): their lists one after the other, every object
            with its ``worker``; anything else is of the first worker: what it says is the same in all, or shared
budgets     a budget is one for all: what each worker counted is added up, unless they count together
keys        likewise a key (``key_rows``)
cleared     what each worker has forgotten is added up: memory is each one's own, and of what is shared each counts what
            it took away itself
events      whole events, in the order in which they come
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import add
from typing import Any, Final

OF_ONE_PROCESS: Final = frozenset({"upstreams", "limits", "breakers", "cache", "exchanges", "alerts"})
"""Pages below ``/api/v1`` that differ from worker to worker. Configuration, costs and the like are the same in all."""

_SAMPLE: Final = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)(?: \S+)?$")
_PARTS: Final = ("_bucket", "_count", "_sum", "_total", "_created")


def metrics(pages: Mapping[int, str]) -> str:
    """Prometheus text pages by worker number, as one page."""
    heads: dict[str, dict[str, str]] = {}  # family: its HELP and TYPE lines
    samples: dict[str, dict[str, float]] = {}  # family: value by name and labels, in order
    for number, page in pages.items():
        for line in page.splitlines():
            if line.startswith("# "):
                _, what, family, *_ = [*line.split(" ", 3), "", ""]
                if what in ("HELP", "TYPE"):
                    heads.setdefault(family, {}).setdefault(what, line)
                    samples.setdefault(family, {})
                continue
            found = _SAMPLE.match(line)
            if found is None:
                continue
            name, labels, value = found[1], found[2] or "", float(found[3])
            family = _family(name, heads)
            known = samples.setdefault(family, {})
            if _adds_up(heads.get(family, {}).get("TYPE", "")):
                known[name + labels] = known.get(name + labels, 0.0) + value
            else:
                known[name + _with_worker(labels, number)] = value
    lines: list[str] = []
    for family, values in samples.items():
        lines.extend(heads.get(family, {}).values())
        lines.extend(f"{name} {value:.17g}" for name, value in values.items())
    return "\n".join(lines) + "\n" if lines else ""


def _family(name: str, known: Mapping[str, Any]) -> str:
    if name in known:
        return name
    for part in _PARTS:
        if name.endswith(part) and name.removesuffix(part) in known:
            return name.removesuffix(part)
    return name


def _adds_up(type_line: str) -> bool:
    return type_line.rsplit(" ", 1)[-1] in ("counter", "histogram", "summary")


def _with_worker(labels: str, number: int) -> str:
    return f'{labels[:-1]},worker="{number}"}}' if len(labels) > 2 else f'{{worker="{number}"}}'


def pages(said: Sequence[tuple[int, Any]]) -> Any:
    """JSON pages by worker number, as one; an object with more than lists holds every worker's under ``workers``."""
    first = said[0][1]
    if isinstance(first, list):
        return _joined([(number, page) for number, page in said if isinstance(page, list)])
    if not isinstance(first, dict):
        return first
    merged: dict[str, Any] = {}
    for name, value in first.items():
        parts = [(number, page[name]) for number, page in said if isinstance(page, dict) and name in page]
        merged[name] = _joined(parts) if isinstance(value, list) else value
    if any(not isinstance(value, list) for value in merged.values()):
        merged["workers"] = [{**page, "worker": number} for number, page in said if isinstance(page, dict)]
    return merged


def budgets(said: Sequence[tuple[int, Any]]) -> list[dict[str, Any]]:
    """The page of budgets, one row for each value of each: the sums of what the workers counted apart, or the latest
    picture of what they count together (``shared``). The fullest first, as every worker has it.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for _, page in said:
        for row in page if isinstance(page, list) else ():
            place = (row["chain"], row["budget"], row["value"], row["unit"])
            known = found.get(place)
            if known is None:
                found[place] = dict(row)
                continue
            together = max if row["shared"] else add
            for figure in ("spent", "reserved"):
                known[figure] = together(known[figure], row[figure])
    for row in found.values():
        if row["limit"]:
            row["remaining"] = max(0, row["limit"] - row["spent"] - row["reserved"])
            row["share"] = round(row["spent"] / row["limit"], 6)
    return sorted(found.values(), key=lambda row: -row["share"])


def cleared(said: Sequence[tuple[int, Any]]) -> dict[str, int]:
    """What all workers say that were told to clear their caches."""
    return {"cleared": sum(page["cleared"] for _, page in said)}


def _joined(said: Sequence[tuple[int, Any]]) -> list[Any]:
    return [
        {**item, "worker": number} if isinstance(item, dict) else item
        for number, page in said
        if isinstance(page, list)
        for item in page
    ]
