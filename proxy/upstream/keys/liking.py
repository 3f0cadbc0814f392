"""`sticky`: which key a conversation likes best, and which it takes when that one is out.

Every id prefers another order of the keys (rendezvous hashing). The id is cut to a slot, and the order of each slot is
worked out once. When a key is out, its slots go to the next in their order; all others stay where they are.
"""

from collections.abc import Sequence
from typing import Final
from zlib import crc32

from proxy.upstream.keys.key import Key

SLOTS: Final = 8192
"""Groups of conversations that go to one key together."""
_MASK: Final = (1 << 64) - 1


class Liking:
    """The order in which ids prefer some keys, by their places."""

    __slots__ = ("_keys", "_orders")

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = keys
        self._orders: dict[int, tuple[int, ...]] = {}

    def order(self, sticky: str) -> tuple[int, ...]:
        """The places, the one that the id likes best first."""
        slot = crc32(sticky.encode("utf-8", "surrogatepass")) % SLOTS
        return self._orders.get(slot) or self._work_out(slot)

    def _work_out(self, slot: int) -> tuple[int, ...]:
        liking = [stickiness(slot, key) for key in self._keys]
        order = self._orders[slot] = tuple(sorted(range(len(liking)), key=liking.__getitem__))
        return order


def stickiness(sticky: int, key: Key) -> int:
    """Rendezvous hashing: the key with the smallest number serves this id; when it is out, the next smallest does.

    The mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014) over the two hashes.
    """
    mixed = ((sticky ^ key.seed) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)
