"""Who is next: strictly by priority, in turn between owners of one priority, first come first served for one owner.

Pure; what waits is any object. A thousand entries of one owner and one of another: the other is second at most.
"""

from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

from proxy.exchange import Priority

T = TypeVar("T")
RANK: Final[dict[Priority, int]] = {"critical": 0, "high": 1, "normal": 2, "background": 3}


class FairQueue(Generic[T]):
    """add, next, remove and least_urgent cost the same however many wait (remove: as many as one owner has waiting)."""

    __slots__ = ("_classes", "_size")

    def __init__(self) -> None:
        self._classes: tuple[OrderedDict[str, deque[T]], ...] = tuple(OrderedDict() for _ in RANK)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {self.waiting(name)}" for name in RANK if self._classes[RANK[name]])
        return f"<FairQueue {counts or 'empty'}>"

    def waiting(self, priority: Priority) -> int:
        """How many wait with this priority."""
        return sum(len(entries) for entries in self._classes[RANK[priority]].values())

    def ahead(self, priority: Priority) -> int:
        """How many of this or a more urgent priority wait."""
        return sum(len(entries) for owners in self._classes[: RANK[priority] + 1] for entries in owners.values())

    def add(self, entry: T, owner: str, priority: Priority) -> None:
        """`entry` waits from now on."""
        self._classes[RANK[priority]].setdefault(owner, deque()).append(entry)
        self._size += 1

    def peek(self) -> T | None:
        """Whose turn it is; None when nobody waits."""
        for owners in self._classes:
            for entries in owners.values():
                return entries[0]
        return None

    def pop(self) -> T | None:
        """Whose turn it is, taken out; his owner goes to the end of the line."""
        for owners in self._classes:
            for owner, entries in owners.items():
                entry = entries.popleft()
                self._size -= 1
                if entries:
                    owners.move_to_end(owner)
                else:
                    del owners[owner]
                return entry
        return None

    def remove(self, entry: T, owner: str, priority: Priority) -> bool:
        """Takes out somebody who left; False when he was not waiting."""
        owners = self._classes[RANK[priority]]
        entries = owners.get(owner)
        if entries is None or entry not in entries:
            return False
        entries.remove(entry)
        self._size -= 1
        if not entries:
            del owners[owner]
        return True

    def drop_least_urgent(self, than: Priority) -> T | None:
        """Takes out the last come of the least urgent who wait, if he is less urgent than `than`."""
        for rank in range(len(RANK) - 1, RANK[than], -1):
            owners = self._classes[rank]
            if owners:
                owner = max(owners, key=lambda name: len(owners[name]))  # whoever has most waiting gives way
                entry = owners[owner].pop()
                self._size -= 1
                if not owners[owner]:
                    del owners[owner]
                return entry
        return None
