"""PASSWORD in a URL: `scheme://user:password@host`."""

from __future__ import annotations

from proxy.policies.pii.found import CHECKSUM
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.scan import Scan

_NO_SECRETS = frozenset({b"pass", b"password", b"passwd", b"pwd", b"secret", b"token"})
"""What documentation writes in the place of a password."""


def _examine(scan: Scan, start: int, end: int) -> int:
    scan.work += 150 + (end - start >> 3)
    text = scan.data[start:end]
    colon = text.find(b":", 3)
    secret = text[colon + 1 : -1]
    if len(secret) > 256:
        return end - 1
    # Templates and masks (`:${PASSWORD}@`, `:****@`, `:<password>@`) hold nothing.
    if (secret[:1] in (b"$", b"<", b"{", b"[") and secret[-1:] in (b"}", b">", b"]")) or not secret.strip(b"*xX."):
        return end - 1
    if secret.lower() in _NO_SECRETS:
        return end - 1
    scan.add(start + colon + 1, end - 1, "PASSWORD", CHECKSUM)
    return end


URL_CREDENTIALS = Recognizer(
    "url_credentials",
    frozenset({"PASSWORD"}),
    rb"://[^\s/@:\"'<>?#]*:[^\s/@\"'<>]+@",
    b":",
    _examine,
)
