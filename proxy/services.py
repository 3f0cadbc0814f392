"""What the core lends to policies, so that a policy owns no socket and no clock.

One object per snapshot, given to every policy's constructor. Heavy parts are made when first
asked for: a chain that uses no ledger opens none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.config.model import Config


class Services:
    """clock: wall and monotonic time. config: the whole configuration. workers: how many processes share
    each in-memory limit; worker: which of them this is, from 0. ``get(name)`` makes a part on first use: ``state``,
    ``keys``, ``breakers``, ``accounting``...

    dry: nothing live may be touched or counted (``explain``, ``check``, policy tests).
    """

    def __init__(self, clock: Clock, config: Config, *, workers: int = 1, worker: int = 0, dry: bool = False) -> None:
        self.clock = clock
        self.config = config
        self.workers = workers
        self.worker = worker
        self.dry = dry
        self.log = logging.getLogger("llm_sidecar")
        self._makers: dict[str, Callable[[Services], Any]] = {}
        self._parts: dict[str, Any] = {}
        self.adopted: set[str] = set()

    def offer(self, name: str, make: Callable[[Services], Any]) -> None:
        """Say how a part is made; it is made when first asked for."""
        self._makers[name] = make

    def get(self, name: str) -> Any:
        """A part, made on first use. KeyError when nobody offered it."""
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = self._makers[name](self)
        return part

    def adopt(self, name: str, part: Any) -> None:
        """Go on with a part of the snapshot before: it is running already and is not started again."""
        self._parts[name] = part
        self.adopted.add(name)

    def made(self) -> dict[str, Any]:
        """The parts that exist, for start, shutdown and the admin pages."""
        return self._parts
