"""What the journals on this disk hold that a ledger does not have yet: for who reads the ledger from outside."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.accounting.ledger.base import Position
from proxy.accounting.segments import filled

if TYPE_CHECKING:
    from proxy.accounting.ledger.base import Ledger

__all__ = ["behind", "caught_up"]

_LOOK = 0.05


async def caught_up(ledger: Ledger, root: Path, patience: float) -> int:
    """Wait until the ledger has what stands in the journals under ``root``, or for ``patience`` seconds. Returns the
    bytes that it still lacks.
    """
    deadline = time.monotonic() + patience
    while True:
        left = await behind(ledger, root)
        if not left or time.monotonic() >= deadline:
            return left
        await asyncio.sleep(_LOOK)


async def behind(ledger: Ledger, root: Path) -> int:
    """Bytes in the journals under ``root`` that are not in the ledger. Only reads: no journal is claimed."""
    total = 0
    for source, sizes in _journals(root):
        found = await ledger.rows(ledger.dialect.read_position, (source,))
        done = Position(*found[0]) if found else Position(0, 0)
        for number, size in sizes.items():
            if number >= done.segment:
                total += size - (done.place if number == done.segment else 0)
    return total


def _journals(root: Path) -> list[tuple[str, dict[int, int]]]:
    """Of each journal its source and the sizes of its segments."""
    found: list[tuple[str, dict[int, int]]] = []
    for directory in root.glob("w*"):
        try:
            source = (directory / "source").read_text().strip()
            found.append((source, {int(file.stem): filled(file) for file in directory.glob("[0-9]*.log")}))
        except FileNotFoundError:  # taken over and deleted while we looked
            continue
    return found
