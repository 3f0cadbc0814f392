"""CRYPTO: Bitcoin (Base58Check, Bech32, Bech32m), Litecoin (Bech32), Tron and Ethereum addresses."""

from __future__ import annotations

import functools
import hashlib

from proxy.policies.pii.found import CHECKSUM, PREFIX
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.recognizers.keccak import keccak_256
from proxy.policies.pii.scan import Scan

_BASE58 = {c: i for i, c in enumerate(b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}
_NO_DIGIT = 99
_ALPHABET = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32 = bytes(_ALPHABET.find(c) if c in _ALPHABET else _NO_DIGIT for c in range(256))
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_STEPS = tuple(
    functools.reduce(lambda sum_, i: sum_ ^ (_GENERATOR[i] if top >> i & 1 else 0), range(5), 0) for top in range(32)
)
"""For the five bits that are shifted out: what the generators add."""


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
    for value in (*(c >> 5 for c in head), 0, *(c & 31 for c in head), *text[split + 1 :].translate(_BECH32)):
        if value == _NO_DIGIT:
            return False
        check = (check & 0x1FFFFFF) << 5 ^ value ^ _STEPS[check >> 25]
    return check in (1, 0x2BC830A3)


def _examine_base58(scan: Scan, start: int, end: int) -> int:
    scan.work += 500
    if base58check(scan.data[start:end]):
        scan.add(start, end, "CRYPTO", CHECKSUM)
    return end


def _examine_bech32(scan: Scan, start: int, end: int) -> int:
    scan.work += 20 * (end - start)
    if bech32(scan.data[start:end]):
        scan.add(start, end, "CRYPTO", CHECKSUM)
    return end


def eip_55(digits: bytes) -> bool:
    """True if the case of an address's 40 hexadecimal digits is that of its checksum (EIP-55)."""
    low = digits.lower()
    signs = keccak_256(low).hex()
    return all(c < 0x3A or (c < 0x60) == (sign > "7") for c, sign in zip(digits, signs, strict=False))


_EIP_55 = 30_000
"""What the checksum costs, in units of work."""


def _examine_hex(scan: Scan, start: int, end: int) -> int:
    scan.work += 100
    digits = scan.data[start + 2 : end]
    if len(set(digits.lower())) <= 4:
        return end  # the zero address and fillers name nobody
    rank = PREFIX
    if not (digits.islower() or digits.isupper()) and scan.affords(_EIP_55):
        if not eip_55(digits):
            return end
        rank = CHECKSUM
    scan.add(start, end, "CRYPTO", rank)
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
