"""IP_ADDRESS: IPv4 and IPv6, with a prefix length when one stands behind it."""

from __future__ import annotations

import ipaddress
import re

from proxy.policies.pii.found import CHECKSUM
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.scan import Scan
from proxy.policies.pii.words import Words

_VERSION = Words("version|ver|v|build|release|rev|firmware|kernel|driver|oid|section")
_MASK = re.compile(rb"255(?:\.(?:255|254|252|248|240|224|192|128|0)){3}")
_PREFIX_4 = re.compile(rb"/(?:3[0-2]|[12]?[0-9])(?![0-9./])")
_PREFIX_6 = re.compile(rb"/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9])(?![0-9./])")
_SIX = re.compile(rb"[0-9A-Fa-f:]{2,39}(?:(?<=:)[0-9]{1,3}(?:\.[0-9]{1,3}){3})?")
_MAPPED_TAIL = re.compile(rb"[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![0-9.])")
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def _examine_4(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    scan.work += 200
    follow = data[end : end + 2]
    if follow[:1] == b"." and follow[1:2].isdigit():
        # A longer dotted number (an OID, a version) is no address: step over all of it.
        while data[end : end + 1] == b"." or data[end : end + 1].isdigit():
            end += 1
        return end
    if start and data[start - 1] in b".-+_v":
        return end
    parts = data[start:end].split(b".")
    if any(int(p) > 255 or (len(p) > 1 and p[0] == 48) for p in parts):
        return end
    if parts[0] in (b"0", b"127") or (parts[0] == b"169" and parts[1] == b"254"):
        return end  # this host and this link: they name nobody
    if parts[0] == b"255" and _MASK.fullmatch(data, start, end) is not None:
        return end
    if _VERSION.any(scan.words(start)[-2:]):
        return end
    prefix = _PREFIX_4.match(data, end, end + 4)
    if prefix is not None:
        end = prefix.end()
    scan.add(start, end, "IP_ADDRESS", CHECKSUM)
    return end


def _examine_6(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    scan.work += 200
    if start and (data[start - 1] in _WORD or data[start - 1] == 0x3A):
        return end
    match = _SIX.match(data, start, start + 60)
    if match is None:
        return end
    stop = match.end()
    tail = _MAPPED_TAIL.match(data, stop, stop + 16)
    if tail is not None and data[start:stop].rfind(b":") >= 0:
        stop = tail.end()
    if stop < len(data) and data[stop] in _WORD:
        return max(end, stop)
    text = data[start:stop]
    if text[-1:] == b":" and text[-2:] != b"::":
        text = text[:-1]
    groups = [g for g in text.split(b":") if g]
    # `a::b` in code is a scope, not an address: ask for a digit, and for a group as long as real prefixes have.
    if not any(48 <= c <= 57 for c in text) or (len(groups) < 3 and max(map(len, groups), default=0) < 3):
        return max(end, stop)
    scan.work += 500
    try:
        address = ipaddress.IPv6Address(text.decode())
    except ValueError:
        return max(end, stop)
    stop = start + len(text)
    if address.is_loopback or address.is_unspecified or address.is_link_local:
        return max(end, stop)
    prefix = _PREFIX_6.match(data, stop, stop + 5)
    if prefix is not None:
        stop = prefix.end()
    scan.add(start, stop, "IP_ADDRESS", CHECKSUM)
    return max(end, stop)


_TYPES = frozenset({"IP_ADDRESS"})
IPV4 = Recognizer("ipv4", _TYPES, rb"\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b", b"0123456789", _examine_4, pure=True)
IPV6 = Recognizer(
    "ipv6",
    _TYPES,
    rb"\b(?:(?:[0-9A-Fa-f]{1,4}:){1,6}:|(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}\b)|::[0-9A-Fa-f]{1,4}\b",
    b"0123456789abcdefABCDEF:",
    _examine_6,
    pure=True,
)
