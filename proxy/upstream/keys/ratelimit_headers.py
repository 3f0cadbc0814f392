"""What an answer's headers say about the key's limits at the provider. Pure.

    x-ratelimit-limit-requests / -remaining-requests / -reset-requests, and the same with -tokens    OpenAI and others
    x-ratelimit-limit / -remaining / -reset                                                          requests only
    anthropic-ratelimit-requests-limit / -remaining / -reset, and the same with tokens               Anthropic

Resets are durations (`6m0s`, `1s`, `20ms`), seconds, Unix seconds or RFC 3339 dates.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from proxy.upstream.retry_after import parse_date, parse_duration


class Room(NamedTuple):
    """limit and remaining units (None: not said), seconds until the provider counts anew (None: not said)."""

    limit: int | None
    remaining: int | None
    reset: float | None


NOTHING = Room(None, None, None)
SHORTEST: Final = len("x-ratelimit-remaining")


Places: TypeAlias = tuple[int, tuple[tuple[int, bytes], ...]]
"""Number of an answer's headers, and those of them that are remainders: place and name."""
NOWHERE: Final[Places] = (-1, ())


def remainders(headers: Sequence[tuple[bytes, bytes]], before: Places = NOWHERE) -> Places:
    """Where the remainders stand. before: where they stood in the answer before, looked at first."""
    count, places = before
    if places and count == len(headers):
        for place, name in places:
            if headers[place][0] != name:
                break
        else:
            return before
    # By length first: of an answer's dozen headers nearly all end here.
    found = [name for name, _ in headers if len(name) >= SHORTEST and b"-remaining" in name.lower()]
    if not found:
        return NOWHERE
    return len(headers), tuple([(place, pair[0]) for place, pair in enumerate(headers) if pair[0] in found])


def plenty(headers: Sequence[tuple[bytes, bytes]], places: Places) -> bool:
    """Whether the remainders stand where they stood, and none is below a thousand."""
    count, named = places
    if count != len(headers):
        return False
    for place, name in named:
        found, value = headers[place]
        if found != name or len(value) <= 3:
            return False
    return True


def parse(headers: Iterable[tuple[bytes, bytes]], now: float | None = None) -> tuple[Room, Room] | None:
    """(requests, tokens) as the provider sees them; None when it says nothing. now: wall seconds, for dates."""
    told = [pair for pair in headers if len(pair[0]) >= 17]
    if not told:
        return None
    found: dict[tuple[str, str], bytes] = {}
    for name, value in told:
        low = name.lower()
        if low.startswith(b"x-ratelimit-"):
            figure, _, unit = low[12:].decode("ascii", "replace").partition("-")
        elif low.startswith(b"anthropic-ratelimit-"):
            unit, _, figure = low[20:].decode("ascii", "replace").partition("-")
        else:
            continue
        if figure in ("limit", "remaining", "reset") and unit in ("requests", "tokens", ""):
            found[unit or "requests", figure] = value
    if not found:
        return None
    wall = time.time() if now is None else now
    return _room(found, "requests", wall), _room(found, "tokens", wall)


def _room(found: dict[tuple[str, str], bytes], unit: str, now: float) -> Room:
    limit, remaining = _whole(found.get((unit, "limit"))), _whole(found.get((unit, "remaining")))
    if limit is None and remaining is None:
        return NOTHING
    return Room(limit, remaining, _reset(found.get((unit, "reset")), now))


def _whole(value: bytes | None) -> int | None:
    if value is None:
        return None
    value = value.strip()
    if value[:1] == b"-" and value[1:].isdigit():
        return 0  # overdrawn
    return int(value) if value.isdigit() and len(value) < 16 else None


def _reset(value: bytes | None, now: float) -> float | None:
    if value is None:
        return None
    seconds = parse_duration(value)
    if seconds is None:
        moment = parse_date(value)
        return None if moment is None else max(0.0, moment - now)
    # A plain number above a year of seconds is a moment, not a duration.
    return max(0.0, seconds - now) if seconds > 31_536_000 else seconds
