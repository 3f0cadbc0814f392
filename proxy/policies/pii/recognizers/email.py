"""EMAIL: a local part, `@` and a domain; the `@` is the candidate, the rest is read around it."""

from __future__ import annotations

import re

from proxy.policies.pii.found import CHECKSUM
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.scan import Scan

# RFC 5321 4.5.3.1: 64 octets of local part, 255 of domain. Bytes from 0x80 are letters of other scripts; the
# punctuation of CJK and general punctuation (E2 80, E3 80, EF BC) ends an address.
_LOCAL = bytes(set(range(0x80, 0x100)) | set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'~"))
_EDGE = b".'-%~"
_DOMAIN = re.compile(
    rb"(?:[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9\x80-\xff-]{0,61}[A-Za-z0-9\x80-\xff])?\.){1,8}"
    rb"(?:xn--[A-Za-z0-9-]{2,30}|[A-Za-z]{2,24}|[\xc3-\xf4][\x80-\xff]{1,40})(?![A-Za-z0-9_-]*@)"
)
_CANDIDATE = rb"@[A-Za-z0-9\x80-\xff][A-Za-z0-9\x80-\xff-]*\.[A-Za-z0-9\x80-\xff]"
_WIDE_PUNCTUATION = re.compile(rb"\xe2\x80.|\xe3\x80[\x80-\x82\x88-\x91]|\xef\xbc[\x80-\x8f\x9a-\xa0]|\xc2[\xa0-\xbf]")
_REPOSITORY_USERS = frozenset({b"git", b"svn", b"hg"})
_FILE_ENDINGS = frozenset({b"png", b"jpg", b"jpeg", b"gif", b"svg", b"webp", b"css", b"js", b"py", b"ts", b"json"})


def _examine(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    low = max(scan.floor, start - 64)
    window = data[low:start]
    scan.work += 60
    head = low + len(window.rstrip(_LOCAL))
    local = data[head:start]
    if not local.isascii():
        for wide in _WIDE_PUNCTUATION.finditer(local):
            head = start - len(local) + wide.end()
        local = data[head:start]
    local = local.lstrip(_EDGE)
    if not local or local[-1:] == b"." or b".." in local:
        return start + 1
    match = _DOMAIN.match(data, start + 1, start + 256)
    if match is None:
        return start + 1  # `admin@10.0.0.1`: an address of another kind
    stop = match.end()
    scan.work += 80
    domain = match[0]
    if not domain.isascii():
        mark = _WIDE_PUNCTUATION.search(domain)
        if mark is not None:
            stop = start + 1 + mark.start()
            domain = domain[: mark.start()]
            if b"." not in domain:
                return start + 1
    if local in _REPOSITORY_USERS and data[stop : stop + 1] == b":":
        return stop
    if domain[domain.rfind(b".") + 1 :].lower() in _FILE_ENDINGS:
        return stop
    scan.add(start - len(local), stop, "EMAIL", CHECKSUM)
    return stop


EMAIL = Recognizer("email", frozenset({"EMAIL"}), _CANDIDATE, b"@", _examine, pure=True)
