"""Keys that stand equal as far as the configuration goes, ordered by how they fare: whose turn is it?

Each key has a row: its figures for the strategies in their order, then when it was last used (so that equal ones take
turns), then its place. The smallest row is the best key. Whatever changes a key (it was taken, its call has ended)
gives it a new row, and a heap keeps the smallest at hand, so that a choice among fifty keys costs hardly more than
among two. Rows that were replaced stay in the heap until they come up. Peers that nobody asks are told no more, until
somebody does.

`sticky` prefers for every id another order (rendezvous hashing): the id is cut to a slot, and the order of each slot is
worked out once. When a key is out, its slots go to the next in their order; all others stay where they are.
"""

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush, heapreplace
from operator import attrgetter
from typing import Any, Final, TypeAlias
from zlib import crc32

from proxy.state import NEVER
from proxy.upstream.keys.key import Key, Life

SLOTS: Final = 8192
"""Groups of conversations that go to one key together."""
_MASK: Final = (1 << 64) - 1
_FIGURES: Final = {
    "round_robin": ("last_used",),
    "least_loaded": ("share", "in_flight"),
    "fastest": ("pace",),
}
Row: TypeAlias = tuple[Any, ...]


class Peers:
    """One key or more. strategies: the dynamic ones. standing: for each static word among them, the keys' places.

    only: the key, where it is one. weighs: a key has to `pay` when it was chosen here.
    """

    __slots__ = (
        "_asked", "_asleep", "_back_at", "_heap", "_most", "_orders", "_passes", "_prefix", "_reached", "_row",
        "_rows", "_strides", "keys", "only", "weighs",
    )  # fmt: skip

    def __init__(
        self, keys: Sequence[Key], strategies: Sequence[str] = (), standing: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.keys = tuple(keys)
        self.only = self.keys[0] if len(self.keys) == 1 else None
        self.weighs = "weighted" in strategies
        self._strides = [1 / key.weight for key in self.keys]
        self._passes = [stride / 2 for stride in self._strides]
        self._reached = 0.0
        self._prefix: int | None = None
        columns: list[str | Sequence[float]] = []
        for word in strategies:
            if word == "sticky":
                self._prefix = len(columns)
            elif word == "weighted":
                columns.append(self._passes)
            elif standing is not None and word in standing:
                columns.append(standing[word])
            else:
                columns += _FIGURES[word]
        if columns[-1:] == ["last_used"]:
            columns.pop()  # it ends every row anyhow
        self._row = _row_of(columns)
        self._orders: dict[int, tuple[int, ...]] = {}
        self._rows: list[Row] = []
        self._heap: list[Row] = []
        self._asleep = True
        self._asked = True
        self._most = 4 * len(self.keys) + 64
        self._back_at = NEVER

    def __repr__(self) -> str:
        return f"<Peers {', '.join(key.id for key in self.keys)}>"

    # --- asking --------------------------------------------------------------------------------

    def best(self, sticky: str | None, now: float) -> Key:
        """Whose turn it is."""
        prefix = self._prefix if sticky is not None else None
        if prefix == 0:
            return self.keys[self._order(sticky)[0]]
        if self._asleep or now >= self._back_at:
            self.wake()
        self._asked = True
        heap, rows = self._heap, self._rows
        row = heap[0]
        while rows[row[-1]] is not row:
            heappop(heap)
            row = heap[0]
        if prefix is None:
            return self.keys[row[-1]]
        least = row[:prefix]
        for place in self._order(sticky):
            if rows[place][:prefix] == least:
                break
        return self.keys[place]

    def ordered(self, sticky: str | None, now: float) -> Sequence[Key]:
        """All of them, the best first."""
        if self.only is not None:
            return self.keys
        if self._asleep or now >= self._back_at:
            self.wake()
        self._asked = True
        rows = sorted(self._rows)
        prefix = self._prefix
        if sticky is not None and prefix is not None:
            order = self._order(sticky)
            rows.sort(key=lambda row: (row[:prefix], order.index(row[-1])))
        return [self.keys[row[-1]] for row in rows]

    def _order(self, sticky: str | None) -> tuple[int, ...]:
        """The places in the order in which an id prefers them."""
        assert sticky is not None
        slot = crc32(sticky.encode("utf-8", "surrogatepass")) % SLOTS
        order = self._orders.get(slot)
        if order is None:
            liking = [stickiness(slot, key) for key in self.keys]
            order = self._orders[slot] = tuple(sorted(range(len(liking)), key=liking.__getitem__))
        return order

    # --- being told ----------------------------------------------------------------------------

    def wake(self) -> None:
        """Looks at all keys anew, and is told of their changes from now on."""
        if self._asleep:
            self._asleep = False
            for place, key in enumerate(self.keys):
                key.seats = (*key.seats, (self, place))
        self._back_at = NEVER
        self._rows = [self._row(place, key.life) for place, key in enumerate(self.keys)]
        self._heap = sorted(self._rows)

    def rest(self, key: Key, until: float) -> None:
        """The key cannot be used before `until`: it comes last until then."""
        if self.only is not None or self._asleep:
            return
        self._back_at = min(self._back_at, until)
        place = self.keys.index(key)
        self._rows[place] = (NEVER, place)
        self._heap = sorted(self._rows)

    def pay(self, place: int) -> None:
        """The key was chosen here. `weighted`: it moves on by its stride, from where the others stand by now."""
        self._reached = max(self._reached, self._passes[place])
        self._passes[place] = self._reached + self._strides[place]

    def changed(self, place: int, life: Life) -> None:
        """Something about the key is different."""
        rows, heap = self._rows, self._heap
        old = rows[place]
        if old[0] == NEVER:
            return  # it rests
        rows[place] = row = self._row(place, life)
        if heap[0] is old:
            heapreplace(heap, row)
        elif len(heap) < self._most:
            heappush(heap, row)
        elif self._asked:
            self._asked = False
            self._heap = sorted(rows)
        else:
            self._sleep()  # nobody has asked for long

    def _sleep(self) -> None:
        self._asleep = True
        for place, key in enumerate(self.keys):
            key.seats = tuple([seat for seat in key.seats if seat != (self, place)])


def _row_of(columns: Sequence[str | Sequence[float]]) -> Callable[[int, Life], Row]:
    """What makes a key's row: figures of its life by name, and figures of its place. The usual ones without a loop."""
    if not columns:
        return lambda place, life: (life.last_used, place)
    names = [column for column in columns if isinstance(column, str)]
    if len(names) == len(columns):
        read = attrgetter(*names, "last_used")
        return lambda place, life: (*read(life), place)
    if len(columns) == 1:
        [figures] = columns
        return lambda place, life: (figures[place], life.last_used, place)

    def row(place: int, life: Life) -> Row:
        made = [getattr(life, column) if isinstance(column, str) else column[place] for column in columns]
        return (*made, life.last_used, place)

    return row


def stickiness(sticky: int, key: Key) -> int:
    """Rendezvous hashing: the key with the smallest number serves this id; when it is out, the next smallest does.

    The mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014) over the two hashes.
    """
    mixed = ((sticky ^ key.seed) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)
