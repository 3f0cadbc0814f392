"""How often a shared cache has been cleared, by this replica or by another.

Replicas that share their state (``state: redis://...``) tell each other by a note, which everyone has within a second.
It says only that there was a clear: what another replica has in its hands is then not sure any more.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.state.interface import State

__all__ = ["Clears"]

_NOTED_FOR: Final = 3600.0


class Clears:
    """count: the clears that are known of. by_others: called when another replica has cleared, at the next ``heed``."""

    def __init__(self, namespace: str) -> None:
        self.count = 0
        self.by_others: list[Callable[[], object]] = []
        self._note = f"cache.cleared.{namespace}"
        self._noted: bytes | None = None
        self._state: State | None = None

    def tell_through(self, state: State) -> None:
        """How replicas tell each other; said again by each new configuration, whose state it is."""
        self._state = state
        self._noted = state.read(self._note) or self._noted

    def tell(self) -> None:
        """Something has been cleared here: the others are to know."""
        if self._state is not None:
            self._noted = uuid.uuid4().bytes
            self._state.post(self._note, self._noted, _NOTED_FOR)

    def heed(self) -> int:
        """``count``, after a look at what others have told."""
        if self._state is not None:
            noted = self._state.read(self._note)
            if noted is not None and noted != self._noted:
                self._noted = noted
                self.count += 1
                for forget in self.by_others:
                    forget()
        return self.count
