"""USERNAME: a login name after its label."""

from __future__ import annotations

import re

from proxy.policies.pii.found import CONTEXT
from proxy.policies.pii.recognizers.base import Recognizer, both_cases
from proxy.policies.pii.scan import Scan

_VALUE = re.compile(rb"[A-Za-z0-9](?:[A-Za-z0-9]|[._-](?=[A-Za-z0-9])){2,31}(?![A-Za-z0-9_@(\[])")
_NOT = frozenset(
    b"is was the and for not none null true false string str text admin root user username users name field required"
    b" optional example test login value self part from account".split()
)


def _examine(scan: Scan, start: int, end: int) -> int:
    scan.work += 200
    match = _VALUE.match(scan.data, end, end + 48)
    if match is None or match[0].lower() in _NOT:
        return end
    text = match[0]
    # In prose (`the account for payment`) a plain word is no name; behind a label with a mark it is.
    if scan.data[end - 1 : end] == b" " and b":" not in scan.data[start:end] and b"=" not in scan.data[start:end]:
        if text.isalpha() and (b"name" not in scan.data[start:end].lower() or not text.islower()):
            return end
        if (
            text.istitle()
            or (b"-" in text and text.replace(b"-", b"").isalpha())
            or b"login" in scan.data[start:end].lower()
        ):
            return end
    scan.add(end, match.end(), "USERNAME", CONTEXT)
    return match.end()


_LABELS = (
    rb"user[ _-]?name|user[ _-]?id|userid|login(?:[ _-]?name)?|screen[ _-]?name|nick(?:name)?|benutzername"
    rb"|nom d'utilisateur|usuario|account for|issued to"
)
USERNAME = Recognizer(
    "username",
    frozenset({"USERNAME"}),
    rb"(?i:\b(?:" + _LABELS + rb")(?: is| was|[\"'])?[ \t]{0,2}(?:[:=]|=>|[ ])[ \t]{0,2}[\"'@]?)",
    both_cases("ulsnbai"),
    _examine,
    labels=_LABELS,
)
