"""Keys that stand equal as far as the configuration goes, ordered by how they fare: whose turn is it?

Each key has a seat, and a row of figures there: those of the strategies in their order, then when it was last used (so
that equal ones take turns), then its place. The smallest row is the best key, and the rows are kept sorted, so that a
choice among fifty keys costs hardly more than among two: the usual new row, of the key used last, goes to the end.

Whatever changes a key (it was taken, its call has ended) only puts its seats among the stale ones; the row is made anew
when somebody asks, once for all that has happened meanwhile. Rows that were replaced stay until they come to the front.
Peers that nobody asks are told no more, until somebody does.
"""

from bisect import insort
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, TypeAlias

from proxy.state import NEVER
from proxy.upstream.keys.key import Key
from proxy.upstream.keys.liking import Liking

_FIGURES: Final = {
    "task": ("task",),
    "priority": ("priority",),
    "cheapest": ("cheapest",),
    "round_robin": ("life.last_used",),
    "weighted": ("passed",),
    "least_loaded": ("life.share", "life.in_flight"),
    "fastest": ("life.pace",),
}
"""What a strategy compares, as attributes of a seat."""
_ASLEEP: Final = -NEVER
Row: TypeAlias = tuple[Any, ...]


class Seat:
    """One key among its peers. row: its figures when last looked at. stale: where it is put when they have changed.

    task, priority, cheapest: its place by these strategies. passed, stride: of `weighted`.
    """

    __slots__ = (
        "cheapest", "key", "life", "passed", "peers", "place", "priority", "row", "stale", "stride", "task", "weighs",
    )  # fmt: skip

    def __init__(self, peers: "Peers", place: int, key: Key, standing: Mapping[str, Sequence[int]]) -> None:
        self.peers = peers
        self.place = place
        self.key = key
        self.life = key.life
        self.weighs = peers.weighs
        self.stale = peers.stale
        self.row: Row = ()
        self.stride = 1 / key.weight
        self.passed = self.stride / 2
        self.task = self.priority = self.cheapest = 0
        for word, places in standing.items():
            setattr(self, word, places[place])


class Peers:
    """One key or more. strategies: the dynamic ones. standing: for each static word among them, the keys' places.

    only: the key, where it is one. weighs: a key has to `pay` when it was chosen here. asked: since it was last `idle`.
    """

    __slots__ = (
        "_back_at", "_liking", "_most", "_prefix", "_reached", "_row_of", "_rows", "_seats", "asked", "keys", "only",
        "stale", "weighs",
    )  # fmt: skip

    def __init__(
        self, keys: Sequence[Key], strategies: Sequence[str] = (), standing: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.keys = tuple(keys)
        self.only = self.keys[0] if len(self.keys) == 1 else None
        self.weighs = "weighted" in strategies
        self.stale: set[Seat] = set()
        self._seats = tuple([Seat(self, place, key, standing or {}) for place, key in enumerate(self.keys)])
        figures = [figure for word in strategies if word != "sticky" for figure in _FIGURES[word]]
        if figures[-1:] != ["life.last_used"]:
            figures.append("life.last_used")
        self._row_of = attrgetter(*figures, "place")
        self._prefix: int | None = None
        """How many figures come before `sticky`, if that is among the strategies."""
        if "sticky" in strategies:
            self._prefix = sum(len(_FIGURES[word]) for word in strategies[: strategies.index("sticky")])
        self._liking = Liking(self.keys)
        self._reached = 0.0
        self._rows: list[Row] = []
        self._most = 4 * len(self.keys) + 64
        self._back_at = _ASLEEP
        self.asked = False

    def __repr__(self) -> str:
        return f"<Peers {', '.join(key.id for key in self.keys)}>"

    @property
    def awake(self) -> bool:
        """Whether the keys' changes are told here."""
        return self._back_at != _ASLEEP

    # --- asking --------------------------------------------------------------------------------

    def best(self, sticky: str | None, now: float) -> Key:
        """Whose turn it is."""
        prefix = self._prefix if sticky is not None else None
        if prefix == 0:
            assert sticky is not None
            return self.keys[self._liking.order(sticky)[0]]
        if now >= self._back_at:
            self.wake()
        self.asked = True
        rows, seats, stale = self._rows, self._seats, self.stale
        seat: Seat
        if stale:
            row_of = self._row_of
            while stale:
                seat = stale.pop()
                old = seat.row
                if old[0] == NEVER:
                    continue  # it rests
                seat.row = row = row_of(seat)
                if rows[0] is old:
                    del rows[0]
                if not rows or row > rows[-1]:
                    rows.append(row)
                else:
                    insort(rows, row)
            if len(rows) > self._most:
                rows = self._sort()
        row = rows[0]
        seat = seats[row[-1]]
        while seat.row is not row:
            del rows[0]
            row = rows[0]
            seat = seats[row[-1]]
        if prefix is None:
            return seat.key
        least = row[:prefix]
        if rows[1][:prefix] != least:
            return seat.key
        assert sticky is not None
        for place in self._liking.order(sticky):
            seat = seats[place]
            if seat.row[:prefix] == least:
                break
        return seat.key

    def ordered(self, sticky: str | None, now: float) -> Sequence[Key]:
        """All of them, the best first."""
        if self.only is not None:
            return self.keys
        self.best(None, now)  # brings the rows up to date
        rows = sorted([seat.row for seat in self._seats])
        prefix = self._prefix
        if sticky is not None and prefix is not None:
            order = self._liking.order(sticky)
            rows.sort(key=lambda row: (row[:prefix], order.index(row[-1])))
        return [self.keys[row[-1]] for row in rows]

    # --- being told ----------------------------------------------------------------------------

    def _sort(self) -> list[Row]:
        self._rows = sorted([seat.row for seat in self._seats])
        return self._rows

    def wake(self) -> None:
        """Looks at all keys anew, and is told of their changes from now on."""
        if self._back_at == _ASLEEP:
            for seat in self._seats:
                seat.key.seats = (*seat.key.seats, seat)
        self._back_at = NEVER
        self.stale.clear()
        for seat in self._seats:
            seat.row = self._row_of(seat)
        self._sort()

    def idle(self) -> None:
        """Looks at all keys anew when somebody has asked since the last time; sleeps otherwise."""
        if self._back_at == _ASLEEP:
            return
        if self.asked:
            self.asked = False
            self.wake()
            return
        self._back_at = _ASLEEP
        for seat in self._seats:
            seat.key.seats = tuple([other for other in seat.key.seats if other is not seat])

    def rest(self, key: Key, until: float) -> None:
        """The key cannot be used before `until`: it comes last until then."""
        if self.only is not None or self._back_at == _ASLEEP:
            return
        self._back_at = min(self._back_at, until)
        seat = self._seats[self.keys.index(key)]
        seat.row = (NEVER, seat.place)
        self._sort()

    def pay(self, seat: Seat) -> None:
        """The key was chosen here. `weighted`: it moves on by its stride, from where the others stand by now."""
        if seat.passed > self._reached:  # noqa: PLR1730 - a call of `max` is on the way of every call
            self._reached = seat.passed
        seat.passed = self._reached + seat.stride
