"""PRIVATE_KEY: a whole PEM or PGP block, from its header to its footer."""

from __future__ import annotations

import re

from proxy.policies.pii.found import PREFIX
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.scan import Scan

_FOOTER = re.compile(rb"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
# What a cut-off key may still hold: Base64, line breaks (also as `\n` in JSON) and PEM headers' few marks.
_BODY = re.compile(rb"(?:\n[A-Za-z-]{3,20}: [A-Za-z0-9,-]{1,80}\r?|\\[nr]|[A-Za-z0-9+/=\s])*")


def _examine(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    scan.work += 200
    # The next footer is looked for once and kept: many headers before one footer (or none) cost one search in all.
    if scan.pem_end == -2 or 0 <= scan.pem_end < end:
        footer = data.find(b"-----END ", end)
        scan.pem_end = footer
    if scan.pem_end >= 0:
        match = _FOOTER.match(data, scan.pem_end)
        if match is not None and data.find(b"-----BEGIN", end, scan.pem_end) < 0:
            scan.add(start, match.end(), "PRIVATE_KEY", PREFIX)
            return match.end()
    body = _BODY.match(data, end)
    stop = end + len(body[0].rstrip()) if body else end
    if stop - end >= 16:
        scan.add(start, stop, "PRIVATE_KEY", PREFIX)
    return stop


PRIVATE_KEY = Recognizer(
    "private_key",
    frozenset({"PRIVATE_KEY"}),
    rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----",
    b"-",
    _examine,
)
