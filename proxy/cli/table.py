"""Rows as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.printable import printable

__all__ = ["table"]


def table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """One line a row, columns as wide as they need to be; None is ``-``, control codes are shown as text."""
    lines = [
        list(names),
        *(["-" if cell is None or cell == "" else printable(str(cell)) for cell in row] for row in rows),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
