"""The records of the journal: one line of JSON each, small, and complete in itself.

    ["b", id, at, request, who, reserved, version, usage, calls]     an attempt goes out: money may be spent from here
    ["e", id, at, request, who, outcome, status, flags, ms, first_ms, attempts, cost, saved, version, usage, extras]

``id`` pairs a begin with its end within one journal. ``at`` is Unix time in milliseconds. ``who`` is the attribution,
its nine values joined by tabs in the order of ``DIMENSIONS``: one string is cheaper to write, to read and to look up
than nine.
``usage`` is ``Usage.pack``. ``calls`` is left out, or 0 where the caller has left and his row counts the call.
``extras`` are the further attempts that used something (retries, lost hedges, fallbacks), each ``[who, flags, cost,
version, usage]``: a row of its own with its own key and model, and no call.
A refused call or a cache hit has an end and no begin.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

__all__ = [
    "CACHED",
    "DIMENSIONS",
    "ESTIMATED",
    "FREE",
    "NEWLINE",
    "OUTCOMES",
    "PLACES",
    "UNPRICED",
    "Ids",
    "abandoned",
    "attribution",
    "begin",
    "canonical_tags",
    "end",
    "extra",
]

DIMENSIONS = ("principal", "project", "tags", "task", "route", "model_asked", "model", "upstream", "key")

OUTCOMES = ("answered", "failed", "cancelled", "refused", "abandoned", "stopped")
"""How a call ended; stored as the place in this tuple. New ones are added at the end."""

PLACES = {outcome: place for place, outcome in enumerate(OUTCOMES)}
"""Outcome -> its place."""

CACHED = 1  # served without an upstream of its own: a hit, a stale answer, a follower
ESTIMATED = 2  # the usage is our estimate
UNPRICED = 4  # no price was known for the model
FREE = 8  # paid by a free-tier credit

NEWLINE = orjson.OPT_APPEND_NEWLINE
"""``orjson.dumps(record, None, NEWLINE)`` is the line of a record, a tuple in the order above. ``begin`` and ``end``
name the parts; a call's way is shorter.
"""

_PLAIN = str.maketrans({"\t": " ", "\n": " ", "\r": " ", "\x00": " "})


class Ids:
    """Numbers that order by time and never repeat in one journal: microseconds at start, then counting up.

    A process would have to make a million calls a second on average to run into the start of the next one.
    """

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = itertools.count(time.time_ns() // 1_000).__next__


@lru_cache(maxsize=4_096)
def attribution(
    principal: str = "",
    project: str = "",
    tags: str = "",
    task: str = "",
    route: str = "",
    model_asked: str = "",
    model: str = "",
    upstream: str = "",
    key: str = "",
) -> str:
    """Who caused a cost and where, as one string. ``tags`` comes from ``canonical_tags``. Calls differ in little of
    this, so most strings are there already.
    """
    who = f"{principal}\t{project}\t{tags}\t{task}\t{route}\t{model_asked}\t{model}\t{upstream}\t{key}"
    if who.count("\t") != 8 or "\x00" in who:  # a value from outside with a tab in it
        values = (principal, project, tags, task, route, model_asked, model, upstream, key)
        return "\t".join(value.translate(_PLAIN) for value in values)
    return who


def canonical_tags(tags: Mapping[str, str]) -> str:
    """``a=b,c=d`` by name, so that equal tags are one dimension. It is read by splitting at each comma and there at the
    first equals sign: a comma, and an equals sign in a name, become spaces."""
    if not tags:
        return ""
    return ",".join(
        f"{name.replace(',', ' ').replace('=', ' ')}={value.replace(',', ' ')}" for name, value in sorted(tags.items())
    )


def begin(id: int, at: int, request: str, who: str, reserved: int, version: str, usage: Sequence[int]) -> bytes:  # noqa: A002
    """The line for an attempt that goes out; ``reserved`` nano-dollars and ``usage`` are its estimate."""
    return orjson.dumps(("b", id, at, request, who, reserved, version, usage), option=NEWLINE)


def end(
    id: int,  # noqa: A002
    at: int,
    request: str,
    who: str,
    *,
    outcome: str = "answered",
    status: int = 200,
    flags: int = 0,
    ms: int = 0,
    first_ms: int = 0,
    attempts: int = 1,
    cost: int = 0,
    saved: int = 0,
    version: str = "",
    usage: Sequence[int] = (),
    extras: Sequence[Sequence[Any]] = (),
) -> bytes:
    """The line for a call that is over; ``cost`` and ``saved`` in nano-dollars, times in milliseconds."""
    place = PLACES[outcome]
    return orjson.dumps(
        ("e", id, at, request, who, place, status, flags, ms, first_ms, attempts, cost, saved, version, usage, extras),
        option=NEWLINE,
    )


def extra(who: str, *, flags: int, cost: int, version: str, usage: Sequence[int]) -> list[Any]:
    """One further attempt of a call, for ``extras`` of ``end``."""
    return [who, flags, cost, version, usage]


def abandoned(begun: Sequence[Any]) -> bytes:
    """The end of a call whose process died: its reserved estimate, at the time it began."""
    _, number, at, request, who, reserved, version, usage, *calls = begun
    return end(
        number,
        at,
        request,
        who,
        outcome="abandoned",
        status=0,
        flags=ESTIMATED if version else ESTIMATED | UNPRICED,
        attempts=calls[0] if calls else 1,
        cost=reserved,
        version=version,
        usage=usage,
    )
