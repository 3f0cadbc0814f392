"""CRYPTO: Bitcoin (Base58Check, Bech32, Bech32m), Litecoin (Bech32), Tron and Ethereum addresses."""

from __future__ import annotations

import hashlib

from proxy.policies.pii.found import CHECKSUM, PREFIX
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.scan import Scan

_BASE58 = {c: i for i, c in enumerate(b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}
_BECH32 = {c: i for i, c in enumerate(b"qpzry9x8gf2tvdw0s3jn54khce6mua7l")}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def base58check(text: bytes) -> bool:
    """True if the last four of 25 bytes are the double SHA-256 of the rest (Bitcoin's Base58Check)."""
    if not 26 <= len(text) <= 35:
        return False
    number = 0
    for c in text:
        number = number * 58 + _BASE58[c]
    if number.bit_length() > 200:
        return False
    raw = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]


def bech32(text: bytes) -> bool:
    """True for a valid Bech32 or Bech32m string (BIP 173 and BIP 350)."""
    text = text.lower()
    split = text.rfind(b"1")
    head = text[:split]
    check = 1
    for value in (
        *(c >> 5 for c in head),
        0,
        *(c & 31 for c in head),
        *(_BECH32.get(c, 99) for c in text[split + 1 :]),
    ):
        if value == 99:
            return False
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i in range(5):
            if top >> i & 1:
                check ^= _GENERATOR[i]
    return check in (1, 0x2BC830A3)


def _examine_base58(scan: Scan, start: int, end: int) -> int:
    scan.spend(4 * (end - start))
    if base58check(scan.data[start:end]):
        scan.add(start, end, "CRYPTO", CHECKSUM)
    return end


def _examine_bech32(scan: Scan, start: int, end: int) -> int:
    scan.spend(8 * (end - start))
    if bech32(scan.data[start:end]):
        scan.add(start, end, "CRYPTO", CHECKSUM)
    return end


def _examine_hex(scan: Scan, start: int, end: int) -> int:
    if len(set(scan.data[start + 2 : end].lower())) > 4:  # the zero address and fillers name nobody
        scan.add(start, end, "CRYPTO", PREFIX)
    return end


_TYPES = frozenset({"CRYPTO"})
BASE58 = Recognizer(
    "crypto_base58",
    _TYPES,
    rb"\b(?:[13]|T[9A-HJ-NP-Z])[1-9A-HJ-NP-Za-km-z]{24,33}\b",
    b"13T",
    _examine_base58,
    pure=True,
)
BECH32 = Recognizer(
    "crypto_bech32",
    _TYPES,
    rb"\b(?:(?:bc|tb|ltc)1[02-9ac-hj-np-z]{11,71}|(?:BC|TB|LTC)1[02-9AC-HJ-NP-Z]{11,71})\b",
    b"btlBTL",
    _examine_bech32,
    pure=True,
)
ETHEREUM = Recognizer("crypto_hex", _TYPES, rb"\b0x[0-9a-fA-F]{40}\b", b"0", _examine_hex, pure=True)
