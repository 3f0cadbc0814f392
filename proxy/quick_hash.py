"""128 bits of some bytes that nobody can foresee or forge, for as long as this process lives.

Python's own hash of bytes is SipHash, keyed by chance: 64 bits that cost a few tens of nanoseconds where a digest costs
a microsecond. Two of them, the second behind a salt of this process, make a name under which something may be
remembered in memory. (An interpreter that was built with a weaker hash makes a digest.)
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

__all__ = ["SIZE", "quick_hash"]

SIZE: Final = 16
"""Bytes."""
_SALT: Final = os.urandom(blake2b.SALT_SIZE)
_pair: Final = struct.Struct("=qq").pack


def _twice(data: bytes) -> bytes:
    return _pair(hash(data), hash(_SALT + data))


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=SIZE, salt=_SALT).digest()


quick_hash: Final[Callable[[bytes], bytes]] = (
    _twice if sys.hash_info.algorithm.startswith("siphash") and sys.hash_info.hash_bits == 64 else _digest
)
"""The name of ``data``: ``SIZE`` bytes."""
