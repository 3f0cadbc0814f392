"""Times as people write them on a command line or in a query: ``7d``, ``2026-11-01``, ``2026-11-01T08:00+01:00``."""

from __future__ import annotations

from datetime import datetime, tzinfo

from proxy.config.units import parse_duration

__all__ = ["moment"]

_HOUR = 3_600


def moment(text: str, local: tzinfo, now: float) -> float:
    """Unix seconds. A duration back from ``now`` is cut to the whole hour, so that sums come from the roll-ups.

    Raises ``ValueError`` for what is no time.
    """
    try:
        return (now - parse_duration(text)) // _HOUR * _HOUR
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: give 7d, 2026-11-01 or 2026-11-01T08:00+01:00") from None
    return (found if found.tzinfo else found.replace(tzinfo=local)).timestamp()
