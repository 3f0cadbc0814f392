"""The counters behind the limits, in one process. Pure: every method is told the time (monotonic seconds).

Each meter answers the same questions: `wait` (seconds until an amount fits, 0 now), `take` (without asking), `ask`
(take if it fits: 0, else the wait), `settle`, `usage`, `idle_in` (seconds until nothing of it is worth keeping). The
ways that every call goes are written out flat, since a nested call costs as much as the sum it makes.

Three figures exist for processes that share a limit through Redis and cannot reach it now: `others` is what the rest
had used when last heard of, `away` what this process took since then, and `Share` how much of the remainder it may
take. News is never quite fresh, so for windows and places there is a second bound: what a process has taken in all does
not grow beyond its share of the whole while it is alone. With nobody to share with, the share is the whole.
"""

from collections import deque
from typing import Any, Protocol

from proxy.state.limits import NEVER, Bucket, Counter, Limit, Share, Slots, Usage, Window


class Meter(Protocol):
    """What `MemoryState` asks of every kind. `limit` is the kind that belongs to the meter.

    kept: how many hold on to it (`Joint`), so that it may not be swept.
    """

    kept: int

    def wait(self, limit: Any, amount: float, now: float, share: Share) -> float: ...
    def ask(self, limit: Any, amount: float, now: float, share: Share) -> float: ...
    def take(self, limit: Any, amount: float, now: float, share: Share) -> None: ...
    def settle(self, limit: Any, amount: float, actual: float, stamp: float, now: float, share: Share) -> None: ...
    def usage(self, limit: Any, now: float) -> Usage: ...
    def leave(self) -> None: ...
    def idle_in(self, now: float) -> float: ...


class WindowMeter:
    """Sliding window in cells. `cells`: amounts by the end of their cell, oldest first; `written` is their sum.

    total: the same and what was taken since, which belongs to the cell `last` and is put there before anybody looks.
    steady: until then nothing drops out and `last` is the cell to book in, so that asking is a comparison and a sum.
    before: what of `total` was taken before `leave`, cell by cell in `old`; the rest was taken since.

    Amounts are whole numbers, and so are sums that begin with one: adding and comparing a float and an integer costs
    several times as much.
    """

    __slots__ = (
        "before", "cells", "kept", "last", "old", "others", "others_until", "span", "steady", "total", "written",
    )  # fmt: skip

    def __init__(self, limit: Window) -> None:
        self.cells: dict[float, float] = {}
        self.old: dict[float, float] = {}
        self.last = 0.0
        self.steady = 0.0
        self.total: float = 0
        self.written: float = 0
        self.before: float = 0
        self.others: float = 0
        self.others_until = 0.0
        self.span = limit.span
        self.kept = 0

    def write(self) -> None:
        """Puts what was taken into the cell it belongs to."""
        total = self.total
        if total != self.written:
            self.cells[self.last] += total - self.written
            self.written = total

    def drop(self, now: float) -> None:
        """Forgets the cells that are wholly past."""
        self.write()
        horizon = now - self.span
        cells = self.cells
        while cells:
            end = next(iter(cells))
            if end > horizon:
                break
            self.total -= cells.pop(end)
            self.steady = 0.0
            if self.old:
                self.before -= self.old.pop(end, 0)
        self.written = self.total
        if self.others and self.others_until <= now:
            self.others = 0

    def room(self, limit: Window, share: Share) -> float:
        if share.count == 1:
            return limit.limit - self.total - self.others
        left = share.of(max(0.0, limit.limit - self.before - self.others)) - (self.total - self.before)
        return min(left, share.of(limit.limit) - self.total)

    def wait(self, limit: Window, amount: float, now: float, share: Share) -> float:
        self.drop(now)
        missing = amount - self.room(limit, share)
        if missing <= 0:
            return 0.0
        if amount > share.of(limit.limit):
            return NEVER
        freed: float = 0
        for end, part in self.cells.items():
            freed += part
            if freed >= missing:
                return end + self.span - now
        return max(self.others_until - now, self.last + self.span - now if self.cells else 0.0, limit.cell)

    def ask(self, limit: Window, amount: float, now: float, share: Share) -> float:
        if now < self.steady and share.count == 1:
            total = self.total + amount
            if total + self.others <= limit.limit:
                self.total = total
                return 0.0
        wait = self.wait(limit, amount, now, share)
        if wait <= 0:
            self.take(limit, amount, now, share)
        return wait

    def take(self, limit: Window, amount: float, now: float, share: Share) -> None:
        end = (now + limit.grace) // limit.cell * limit.cell + limit.cell
        self.add(end, amount)
        if end == self.last:
            self.steady = min(end - limit.grace, next(iter(self.cells)) + self.span)
            if self.others:
                self.steady = min(self.steady, self.others_until)

    def add(self, end: float, amount: float) -> None:
        """Books `amount` in the cell that ends at `end`."""
        self.write()
        cells = self.cells
        self.total += amount
        self.written = self.total
        if end in cells:
            cells[end] += amount
            return
        self.steady = 0.0
        late = bool(cells) and end < self.last
        cells[end] = amount
        if late:
            self.cells = dict(sorted(cells.items()))
        else:
            self.last = end

    def settle(self, limit: Window, amount: float, actual: float, stamp: float, now: float, share: Share) -> None:
        difference = actual - amount
        if not difference:
            return
        end = (stamp + limit.grace) // limit.cell * limit.cell + limit.cell
        kept = self.cells.get(end)
        if kept is None:
            if difference > 0 and end > now - self.span:
                self.add(end, difference)
            return
        left = kept + difference
        if left < 0 or self.old:
            self.write()  # the cell may be the newest one, and hold more
            kept = self.cells[end]
            left = max(0, kept + difference)
        self.cells[end] = left
        self.total += left - kept
        self.written += left - kept
        if self.old and left < self.old.get(end, 0):
            self.before -= self.old[end] - left
            self.old[end] = left

    def move(self, limit: Window, amount: float, stamp: float, later: float, now: float, share: Share) -> None:
        """A call that left later than the grace: `amount` booked at `stamp` counts from `later` on."""
        if amount and later > stamp + limit.grace:
            self.settle(limit, amount, 0, stamp, now, share)
            self.take(limit, amount, later - limit.grace, share)

    def learn(self, others: float, until: float) -> None:
        """What the other replicas use, and until when that news is worth something."""
        self.others = others
        self.others_until = until
        self.steady = min(self.steady, until)

    def usage(self, limit: Window, now: float) -> Usage:
        self.drop(now)
        last = self.last + self.span - now if self.cells else 0.0
        return Usage(float(self.total + self.others), 0.0, limit.limit, max(last, self.others_until - now, 0.0))

    def used(self, now: float) -> float:
        """Units in the window by the local picture: the one figure of `usage` that is asked for often."""
        self.drop(now)
        return self.total + self.others

    def leave(self) -> None:
        self.write()
        self.old = dict(self.cells)
        self.before = self.total

    def idle_in(self, now: float) -> float:
        """Seconds until nothing of it is worth keeping, 0 when that is so now."""
        self.drop(now)
        if self.cells:
            return self.last + self.span - now
        return max(0.0, self.others_until - now) if self.others else 0.0


