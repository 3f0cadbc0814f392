"""The stretch of time a budget is for: an hour, day, week or month of a calendar in a time zone, or the last seconds.

A day is from local midnight to local midnight: 23 or 25 hours long when the clocks change. Where midnight does not
exist (clocks go forward at 0:00) the day begins at the moment of the change; where it exists twice, at the first.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple

__all__ = ["CALENDAR", "Span", "Window", "zone"]

CALENDAR = ("hour", "day", "week", "month")


class Span(NamedTuple):
    """One window in Unix seconds: ``start <= t < end``. ``name`` is the same for all moments in it and no other."""

    start: float
    end: float
    name: str


class Window:
    """Turns moments into spans. ``rolling`` is the length in seconds, 0 for a calendar window."""

    __slots__ = ("_now", "kind", "rolling", "zone")

    def __init__(self, kind: str = "day", zone: tzinfo = UTC, *, rolling: float = 0.0) -> None:
        """``kind``: hour, day, week (from Monday) or month. ``rolling`` seconds go instead of it."""
        if not rolling and kind not in CALENDAR:
            raise ValueError(f"window {kind!r}: must be one of {', '.join(CALENDAR)} or a duration")
        self.kind = "rolling" if rolling else kind
        self.rolling = rolling
        self.zone = zone
        self._now = Span(0.0, 0.0, "")

    def at(self, moment: float) -> Span:
        """The span that ``moment`` (Unix seconds) is in. A rolling window ends at the moment and has one name."""
        if self.rolling:
            return Span(moment - self.rolling, moment, f"{self.rolling:g}s")
        kept = self._now
        if not kept.start <= moment < kept.end:
            kept = self._now = self._calendar(moment)
        return kept

    def before(self, span: Span) -> Span:
        """The span that ends where ``span`` starts."""
        return self.at(span.start) if self.rolling else self._calendar(span.start - 0.001)

    def _calendar(self, moment: float) -> Span:
        local = datetime.fromtimestamp(moment, self.zone)
        if self.kind == "hour":
            # By elapsed time, not by the wall: the hour that the clocks show twice is two windows.
            offset = (local.utcoffset() or timedelta()).total_seconds()
            start = moment - (moment + offset) % 3_600
            return Span(start, start + 3_600, datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%dT%H:%MZ"))
        first, last, name = _dates(self.kind, local.date())
        return Span(self._midnight(first), self._midnight(last), name)

    def _midnight(self, day: date) -> float:
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).timestamp()

    def __repr__(self) -> str:
        return f"Window({self.kind}, {self.zone})"


def _dates(kind: str, day: date) -> tuple[date, date, str]:
    """First day, first day after, and name of the window that ``day`` is in."""
    if kind == "day":
        return day, day + timedelta(days=1), day.isoformat()
    if kind == "week":
        first = day - timedelta(days=day.weekday())
        year, week, _ = day.isocalendar()
        return first, first + timedelta(days=7), f"{year}-W{week:02d}"
    first = day.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1), f"{day.year}-{day.month:02d}"


def zone(name: str) -> tzinfo:
    """The time zone of that IANA name. Raises ``ValueError``."""
    if name.upper() == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - only who asks for one

    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise ValueError(f"time zone {name!r}: must be an IANA name such as Europe/Berlin or UTC") from None
