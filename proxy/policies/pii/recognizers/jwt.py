"""JWT: three dot-separated Base64url parts (five when encrypted) whose first decodes to a JOSE header."""

from __future__ import annotations

import base64
import binascii
import re

from proxy.policies.pii.found import CHECKSUM
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.scan import Scan

_WHOLE = re.compile(rb"[\w-]{8,4096}\.[\w-]{4,16384}(?:\.[\w-]{0,16384}){0,3}")


def header_decodes(part: bytes) -> bool:
    """True if a Base64url part decodes to a JSON object that names an algorithm or a token type."""
    try:
        raw = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        return False
    return raw[:1] == b"{" and (b'"alg"' in raw or b'"typ"' in raw or b'"enc"' in raw)


def _examine(scan: Scan, start: int, end: int) -> int:
    match = _WHOLE.match(scan.data, start)
    if match is None:
        return end
    # Each byte is matched once: the search goes on behind the whole token, so this stays linear without a cap.
    text = match[0]
    scan.work += 300 + (len(text) >> 3)
    if not header_decodes(text[: text.find(b".")][:1024]):
        return match.end()
    stop = start + len(text.rstrip(b".")) if text.count(b".") > 2 else match.end()
    scan.add(start, stop, "JWT", CHECKSUM)
    return match.end()


JWT = Recognizer("jwt", frozenset({"JWT"}), rb"\beyJ[A-Za-z0-9_-]{6}", b"e", _examine, pure=True)
