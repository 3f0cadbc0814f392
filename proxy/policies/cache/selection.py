"""Which entries ``cache/clear`` takes: all conditions must hold; none means every entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.policies.cache.entry import EntryError, tags_of

if TYPE_CHECKING:
    from proxy.policies.cache.key import Keyer

__all__ = ["EVERYTHING", "Selection"]


@dataclass(frozen=True, slots=True)
class Selection:
    """tags: all of them must be on an entry. prefix: hexadecimal digits that its name begins with."""

    tags: frozenset[bytes] = frozenset()
    prefix: str = ""

    @classmethod
    def of(
        cls,
        keyer: Keyer,
        *,
        model: str | None,
        project: str | None,
        tags: Mapping[str, str] | None,
        key_prefix: str | None,
    ) -> Selection:
        """From what an operator says."""
        found = set()
        if model:
            found.add(keyer.tag("model", model))
        if project:
            found.add(keyer.tag("project", project))
        for name, value in (tags or {}).items():
            found.add(keyer.tag("tag", f"{name}={value}"))
        return cls(frozenset(found), (key_prefix or "").lower())

    @property
    def everything(self) -> bool:
        """Whether there is no condition."""
        return not self.tags and not self.prefix

    def takes(self, key: bytes, data: bytes, start: int = 0) -> bool:
        """Whether the entry goes. data: at least its beginning, from ``start``; what cannot be read goes, too."""
        if self.prefix and not key.hex().startswith(self.prefix):
            return False
        if not self.tags:
            return True
        try:
            return self.tags <= tags_of(data, start)
        except EntryError:
            return True


EVERYTHING = Selection()
