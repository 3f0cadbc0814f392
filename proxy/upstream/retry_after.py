"""When a provider says to come back: every form of `Retry-After` that is seen in the wild. Pure.

    retry-after: 30                               RFC 9110, 10.2.3: seconds
    retry-after: 1.5        retry-after: 1m30s    fractions and units, as several providers write them
    retry-after: Fri, 21 Nov 2026 07:28:00 GMT    an HTTP date, in any of the three forms of RFC 9110, 5.6.7
    retry-after-ms: 1500                          milliseconds, OpenAI and Azure

Several of them in one answer: the latest deadline wins. What cannot be read counts as absent.
"""

import math
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST: Final = 7 * 86400.0
"""Seconds; a longer wait is taken as this one."""

_PARTS: Final = re.compile(rb"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_NUMBER: Final = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15}")
_UNITS: Final = {b"ms": 0.001, b"s": 1.0, b"m": 60.0, b"h": 3600.0, b"d": 86400.0}


def parse(headers: Iterable[tuple[bytes, bytes]], now: float | None = None) -> float | None:
    """Seconds to wait, 0 for a moment that is past, None when the answer does not say.

    now: wall seconds. A date is taken against the answer's own `Date` when there is one: the provider's clock and ours
    need not agree.
    """
    longest: float | None = None
    dated: bytes | None = None
    date: bytes | None = None
    for name, value in headers:
        size = len(name)
        if size == 11:
            if name.lower() != b"retry-after":
                continue
            seconds = parse_duration(value)
            if seconds is None:
                dated = value
                continue
        elif size == 14 and name.lower() == b"retry-after-ms":
            milliseconds = parse_duration(value)
            if milliseconds is None:
                continue
            seconds = milliseconds / 1000
        elif size == 4 and name.lower() == b"date":
            date = value
            continue
        else:
            continue
        longest = seconds if longest is None else max(longest, seconds)
    if dated is not None:
        moment = parse_date(dated)
        if moment is not None:
            reference = parse_date(date) if date is not None else None
            if reference is None:
                reference = time.time() if now is None else now
            left = max(0.0, moment - reference)
            longest = left if longest is None else max(longest, left)
    return longest if longest is None else min(longest, LONGEST)


def parse_duration(value: bytes) -> float | None:
    """`30`, `1.5`, `20ms`, `6m0s`, `1h30m`: seconds (the plain number in whatever unit the header has), else None."""
    value = value.strip()
    if _NUMBER.fullmatch(value):
        seconds = float(value)
        return seconds if math.isfinite(seconds) else None
    if not 1 < len(value) < 40:
        return None
    total, position = 0.0, 0
    for part in _PARTS.finditer(value.lower()):
        if part.start() != position:
            return None
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    return total if position == len(value) else None


def parse_date(value: bytes) -> float | None:
    """An HTTP date, or an RFC 3339 one, as seconds since 1970; None when it is neither."""
    text = value.decode("ascii", "replace").strip()
    if not 8 < len(text) < 60:
        return None
    try:
        moment = datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
