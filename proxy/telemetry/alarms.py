"""What went wrong lately, for people: every warning and error of the log, a repeated one once with its count.

One source for the log and the alarms means that nothing can be in one and missing in the other: open circuits,
upstreams that are down, a ledger or Redis that does not answer, spent budgets, refused reloads, bugs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any, Final

__all__ = ["Alarms"]

KEPT: Final = 200
LOGGERS: Final = ("llm_sidecar", "proxy")
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Alarms(logging.Handler):
    """Attached to the process' loggers between ``start`` and ``stop``."""

    def __init__(self, kept: int = KEPT) -> None:
        super().__init__(logging.WARNING)
        self._kept = kept
        self._rows: OrderedDict[tuple[str, str, str], dict[str, Any]] = OrderedDict()

    def start(self) -> None:
        """Begin to listen."""
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)

    def stop(self) -> None:
        """Listen no more."""
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record; the same text about the same thing counts up."""
        try:
            text = record.getMessage()[:1000]
            about = {
                name: value if isinstance(value, str | int | float | bool | None) else str(value)[:300]
                for name, value in record.__dict__.items()
                if name not in _STANDARD
            }
            same = (record.name, text, str(about.get("upstream") or about.get("breaker") or ""))
            row = self._rows.pop(same, None)
            if row is None:
                row = {"first": record.created, "count": 0}
            if record.exc_info and record.exc_info[0] is not None:
                about["exception"] = record.exc_info[0].__name__
            row |= {"last": record.created, "count": row["count"] + 1, "severity": record.levelname.lower()}
            row |= {"logger": record.name, "text": text, "about": about}
            self._rows[same] = row
            if len(self._rows) > self._kept:
                self._rows.popitem(last=False)
        except Exception:
            self.handleError(record)

    def latest(self, count: int = KEPT) -> list[dict[str, Any]]:
        """The newest first; times in Unix seconds."""
        return list(reversed(self._rows.values()))[:count]
