"""How an entry lies in Redis: checked against damage, and encrypted when a master key is set.

The entry's first bytes (magic, flags, tags) stay readable for invalidation; the rest is sealed:

    head | kind 1 | checksum 4 | rest                        without a key (CRC-32: damage, not malice)
    head | kind 1 | key id 4 | nonce 12 | AES-256-GCM of     with one
                                          the rest

Head and the entry's key are part of the checksum, and authenticated: no entry can be put in another one's place, and
one whose tags are damaged, so that a clear by tag would pass it by, cannot be read.

Several master keys may be set, newest first: the newest seals, each opens what it sealed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from proxy.policies.cache.entry import EntryError, tags_end

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Sealer", "derive"]

_CHECKED: Final = b"\x02"
"""Zero was a checksum that left the head out."""
_ENCRYPTED: Final = b"\x01"


def derive(secret: str, purpose: bytes) -> bytes:
    """32 bytes for one purpose from a secret (keyed BLAKE2b as a key derivation function)."""
    return blake2b(purpose, key=blake2b(secret.encode(), digest_size=32).digest(), digest_size=32).digest()


class Sealer:
    """Seals with the first of ``secrets``; without any, entries are only checked."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._keys: dict[bytes, AESGCM] = {}
        self._first = b""
        if not secrets:
            return
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - 40 ms, only for who encrypts

        for secret in secrets:
            name = derive(secret, b"cache entry key id")[:4]
            self._keys.setdefault(name, AESGCM(derive(secret, b"cache entry key")))
            self._first = self._first or name

    @property
    def encrypts(self) -> bool:
        """Whether entries are encrypted."""
        return bool(self._keys)

    def seal(self, key: bytes, entry: bytes) -> bytes:
        """What is written to Redis under ``key``."""
        end = tags_end(entry)
        head, rest = entry[:end], entry[end:]
        if not self._keys:
            return b"".join((head, _CHECKED, _checksum(key, head, rest), rest))
        nonce = os.urandom(12)
        return b"".join(
            (head, _ENCRYPTED, self._first, nonce, self._keys[self._first].encrypt(nonce, rest, key + head))
        )

    def open(self, key: bytes, sealed: bytes) -> bytes:
        """The entry. Raises EntryError when it is damaged, forged, or sealed with a key that is not known."""
        end = tags_end(sealed)
        head, kind = sealed[:end], sealed[end : end + 1]
        if kind == _CHECKED and not self._keys:
            rest = sealed[end + 5 :]
            if _checksum(key, head, rest) != sealed[end + 1 : end + 5]:
                raise EntryError("a damaged entry (its checksum differs)")
            return head + rest
        if kind != _ENCRYPTED:
            # With a key set, an entry that is not encrypted may have been put there by anybody.
            raise EntryError("an entry that is not sealed as configured")
        cipher = self._keys.get(sealed[end + 1 : end + 5])
        if cipher is None:
            raise EntryError("an entry sealed with a key that is not known")
        try:
            return head + cipher.decrypt(sealed[end + 5 : end + 17], sealed[end + 17 :], key + head)
        except Exception as error:
            raise EntryError(f"an entry that cannot be decrypted ({type(error).__name__})") from None


def _checksum(key: bytes, head: bytes, rest: bytes) -> bytes:
    return zlib.crc32(rest, zlib.crc32(head, zlib.crc32(key))).to_bytes(4, "big")