ROUNDING = 1e-9


class BucketMeter:
    """A token bucket kept as one number: the moment at which it will be full again (generic cell rate algorithm).

    level = burst - (full_at - now) * rate; a full bucket is one whose moment has passed, and can be forgotten.
    """

    __slots__ = ("full_at", "kept", "limit")

    def __init__(self, limit: Bucket) -> None:
        self.limit = limit
        self.full_at = 0.0
        self.kept = 0

    def wait(self, limit: Bucket, amount: float, now: float, share: Share) -> float:
        full_at = self.full_at if self.full_at > now else now
        if share.count == 1:
            if amount > limit.burst:
                return NEVER
            ready = full_at + amount / limit.rate - limit.depth - now
            return ready if ready > ROUNDING else 0.0
        part = limit.burst / share.count
        if amount > part:
            if share.strict or amount > limit.burst:
                return NEVER
            return full_at - now  # lent: only from a full bucket, and paid back at the share's own rate
        ready = full_at + (amount - part) / (limit.rate / share.count) - now
        return ready if ready > ROUNDING else 0.0

    def ask(self, limit: Bucket, amount: float, now: float, share: Share) -> float:
        if share.count == 1 and amount <= limit.burst:
            full_at = (self.full_at if self.full_at > now else now) + amount / limit.rate
            if full_at - now - limit.depth > ROUNDING:
                return full_at - now - limit.depth
            self.full_at = full_at
            return 0.0
        wait = self.wait(limit, amount, now, share)
        if wait <= 0:
            self.take(limit, amount, now, share)
        return wait

    def take(self, limit: Bucket, amount: float, now: float, share: Share) -> None:
        self.full_at = (self.full_at if self.full_at > now else now) + amount * share.count / limit.rate

    def settle(self, limit: Bucket, amount: float, actual: float, stamp: float, now: float, share: Share) -> None:
        full_at = self.full_at if self.full_at > now else now
        self.full_at = full_at + (actual - amount) * share.count / limit.rate

    def usage(self, limit: Bucket, now: float) -> Usage:
        short = max(0.0, self.full_at - now)
        return Usage(short * limit.rate, 0.0, limit.burst, short)

    def leave(self) -> None:
        pass

    def idle_in(self, now: float) -> float:
        return max(0.0, self.full_at - now)


