"""What is never reported: exact values, patterns, and the ranges that documentation reserves for examples."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from proxy.policies.pii.program import written

_NETWORKS: Final = tuple(
    ipaddress.ip_network(n)
    for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")  # RFC 5737, 3849, 9637
)
_DOMAINS: Final = re.compile(r"(?:.*[@.])?(?:example(?:\.(?:com|net|org|edu))?|test|invalid|localhost)", re.IGNORECASE)
_PHONES: Final = re.compile(r"1?[2-9][0-9]{2}55501[0-9]{2}")
_CARDS: Final = frozenset({
    "4111111111111111", "4242424242424242", "4012888888881881", "5555555555554444", "5105105105105100",
    "378282246310005",
    "371449635398431", "6011111111111117", "6011000990139424", "30569309025904", "3530111333300000",
})  # fmt: skip

DOCUMENTATION = "documentation"
"""The entry of an allow list that stands for all reserved example ranges."""


class Allow:
    """A compiled allow list: call it with a type and a value.

    Entries: a plain string is a value (compared without regard to case), `/.../` an RE2 pattern that must match the
    whole value, `documentation` the reserved ranges: RFC 5737 and 3849 addresses, RFC 2606 domains, 555-01xx numbers
    and the card networks' published test numbers. Raises ValueError for a pattern that does not compile.
    """

    __slots__ = ("_documentation", "_pattern", "_values")

    def __init__(self, entries: Iterable[str] = ()) -> None:
        values = set()
        patterns = []
        self._documentation = False
        for entry in entries:
            if entry == DOCUMENTATION:
                self._documentation = True
            elif len(entry) > 2 and entry[0] == entry[-1] == "/":
                try:
                    written(entry[1:-1])
                except ValueError as error:
                    raise ValueError(f"allow: the pattern {entry} does not compile: {error}") from None
                patterns.append(f"(?:{entry[1:-1]})")
            else:
                values.add(entry.casefold())
        self._values = frozenset(values)
        self._pattern = written("|".join(patterns)) if patterns else None

    def __bool__(self) -> bool:
        return bool(self._values or self._pattern is not None or self._documentation)

    def __call__(self, kind: str, value: str) -> bool:
        if value.casefold() in self._values:
            return True
        if self._pattern is not None and self._pattern.fullmatch(value) is not None:
            return True
        return self._documentation and is_documentation(kind, value)


def is_documentation(kind: str, value: str) -> bool:
    """True if the value lies in a range that is reserved for examples."""
    if kind == "IP_ADDRESS":
        address = ipaddress.ip_address(value.split("/", maxsplit=1)[0])
        return any(address in network for network in _NETWORKS)
    if kind == "EMAIL":
        return _DOMAINS.fullmatch(value.rpartition("@")[2]) is not None
    if kind in ("PHONE", "CREDIT_CARD"):
        digits = "".join(c for c in value if c.isdigit())
        return digits in _CARDS if kind == "CREDIT_CARD" else _PHONES.fullmatch(digits) is not None
    return False
