"""What can be limited, and the receipts of a reservation. Plain values, shared by the memory and the Redis side.

A `Claim` is a limit and the amount wanted of it. Claims are reserved together or not at all. Limits are built once
(at load, or once per principal) and never changed; the counters behind them are found by `name`, so that they outlive
a reload, which may carry the same name with another limit. `prepaid` kinds need no settlement when the estimate was
right; the others hold a reservation apart from what was spent.
"""

import math
from typing import TypeAlias

NEVER = math.inf
GRACE = 0.25


class Window:
    """At most `limit` units in any `span` seconds, the whole limit usable at once.

    The span is cut into cells of `cell` seconds. A cell counts until it is wholly past, so the sum over any `span`
    seconds stays within the limit at the price of up to one cell of delay. `grace` seconds are added to the moment of
    booking: the far end sees a call later than we book it, and must not see it in a window we have already left.
    """

    __slots__ = ("cell", "grace", "limit", "name", "span")
    prepaid = True

    def __init__(self, name: str, limit: int, span: float = 60.0, cell: float = 1.0, grace: float = GRACE) -> None:
        self.name = name
        self.limit = limit
        self.span = span
        self.cell = cell
        self.grace = grace

    def __repr__(self) -> str:
        return f"Window({self.name} {self.limit}/{self.span:g}s)"


class Bucket:
    """A token bucket: `burst` units when full, refilled with `rate` units a second. Amounts may be any weight.

    More than `burst` at once never fits. A settlement above the reservation takes the level below zero, and later
    callers wait for it.
    """

    __slots__ = ("burst", "depth", "limit", "name", "rate")
    prepaid = True

    def __init__(self, name: str, rate: float, burst: float, depth: float | None = None) -> None:
        """depth: seconds from empty to full; who makes many equal buckets gives the same object to all."""
        self.name = name
        self.rate = rate
        self.burst = burst
        self.limit = burst
        self.depth = burst / rate if depth is None else depth

    def __repr__(self) -> str:
        return f"Bucket({self.name} {self.rate:g}/s burst {self.burst:g})"


class Counter:
    """At most `limit` units until the window behind the name ends: what was spent and what is held for calls in flight.

    `ttl`: seconds until the counter is forgotten; for a calendar window put the window's start into the name and a ttl
    that reaches past its end. `span` above 0 makes it rolling: what was spent is forgotten `span` seconds later, in
    steps of `cell` seconds.
    """

    __slots__ = ("cell", "limit", "name", "span", "ttl")
    prepaid = False

    def __init__(self, name: str, limit: int, ttl: float, span: float = 0.0, cell: float = 0.0) -> None:
        self.name = name
        self.limit = limit
        self.ttl = ttl
        self.span = span
        self.cell = cell or max(1.0, span / 60)

    def __repr__(self) -> str:
        return f"Counter({self.name} {self.limit})"


class Slots:
    """At most `limit` units held at one time (calls in flight). Held by a replica that died, they are freed in 15 s."""

    __slots__ = ("limit", "name")
    prepaid = False

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit

    def __repr__(self) -> str:
        return f"Slots({self.name} {self.limit})"


Limit: TypeAlias = Window | Bucket | Counter | Slots
Claim: TypeAlias = tuple[Limit, int]
Claims: TypeAlias = tuple[Claim, ...]


class Grant:
    """A reservation that was made. Give it back exactly once, by `settle` or `free`; a second time does nothing.

    index: which of the alternatives was taken. stamp: monotonic seconds of the booking.
    remote: the Redis server's time of the booking in ms, 0 when it was booked here alone.
    """

    __slots__ = ("claims", "index", "open", "remote", "stamp")

    def __init__(self, claims: Claims, index: int, stamp: float, remote: int = 0) -> None:
        self.claims = claims
        self.index = index
        self.stamp = stamp
        self.remote = remote
        self.open = True

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        state = "open" if self.open else "settled"
        return f"Grant({', '.join(f'{limit.name}+{amount}' for limit, amount in self.claims)}, {state})"


class Refusal:
    """No alternative fits now. False in a condition.

    limit: the limit that stands in the way of the alternative that would fit first. wait: seconds until then, as far
    as known; `NEVER` when the amount is above the limit itself. used, held: the limit's figures (`Counter`: spent, and
    reserved by calls in flight; others: `used` alone).
    """

    __slots__ = ("held", "limit", "used", "wait")

    def __init__(self, limit: Limit, wait: float, used: float = 0.0, held: float = 0.0) -> None:
        self.limit = limit
        self.wait = wait
        self.used = used
        self.held = held

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"Refusal({self.limit!r}, wait {self.wait:g}s)"


class Usage:
    """A limit's figures for an operator: used and held units, the limit itself, seconds until something returns."""

    __slots__ = ("held", "limit", "reset", "used")

    def __init__(self, used: float, held: float, limit: float, reset: float) -> None:
        self.used = used
        self.held = held
        self.limit = limit
        self.reset = reset

    @property
    def remaining(self) -> float:
        return max(0.0, self.limit - self.used - self.held)

    def __repr__(self) -> str:
        return f"Usage({self.used:g}+{self.held:g} of {self.limit:g}, reset {self.reset:g}s)"


class Share:
    """This process' part of every limit when it cannot ask the others: number `index` of `count` equal parts.

    The parts of an integer add up to it exactly: what does not divide goes to the first ones. `strict` parts never
    lend: a bucket's part refuses what is above it, even when the whole would have held it (`workers: N` in memory).
    """

    __slots__ = ("count", "index", "strict")

    def __init__(self, index: int = 0, count: int = 1, strict: bool = True) -> None:
        self.index = index
        self.count = max(1, count)
        self.strict = strict

    def of(self, limit: float) -> float:
        if self.count == 1:
            return limit
        whole = int(limit)
        return whole // self.count + (1 if self.index < whole % self.count else 0)
