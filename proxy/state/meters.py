"""The counters behind the limits, in one process. Pure: every method is told the time (monotonic seconds).

Each meter answers the same questions: `wait` (seconds until an amount fits, 0 now), `take` (without asking), `ask`
(take if it fits: 0, else the wait), `settle`, `usage`, `idle` (nothing worth keeping). The ways that every call goes
are written out flat, since a nested call costs as much as the sum it makes.

Three figures exist for processes that share a limit through Redis and cannot reach it now: `others` is what the rest
had used when last heard of, `away` what this process took since then, and `Share` how much of the remainder it may
take. Alone, `others` is 0 and the share is the whole.
"""

from collections import deque
from typing import Any, Protocol

from proxy.state.limits import NEVER, Bucket, Counter, Limit, Share, Slots, Usage, Window


class Meter(Protocol):
    """What `MemoryState` asks of every kind. `limit` is the kind that belongs to the meter."""

    def wait(self, limit: Any, amount: float, now: float, share: Share) -> float: ...
    def ask(self, limit: Any, amount: float, now: float, share: Share) -> float: ...
    def take(self, limit: Any, amount: float, now: float, share: Share) -> None: ...
    def settle(self, limit: Any, amount: float, actual: float, stamp: float, now: float, share: Share) -> None: ...
    def usage(self, limit: Any, now: float) -> Usage: ...
    def leave(self) -> None: ...
    def idle(self, now: float) -> bool: ...


