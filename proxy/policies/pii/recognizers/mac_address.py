"""MAC_ADDRESS: six or eight pairs of hexadecimal digits, or three Cisco groups of four."""

from __future__ import annotations

from proxy.policies.pii.found import PREFIX
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.scan import Scan

_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def _examine(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    scan.work += 120
    text = data[start:end]
    mark = text[4:5] if text[2:3] not in b":-" else text[2:3]
    near = data[end : end + 2]
    if near[:1] == mark and near[1:2] and near[1] in _WORD:
        return end  # more groups follow: a fingerprint or a longer identifier
    if start and data[start - 1 : start] == mark:
        return end
    digits = text.translate(None, b":-.").lower()
    # One repeated digit (broadcast, empty) and the run a-f of every manual name no card.
    if len(set(digits)) == 1 or digits == b"aabbccddeeff":
        return end
    scan.add(start, end, "MAC_ADDRESS", PREFIX)
    return end


MAC_ADDRESS = Recognizer(
    "mac_address",
    frozenset({"MAC_ADDRESS"}),
    rb"\b(?:[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}"
    rb"|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})\b",
    b"0123456789abcdefABCDEF",
    _examine,
    pure=True,
)