class CounterMeter:
    """Spent and held units. `spent` of a rolling counter lives in cells: [end of the cell, amount]."""

    __slots__ = ("away", "cells", "expires", "held", "kept", "others", "others_until", "span", "spent")

    def __init__(self, limit: Counter | Slots) -> None:
        self.spent = 0.0
        self.held = 0.0
        self.others = 0.0
        self.others_until = 0.0
        self.away = 0.0
        self.expires = 0.0
        self.span = limit.span if isinstance(limit, Counter) else 0.0
        self.cells: deque[list[float]] | None = deque() if self.span else None
        self.kept = 0

    def drop(self, now: float) -> None:
        """Forgets what is over: a calendar counter past its deadline, cells wholly past, stale news of others."""
        if self.others and self.others_until <= now:
            self.others = 0.0
        cells = self.cells
        if cells is None:
            if self.expires and self.expires <= now:
                self.away -= self.spent
                self.spent = self.expires = 0.0
            return
        horizon = now - self.span
        while cells and cells[0][0] <= horizon:
            self.spent -= cells.popleft()[1]

    def wait(self, limit: Counter | Slots, amount: float, now: float, share: Share) -> float:
        self.drop(now)
        total = self.spent + self.held + self.others
        if share.count == 1:
            missing = total + amount - limit.limit
        else:
            missing = self.away + amount - share.of(max(0.0, limit.limit - (total - self.away)))
            if isinstance(limit, Slots):
                missing = max(missing, self.held + amount - share.of(limit.limit))
        if missing <= 0:
            return 0.0
        if amount > limit.limit:
            return NEVER
        if self.held or self.others or isinstance(limit, Slots):
            return 1.0  # somebody's reservation may come back any moment
        if self.cells is None:
            return self.expires - now if self.expires else limit.ttl
        freed = 0.0
        for end, part in self.cells:
            freed += part
            if freed >= missing:
                return end + self.span - now
        return self.span

    def ask(self, limit: Counter | Slots, amount: float, now: float, share: Share) -> float:
        expires = self.expires
        if (
            share.count == 1
            and not self.span
            and not self.others
            and expires > now
            and self.spent + self.held + amount <= limit.limit
        ):
            self.held += amount
            self.away += amount
            return 0.0
        wait = self.wait(limit, amount, now, share)
        if wait <= 0:
            self.take(limit, amount, now, share)
        return wait

    def take(self, limit: Counter | Slots, amount: float, now: float, share: Share) -> None:
        self.held += amount
        self.away += amount
        self.touch(limit, now)

    def settle(
        self, limit: Counter | Slots, amount: float, actual: float, stamp: float, now: float, share: Share
    ) -> None:
        self.held -= amount
        self.away -= amount
        if isinstance(limit, Counter) and actual:
            self.spend(limit, actual, now)

    def spend(self, limit: Counter, actual: float, now: float) -> None:
        self.spent += actual
        self.away += actual
        if self.cells is not None:
            end = now // limit.cell * limit.cell + limit.cell
            if self.cells and self.cells[-1][0] >= end:
                self.cells[-1][1] += actual
            else:
                self.cells.append([end, actual])
        self.touch(limit, now)

    def touch(self, limit: Counter | Slots, now: float) -> None:
        """A calendar counter keeps its first deadline; a rolling one lives until its last cell is past."""
        if isinstance(limit, Slots):
            return
        if self.span:
            self.expires = now + self.span + limit.cell
        elif not self.expires:
            self.expires = now + limit.ttl

    def usage(self, limit: Counter | Slots, now: float) -> Usage:
        self.drop(now)
        return Usage(self.spent, self.held + self.others, limit.limit, max(0.0, self.expires - now))

    def leave(self) -> None:
        self.away = 0.0

    def idle_in(self, now: float) -> float:
        self.drop(now)
        if self.cells:
            return self.cells[-1][0] + self.span - now
        if self.held:
            return NEVER
        return max(0.0, self.expires - now)


class SlotsMeter(CounterMeter):
    """Places that are held and given back: the two sums that every call changes, whole numbers as in `WindowMeter`."""

    __slots__ = ()

    def __init__(self, limit: Counter | Slots) -> None:
        super().__init__(limit)
        self.held = self.away = 0

    def ask(self, limit: Counter | Slots, amount: float, now: float, share: Share) -> float:
        if share.count == 1 and not self.others and self.held + amount <= limit.limit:
            self.held += amount
            self.away += amount
            return 0.0
        return super().ask(limit, amount, now, share)

    def settle(
        self, limit: Counter | Slots, amount: float, actual: float, stamp: float, now: float, share: Share
    ) -> None:
        self.held -= amount
        self.away -= amount


def new_meter(limit: Limit) -> Meter:
    """An empty meter for the limit's kind."""
    if isinstance(limit, Window):
        return WindowMeter(limit)
    if isinstance(limit, Bucket):
        return BucketMeter(limit)
    return SlotsMeter(limit) if isinstance(limit, Slots) else CounterMeter(limit)