class WindowMeter:
    """Sliding window in cells. `cells`: [end of the cell, amount, taken since `leave`], oldest first."""

    __slots__ = ("away", "cells", "others", "others_until", "span", "total")

    def __init__(self, limit: Window) -> None:
        self.cells: deque[list[float]] = deque()
        self.total = 0.0
        self.away = 0.0
        self.others = 0.0
        self.others_until = 0.0
        self.span = limit.span

    def drop(self, now: float) -> None:
        """Forgets the cells that are wholly past."""
        horizon = now - self.span
        cells = self.cells
        while cells and cells[0][0] <= horizon:
            _, amount, away = cells.popleft()
            self.total -= amount
            if away:
                self.away -= amount
        if self.others and self.others_until <= now:
            self.others = 0.0

    def room(self, limit: Window, share: Share) -> float:
        if share.count == 1:
            return limit.limit - self.total - self.others
        return share.of(max(0.0, limit.limit - (self.total - self.away) - self.others)) - self.away

    def wait(self, limit: Window, amount: float, now: float, share: Share) -> float:
        cells = self.cells
        if (cells and cells[0][0] <= now - self.span) or self.others:
            self.drop(now)
        missing = amount - self.room(limit, share)
        if missing <= 0:
            return 0.0
        if amount > share.of(limit.limit):
            return NEVER
        freed = 0.0
        for end, part, _ in cells:
            freed += part
            if freed >= missing:
                return end + self.span - now
        return max(self.others_until - now, cells[-1][0] + self.span - now if cells else 0.0, limit.cell)

    def ask(self, limit: Window, amount: float, now: float, share: Share) -> float:
        cells = self.cells
        if cells:
            if cells[0][0] <= now - self.span or self.others:
                self.drop(now)
            if share.count == 1:
                if self.total + self.others + amount > limit.limit:
                    return self.wait(limit, amount, now, share)
                last = cells[-1] if cells else None
                stamp = now + limit.grace
                if last is not None and last[0] - limit.cell <= stamp < last[0] and last[2]:
                    last[1] += amount
                    self.total += amount
                    self.away += amount
                else:
                    self.add(stamp // limit.cell * limit.cell + limit.cell, amount)
                return 0.0
        wait = self.wait(limit, amount, now, share)
        if wait <= 0:
            self.take(limit, amount, now, share)
        return wait

    def take(self, limit: Window, amount: float, now: float, share: Share) -> None:
        self.add((now + limit.grace) // limit.cell * limit.cell + limit.cell, amount)

    def add(self, end: float, amount: float) -> None:
        """Books `amount` (negative gives back) in the cell that ends at `end`."""
        cells = self.cells
        self.total += amount
        self.away += amount
        if not cells or end > cells[-1][0]:
            cells.append([end, amount, 1.0])
            return
        for cell in reversed(cells):
            if cell[0] == end and cell[2]:
                cell[1] += amount
                return
            if cell[0] < end:
                break
        cells.append([end, amount, 1.0])
        self.cells = deque(sorted(cells))

    def settle(self, limit: Window, amount: float, actual: float, stamp: float, now: float, share: Share) -> None:
        difference = actual - amount
        stamp += limit.grace
        if self.cells:
            last = self.cells[-1]
            if last[0] - limit.cell <= stamp < last[0] and last[2] and last[1] + difference >= 0:
                last[1] += difference
                self.total += difference
                self.away += difference
                return
        end = stamp // limit.cell * limit.cell + limit.cell
        if not difference or end <= now - self.span:
            return
        for cell in reversed(self.cells):
            if cell[0] == end:
                # A cell never goes below zero: what was booked before `leave` and after it may be two entries.
                change = max(difference, -cell[1])
                cell[1] += change
                self.total += change
                if cell[2]:
                    self.away += change
                difference -= change
                if not difference:
                    return
            elif cell[0] < end:
                break
        if difference > 0:
            self.add(end, difference)

    def move(self, limit: Window, amount: float, stamp: float, later: float, now: float, share: Share) -> None:
        """A call that left later than the grace: `amount` booked at `stamp` counts from `later` on."""
        if amount and later > stamp + limit.grace:
            self.settle(limit, amount, 0, stamp, now, share)
            self.take(limit, amount, later - limit.grace, share)

    def usage(self, limit: Window, now: float) -> Usage:
        self.drop(now)
        last = self.cells[-1][0] + self.span - now if self.cells else 0.0
        return Usage(self.total + self.others, 0.0, limit.limit, max(last, self.others_until - now, 0.0))

    def leave(self) -> None:
        self.away = 0.0
        for cell in self.cells:
            cell[2] = 0.0

    def idle(self, now: float) -> bool:
        self.drop(now)
        return not self.cells and not self.others


ROUNDING = 1e-9


class BucketMeter:
    """A token bucket kept as one number: the moment at which it will be full again (generic cell rate algorithm).

    level = burst - (full_at - now) * rate; a full bucket is one whose moment has passed, and can be forgotten.
    """

    __slots__ = ("full_at", "limit")

    def __init__(self, limit: Bucket) -> None:
        self.limit = limit
        self.full_at = 0.0

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

    def idle(self, now: float) -> bool:
        return self.full_at <= now


class CounterMeter:
    """Spent and held units. `spent` of a rolling counter lives in cells: [end of the cell, amount]."""

    __slots__ = ("away", "cells", "expires", "held", "others", "others_until", "span", "spent")

    def __init__(self, limit: Counter | Slots) -> None:
        self.spent = 0.0
        self.held = 0.0
        self.others = 0.0
        self.others_until = 0.0
        self.away = 0.0
        self.expires = 0.0
        self.span = limit.span if isinstance(limit, Counter) else 0.0
        self.cells: deque[list[float]] | None = deque() if self.span else None

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
        if missing <= 0:
            return 0.0
        if amount > limit.limit:
            return NEVER
        if self.held or self.others or isinstance(limit, Slots):
            return 1.0  # somebody's reservation may come back any moment
        if self.cells is None:
            return max(0.0, self.expires - now)
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

    def idle(self, now: float) -> bool:
        self.drop(now)
        return not (self.held or self.expires > now or self.cells)


def new_meter(limit: Limit) -> Meter:
    """An empty meter for the limit's kind."""
    if isinstance(limit, Window):
        return WindowMeter(limit)
    if isinstance(limit, Bucket):
        return BucketMeter(limit)
    return CounterMeter(limit)
