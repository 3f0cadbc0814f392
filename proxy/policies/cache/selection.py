"""Which entries ``cache/clear`` takes: all conditions must hold; none means every entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.match import any_glob
from proxy.policies.cache.entry import EntryError, tags_of

if TYPE_CHECKING:
    from proxy.config.model import Config
    from proxy.policies.cache.key import Keyer

__all__ = ["EVERYTHING", "Selection", "sent_for"]


@dataclass(frozen=True, slots=True)
class Selection:
    """tags: all of them must be on an entry. models: one of them must, if there are any. prefix: hexadecimal digits
    that its name begins with."""

    tags: frozenset[bytes] = frozenset()
    models: frozenset[bytes] = frozenset()
    prefix: str = ""

    @classmethod
    def of(
        cls,
        keyer: Keyer,
        *,
        models: Iterable[str],
        project: str | None,
        tags: Mapping[str, str] | None,
        key_prefix: str | None,
    ) -> Selection:
        """From what an operator says."""
        found = set()
        if project:
            found.add(keyer.tag("project", project))
        for name, value in (tags or {}).items():
            found.add(keyer.tag("tag", f"{name}={value}"))
        return cls(
            frozenset(found), frozenset(keyer.tag("model", model) for model in models), (key_prefix or "").lower()
        )

    @property
    def by_tags(self) -> bool:
        """Whether an entry's beginning has to be looked at."""
        return bool(self.tags or self.models)

    @property
    def everything(self) -> bool:
        """Whether there is no condition."""
        return not self.by_tags and not self.prefix

    def takes(self, key: bytes, data: bytes, start: int = 0) -> bool:
        """Whether the entry goes. data: at least its beginning, from ``start``; what cannot be read goes, too."""
        if self.prefix and not key.hex().startswith(self.prefix):
            return False
        if not self.by_tags:
            return True
        try:
            has = tags_of(data, start)
            return self.tags <= has and not (self.models and self.models.isdisjoint(has))
        except EntryError:
            return True


def sent_for(model: str, config: Config) -> Iterator[str]:
    """What an alias or a route may send instead of a model."""
    if model in config.models:
        yield config.models[model].model
    for route in config.routes:
        told = route.match.model
        if route.enabled and route.model is not None and (not told or any_glob(told)(model)):
            yield route.model


EVERYTHING = Selection()
