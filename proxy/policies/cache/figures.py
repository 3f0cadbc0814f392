"""What a cache counts, for the admin pages."""

from __future__ import annotations

from typing import Any

__all__ = ["Figures"]


class Figures:
    """Calls by how they ended here. would_hit: in observe mode, calls that could have been answered."""

    __slots__ = ("bypasses", "coalesced", "damaged", "hits", "misses", "stale", "stored", "would_hit")

    def __init__(self) -> None:
        self.hits = self.misses = self.stale = self.coalesced = self.bypasses = 0
        self.stored = self.damaged = self.would_hit = 0

    def shown(self) -> dict[str, Any]:
        """As a plain object. hit_ratio: share of calls that were answered without asking the provider."""
        counts = {name: getattr(self, name) for name in self.__slots__}
        served = self.hits + self.stale + self.coalesced
        asked = served + self.misses
        return {**counts, "hit_ratio": round(served / asked, 4) if asked else 0.0}
