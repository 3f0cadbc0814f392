"""What policies may ask of shared state. `MemoryState` and `RedisState` keep the same promises:

- `reserve` is the only awaited call on the way of an attempt, and one round trip; several that are asked at one time
  travel together (budgets of a chain, see `proxy.asking`). It waits at most 50 ms for a Redis that is slow or gone, and
  never fails: this process then decides by its own share of each limit.
- Everything else acts at once on the local picture and reaches the other replicas in the background, in order.
- Nothing needs cleaning up but grants, which are settled or freed once, and leases, which also end by themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from proxy.state.limits import Claims, Grant, Limit, Refusal, Usage

Alarm = Callable[[str, str], None]


class State(Protocol):
    """Limits, cooldowns, notes, small maps and leases. Seconds are relative everywhere; no wall clock is involved."""

    shared: bool
    """Whether other replicas see the same figures (Redis), so that the local picture may be behind."""

    @property
    def calm(self) -> bool:
        """Whether no cooldown is known at all: one look instead of one for each name."""

    async def reserve(self, alternatives: Sequence[Claims]) -> Grant | Refusal:
        """Takes every claim of the first alternative that fits whole, or nothing. A cancelled call leaves nothing."""

    def peek(self, claims: Claims) -> float:
        """Seconds until the claims would fit by the local picture: 0 now, `NEVER` when above the limit."""

    def settle(self, grant: Grant, actual: Sequence[float], sent_at: float | None = None) -> None:
        """Replaces the reserved amounts by the real ones, in the order of the claims.

        sent_at: monotonic time the call really left; a window counts it from then when it is later than the grace.
        """

    def free(self, grant: Grant) -> None:
        """Gives everything back: nothing was used."""

    def book(self, limit: Limit, amount: float, age: float = 0.0) -> None:
        """Counts what happened without asking, `age` seconds ago (windows): corrections, figures from a ledger."""

    def seed(self, limit: Limit, used: float) -> None:
        """Raises a counter's spent units to at least `used` (restored from a ledger at start)."""

    def usage(self, limit: Limit) -> Usage:
        """The limit's figures by the local picture."""

    def watch(self, limits: Sequence[Limit]) -> None:
        """Keeps the local picture of these up to date although nobody here uses them yet; replaces those of before."""

    def spent(self, limit: Limit) -> float:
        """A counter's spent units, a window's used ones, by the local picture: the one figure that calls ask for."""

    def cool(self, name: str, seconds: float, why: str = "") -> None:
        """Closes `name` for a time, on every replica; of several deadlines the latest wins."""

    def cooling(self, name: str) -> float:
        """Seconds left of a cooldown, 0 when there is none. Costs a dictionary look-up."""

    def why(self, name: str) -> str:
        """The reason given with the running cooldown, empty without one."""

    def warm(self, name: str) -> None:
        """Ends a cooldown now, on every replica."""

    def post(self, name: str, value: bytes, ttl: float) -> None:
        """A short note that every replica will see within a second: the last writer wins. Empty takes it down."""

    def read(self, name: str) -> bytes | None:
        """The note, by the local picture."""

    def notes(self, prefix: str) -> dict[str, bytes]:
        """All notes whose name starts so."""

    async def lease(self, name: str, ttl: float) -> bool:
        """True for one caller among all replicas until `release` or `ttl` seconds: who may probe a breaker."""

    def release(self, name: str) -> None:
        """Gives a lease of this process back; nothing happens when it had none."""

    def put(self, space: str, key: str, value: bytes, ttl: float, bound: int) -> None:
        """Keeps a value in a small map of at most `bound` entries; the oldest goes first."""

    async def get(self, space: str, key: str) -> bytes | None:
        """The value, from here when it is known here, else from the others: one round trip, never over 50 ms."""

    def drop(self, space: str, key: str) -> None:
        """Forgets an entry."""

    def tend(self, table: dict[Any, Any], key: Any) -> None:
        """Takes `key` out of a caller's own table some time after its value has become idle, and closes the value.

        The value has `idle_in(now)`: seconds until nothing of it is worth keeping, now being monotonic seconds; and
        `close()`.
        """

    async def start(self) -> None:
        """Connects and starts the background work; returns within half a second also when Redis hangs."""

    async def close(self) -> None:
        """Sends what is left and stops."""
