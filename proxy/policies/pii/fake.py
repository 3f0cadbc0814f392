"""Stand-ins: values of the same format that pass the same checks and belong to nobody.

They are drawn from ranges reserved for examples where such exist. Same key and value, same stand-in; there is no way
back, since a stand-in may occur in an answer by itself.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator

from proxy.policies.pii.recognizers.iban import mod_97
from proxy.policies.pii.recognizers.luhn import luhn

_NAMES = ("Alex", "Sam", "Robin", "Kim", "Jamie", "Chris", "Pat", "Lee", "Jo", "Dana", "Max", "Toni")
_SURNAMES = ("Miller", "Jones", "Brown", "Taylor", "Fischer", "Martin", "Novak", "Rossi", "Silva", "Larsen", "Berg")


def _stream(kind: str, value: str, key: bytes) -> Iterator[int]:
    """An endless run of bytes fixed by key, type and value."""
    seed = hmac.new(key, kind.encode() + b"\0" + value.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
    count = 0
    while True:
        yield from hashlib.sha256(seed + count.to_bytes(4, "big")).digest()
        count += 1


def _shape(value: str, noise: Iterator[int], keep: int = 0) -> str:
    """Each letter and digit behind the first `keep` characters by another of its class."""
    out = []
    for i, c in enumerate(value):
        n = next(noise)
        if i < keep:
            out.append(c)
        elif c.isdigit():
            out.append(str(n % 10))
        elif c.isascii() and c.isupper():
            out.append(chr(65 + n % 26))
        elif c.isalpha():
            out.append(chr(97 + n % 26))
        else:
            out.append(c)
    return "".join(out)


def _digits(value: str) -> str:
    return "".join(c for c in value if c.isdigit())


def _fill(value: str, digits: str) -> str:
    rest = iter(digits)
    return "".join(next(rest) if c.isdigit() else c for c in value)


def _email(value: str, noise: Iterator[int]) -> str:
    return f"user{next(noise) * 256 + next(noise)}@example.com"


def _phone(value: str, noise: Iterator[int]) -> str:
    digits = _digits(value)
    if len(digits) in (10, 11) and digits[-10] in "23456789":
        # 555-0100 to 555-0199 are reserved for fiction in the North American plan.
        return _fill(value, digits[:-7] + f"55501{next(noise) % 100:02d}")
    return _shape(value, noise, keep=min(4, len(value) // 3))


def _card(value: str, noise: Iterator[int]) -> str:
    digits = _digits(value)
    body = digits[:6] + "".join(str(next(noise) % 10) for _ in digits[7:])
    check = next(d for d in "0123456789" if luhn((body + d).encode()))
    return _fill(value, body + check)


def _iban(value: str, noise: Iterator[int]) -> str:
    compact = "".join(value.split()).replace("-", "").upper()
    body = _shape(compact[4:], noise)
    check = 98 - mod_97((compact[:2] + "00" + body).encode())
    rest = iter(f"{compact[:2]}{check:02d}{body}")
    return "".join(next(rest) if c.isalnum() else c for c in value)


def _ssn(value: str, noise: Iterator[int]) -> str:
    return _fill(value, f"{900 + next(noise) % 100}{10 + next(noise) % 60}{1000 + next(noise) * 31 % 9000}")


def _ip(value: str, noise: Iterator[int]) -> str:
    return f"2001:db8::{next(noise):x}" if ":" in value else f"203.0.113.{1 + next(noise) % 254}"


def _mac(value: str, noise: Iterator[int]) -> str:
    return "".join(format(next(noise) % 16, "x") if c.isalnum() else c for c in value)


def _person(value: str, noise: Iterator[int]) -> str:
    return f"{_NAMES[next(noise) % len(_NAMES)]} {_SURNAMES[next(noise) % len(_SURNAMES)]}"


def _date(value: str, noise: Iterator[int]) -> str:
    digits = _digits(value)
    if len(digits) == 8:
        year, month, day = 1950 + next(noise) % 55, 1 + next(noise) % 12, 1 + next(noise) % 12
        if value[:4].isdigit():
            return _fill(value, f"{year}{month:02d}{day:02d}")
        return _fill(value, f"{month:02d}{day:02d}{year}")
    return f"{1950 + next(noise) % 55}-{1 + next(noise) % 12:02d}-{1 + next(noise) % 28:02d}"


_MAKERS: dict[str, Callable[[str, Iterator[int]], str]] = {
    "EMAIL": _email,
    "PHONE": _phone,
    "CREDIT_CARD": _card,
    "IBAN": _iban,
    "US_SSN": _ssn,
    "IP_ADDRESS": _ip,
    "MAC_ADDRESS": _mac,
    "PERSON": _person,
    "DATE_OF_BIRTH": _date,
    "DATE": _date,
}


def fake(kind: str, value: str, key: bytes) -> str:
    """A stand-in for `value` of type `kind`."""
    noise = _stream(kind, value, key)
    maker = _MAKERS.get(kind)
    made = maker(value, noise) if maker is not None else _shape(value, noise)
    return made if made != value else _shape(value, noise)
