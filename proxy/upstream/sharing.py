"""What replicas tell one another about one circuit: a note while it is open, and a lease for the one that probes.

The note is ``<wall seconds until a probe is due> <reason>``. Reading it is a look into the local picture of the shared
state, which is at most about a second old; only ``ask`` waits for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.state.interface import State

LOOK_EVERY: Final = 0.2
"""Seconds between two looks at the note."""
ASK_EVERY: Final = 1.0
"""Seconds after a refused lease before it is asked for again."""
OTHERS: Final = "another replica: "


@dataclass(frozen=True, slots=True)
class News:
    """What another replica found out. left: seconds until a probe is due; None: its probe was answered."""

    left: float | None
    reason: str = ""


class Sharing:
    """One circuit's note and lease. name: the same on all replicas. Times are monotonic seconds."""

    __slots__ = ("_ask_at", "_asking", "_clock", "_gone", "_leased_until", "_look_at", "_name", "_note", "_state")

    def __init__(self, name: str, state: State, clock: Clock) -> None:
        self._name = name
        self._state = state
        self._clock = clock
        self._note: bytes | None = None
        self._gone: bytes | None = None
        self._look_at = 0.0
        self._leased_until = 0.0
        self._asking = False
        self._ask_at = 0.0

    def news(self, now: float, *, at_once: bool = False) -> News | None:
        """What changed since the last look, by somebody else's doing."""
        if now < self._look_at and not at_once:
            return None
        self._look_at = now + LOOK_EVERY
        note = self._state.read(self._name)
        if note == self._note or (note is not None and note == self._gone):
            return None  # nothing new; or the echo of a note that this replica has taken down
        self._note = note
        if note is None:
            return News(None, "another replica's probe was answered")
        wall, _, reason = note.decode(errors="replace").partition(" ")
        try:
            left = float(wall) - self._clock.now()
        except ValueError:
            return None
        return News(max(0.0, left), reason if reason.startswith(OTHERS) else OTHERS + reason)

    def opened(self, left: float, reason: str) -> None:
        """Tell the others. The note outlives the open time: a circuit stays open until somebody has probed it."""
        self._note = f"{self._clock.now() + left:.3f} {reason}".encode()
        self._state.post(self._name, self._note, max(600.0, 10 * left))
        self.give_back()

    def closed(self) -> None:
        """Tell the others."""
        self._gone, self._note = self._note, None
        self._state.post(self._name, b"", 0.0)
        self.give_back()

    # --- the lease -------------------------------------------------------------------------------

    def leased(self, now: float) -> bool:
        """Whether this replica is the one that may probe."""
        return now < self._leased_until

    def may_ask(self, now: float) -> bool:
        """Whether asking for the lease is worth a round trip."""
        return not self._asking and now >= self._ask_at

    async def ask(self, seconds: float) -> None:
        """Ask for the lease: one round trip, 50 ms at most."""
        if self._asking:
            return
        self._asking = True
        try:
            granted = await self._state.lease(self._name, seconds)
            now = self._clock.monotonic()
            if granted:
                self._leased_until = now + seconds
            else:
                self._ask_at = now + ASK_EVERY
        finally:
            self._asking = False

    def give_back(self) -> None:
        """The lease, if this replica has it, is free for others."""
        if self._leased_until:
            self._leased_until = 0.0
            self._state.release(self._name)
