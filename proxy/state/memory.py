"""State of one process: plain dictionaries, one event loop, no locks. Exact, and a microsecond a reservation.

Also the local picture and the fallback inside `RedisState`. What is idle (a full bucket, an empty window, a cooldown
that is over) is the same as what does not exist, so it is swept: see `Sweeper`. A million principals that went home
cost nothing.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from proxy.clock import Clock, SystemClock
from proxy.state.limits import GRACE, Claims, Counter, Grant, Limit, Refusal, Share, Usage, Window
from proxy.state.meters import CounterMeter, Meter, WindowMeter, new_meter
from proxy.state.sweeper import LONGEST, Look, Sweeper

SWEEP_EVERY = 1.0
SWEEP_SLICE = 500


class MemoryState:
    """See `State`. share: this process' part of every limit (`workers: N` with `state: memory`)."""

    shared = False

    def __init__(self, clock: Clock | None = None, share: Share | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self._monotonic: Callable[[], float] = self.clock.monotonic
        self.share = share or Share()
        self.meters: dict[str, Meter] = {}
        self.cooldowns: dict[str, tuple[float, str]] = {}
        self.board: dict[str, tuple[float, bytes]] = {}
        self.leases: dict[str, float] = {}
        self.maps: dict[str, OrderedDict[str, tuple[float, bytes]]] = {}
        self.sweeper = Sweeper(self._monotonic)
        self._owed = 0
        self._look_at_meter: Look = self._meter_left
        self._look_at_cooldown = _expiring(self.cooldowns)
        self._look_at_note = _expiring(self.board)
        self._look_at_lease = _expiring(self.leases)
        self._sweeping: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<MemoryState {len(self.meters)} meters, {len(self.cooldowns)} cooldowns, {len(self.board)} notes>"

    # Limits

    def try_reserve(self, alternatives: Sequence[Claims]) -> Grant | Refusal:
        """`reserve` without a coroutine."""
        now = self._monotonic()
        meters = self.meters
        share = self.share
        best: Refusal | None = None
        for index, claims in enumerate(alternatives):
            for limit, amount in claims:
                wait = (meters.get(limit.name) or self.meter(limit)).ask(limit, amount, now, share)
                if wait > 0.0:
                    refusal = self._refuse(claims, limit, now)
                    if best is None or refusal.wait < best.wait:
                        best = refusal
                    break
            else:
                if self._owed:
                    self.sweep(self._owed)
                return Grant(claims, index, now)
        if best is None:
            raise ValueError("reserve needs at least one alternative")
        if self._owed:
            self.sweep(self._owed)
        return best

    def _refuse(self, claims: Claims, refused: Limit, now: float) -> Refusal:
        """Takes back what was taken before the claim that did not fit, and finds the longest wait of them all."""
        share = self.share
        for limit, amount in claims:
            if limit is refused:
                break
            self.meters[limit.name].settle(limit, amount, 0, now, now, share)
        longest, last = 0.0, refused
        for limit, amount in claims:
            wait = self.meter(limit).wait(limit, amount, now, share)
            if wait > longest:
                longest, last = wait, limit
        figures = self.usage(last)
        return Refusal(last, longest, figures.used, figures.held)

    async def reserve(self, alternatives: Sequence[Claims]) -> Grant | Refusal:
        return self.try_reserve(alternatives)

    def take(self, claims: Claims, index: int, now: float) -> Grant:
        """Books without asking: somebody else (Redis) has already said yes."""
        for limit, amount in claims:
            self.meter(limit).take(limit, amount, now, self.share)
        return Grant(claims, index, now)

    def peek(self, claims: Claims) -> float:
        now = self._monotonic()
        longest = 0.0
        for limit, amount in claims:
            meter = self.meters.get(limit.name)
            if meter is None:
                meter = new_meter(limit)
            wait = meter.wait(limit, amount, now, self.share)
            longest = max(longest, wait)
        return longest

    def settle(self, grant: Grant, actual: Sequence[float], sent_at: float | None = None) -> None:
        if not grant.open:
            return
        grant.open = False
        now = self._monotonic()
        claims = grant.claims
        if len(claims) == 1:
            [(limit, amount)], [real] = claims, actual
            self._settle(limit, amount, real, grant.stamp, now)
        else:
            for (limit, amount), real in zip(claims, actual, strict=True):
                self._settle(limit, amount, real, grant.stamp, now)
        if sent_at is not None and sent_at > grant.stamp + GRACE:
            self._restamp(grant, actual, sent_at, now)

    def _settle(self, limit: Limit, amount: float, real: float, stamp: float, now: float) -> None:
        meter = self.meters.get(limit.name) or self.meter(limit)
        if type(meter) is CounterMeter and not meter.span and meter.expires > now and type(limit) is Counter:
            meter.held -= amount  # a budget's calendar window: nothing but two sums
            meter.spent += real
            meter.away += real - amount
        elif real != amount or not limit.prepaid:
            meter.settle(limit, amount, real, stamp, now, self.share)

    def _restamp(self, grant: Grant, actual: Sequence[float], sent_at: float, now: float) -> None:
        for (limit, _), real in zip(grant.claims, actual, strict=True):
            meter = self.meters.get(limit.name)
            if isinstance(limit, Window) and isinstance(meter, WindowMeter):
                meter.move(limit, real, grant.stamp, sent_at, now, self.share)

    def free(self, grant: Grant) -> None:
        self.settle(grant, [0] * len(grant.claims))

    def book(self, limit: Limit, amount: float, age: float = 0.0) -> None:
        now = self._monotonic()
        meter = self.meter(limit)
        if isinstance(meter, CounterMeter):
            if isinstance(limit, Counter):
                meter.spend(limit, amount, now)
        else:
            meter.take(limit, amount, now - age, self.share)

    def seed(self, limit: Limit, used: float) -> None:
        meter = self.meter(limit)
        if isinstance(meter, CounterMeter) and isinstance(limit, Counter) and used > meter.spent:
            meter.spend(limit, used - meter.spent, self._monotonic())

    def usage(self, limit: Limit) -> Usage:
        meter = self.meters.get(limit.name)
        return Usage(0, 0, limit.limit, 0.0) if meter is None else meter.usage(limit, self._monotonic())

    def watch(self, limits: Sequence[Limit]) -> None:
        pass  # nobody else uses them

    def spent(self, limit: Limit) -> float:
        meter = self.meters.get(limit.name)
        if type(meter) is CounterMeter:
            if meter.span:
                meter.drop(self._monotonic())
            return meter.spent
        return meter.used(self._monotonic()) if type(meter) is WindowMeter else 0.0

    # Cooldowns and notes

    @property
    def calm(self) -> bool:
        return not self.cooldowns

    def cool(self, name: str, seconds: float, why: str = "") -> None:
        until = self._monotonic() + seconds
        known = self.cooldowns.get(name)
        if known is None:
            self._tend(self._look_at_cooldown, name, seconds)
        elif known[0] >= until:
            return
        self.cooldowns[name] = (until, why)

    def cooling(self, name: str) -> float:
        known = self.cooldowns.get(name)
        if known is None:
            return 0.0
        return max(0.0, known[0] - self._monotonic())

    def why(self, name: str) -> str:
        known = self.cooldowns.get(name)
        return known[1] if known is not None and known[0] > self._monotonic() else ""

    def warm(self, name: str) -> None:
        self.cooldowns.pop(name, None)

    def post(self, name: str, value: bytes, ttl: float) -> None:
        if not value:
            self.board.pop(name, None)
            return
        if name not in self.board:
            self._tend(self._look_at_note, name, ttl)
        self.board[name] = (self._monotonic() + ttl, value)

    def read(self, name: str) -> bytes | None:
        known = self.board.get(name)
        return known[1] if known is not None and known[0] > self._monotonic() else None

    def notes(self, prefix: str) -> dict[str, bytes]:
        now = self._monotonic()
        return {k: value for k, (until, value) in self.board.items() if until > now and k.startswith(prefix)}

    # Leases and maps

    def try_lease(self, name: str, ttl: float) -> bool:
        """`lease` without a coroutine."""
        now = self._monotonic()
        until = self.leases.get(name)
        if until is not None and until > now:
            return False
        if until is None:
            self._tend(self._look_at_lease, name, ttl)
        self.leases[name] = now + ttl
        return True

    async def lease(self, name: str, ttl: float) -> bool:
        return self.try_lease(name, ttl)

    def release(self, name: str) -> None:
        self.leases.pop(name, None)

    def put(self, space: str, key: str, value: bytes, ttl: float, bound: int) -> None:
        entries = self.maps.setdefault(space, OrderedDict())
        entries[key] = (self._monotonic() + ttl, value)
        entries.move_to_end(key)
        while len(entries) > bound:
            entries.popitem(last=False)

    def known(self, space: str, key: str) -> bytes | None:
        """`get` without a coroutine."""
        entries = self.maps.get(space)
        found = entries.get(key) if entries is not None else None
        if entries is None or found is None:
            return None
        if found[0] <= self._monotonic():
            del entries[key]
            return None
        return found[1]

    async def get(self, space: str, key: str) -> bytes | None:
        return self.known(space, key)

    def drop(self, space: str, key: str) -> None:
        entries = self.maps.get(space)
        if entries is not None:
            entries.pop(key, None)

    # Life and sweeping

    async def start(self) -> None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep_forever(), name="state-sweeper")

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
            self._sweeping = None

    def leave(self) -> None:
        """From now on `away` counts: the other replicas cannot be reached."""
        for meter in self.meters.values():
            meter.leave()

    def sweep(self, most: int) -> int:
        """Looks at up to `most` entries that are due, forgets the idle ones, and says how many were looked at."""
        self._owed = 0
        return self.sweeper.sweep(most)

    async def _sweep_forever(self) -> None:
        while True:
            await self.clock.sleep(SWEEP_EVERY)
            while self.sweep(SWEEP_SLICE) == SWEEP_SLICE:  # noqa: ASYNC110 - a turn for the calls after each slice
                await asyncio.sleep(0)

    def meter(self, limit: Limit) -> Meter:
        meter = self.meters.get(limit.name)
        if meter is None:
            meter = self.meters[limit.name] = new_meter(limit)
            self._tend(self._look_at_meter, limit.name)
        return meter

    def keep(self, limit: Limit) -> Meter:
        """The limit's meter for somebody who holds on to it: it is not swept before he lets go of it."""
        meter = self.meters.get(limit.name)
        if meter is None:
            meter = self.meters[limit.name] = new_meter(limit)
        meter.kept += 1
        return meter

    def let_go(self, limit: Limit, meter: Meter) -> None:
        """Ends a `keep`."""
        meter.kept -= 1
        if meter.kept:
            return
        left = meter.idle_in(self._monotonic())
        if left > 0.0:
            self.sweeper.add(self._look_at_meter, limit.name, left)
        else:
            self.meters.pop(limit.name, None)

    def tend(self, table: dict[Any, Any], key: Any) -> None:
        def look(key: Any, now: float) -> float:
            entry = table.get(key)
            if entry is None:
                return 0.0
            left: float = entry.idle_in(now)
            if left > 0.0:
                return LONGEST
            del table[key]
            entry.close()
            return 0.0

        self.sweep(2)  # growth pays; before the new one is added, which nobody has used yet
        self.sweeper.add(look, key, LONGEST)

    def _tend(self, look: Look, key: Any, seconds: float = 0.0) -> None:
        """Sweeps an entry from now on, and owes a look at two old ones: growth pays for its own cleaning."""
        self.sweeper.add(look, key, seconds)
        self._owed += 2

    def _meter_left(self, name: Any, now: float) -> float:
        meter = self.meters.get(name)
        if meter is None or meter.kept:
            return 0.0  # whoever keeps it sees to it
        left = meter.idle_in(now)
        if left <= 0.0:
            del self.meters[name]
        return left


def _until(entry: Any) -> float:
    until: float = entry[0] if type(entry) is tuple else entry
    return until


def _expiring(table: dict[str, Any]) -> Look:
    """Looks at the entries of a table that end at a known moment."""

    def look(name: Any, now: float) -> float:
        entry = table.get(name)
        left = 0.0 if entry is None else _until(entry) - now
        if left <= 0.0:
            table.pop(name, None)
        return left

    return look
