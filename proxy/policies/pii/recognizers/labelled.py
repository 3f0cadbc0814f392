"""Values that have no shape of their own: a label says what they are (`MRN: 00195217`, `passport no. C88653520`).

The candidate is a label, a short gap of filler words and marks, and the first characters of a value with a digit.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from proxy.policies.pii.found import CHECKSUM, CONTEXT
from proxy.policies.pii.recognizers.base import Recognizer, both_cases
from proxy.policies.pii.scan import Scan

Check = Callable[[Scan, bytes], bool]
"""Whether a check digit agrees. The label counts in any case: this decides the rank."""

_GAP = (
    rb"(?:[ \t:=#\"'._()*|>-]|\\\"|n\xc2[\xb0\xba]|(?:is|no|nr|num|number|numbers|id|ids|code|card|was|on file|ref"
    rb"|value|nummer|num\xc3\xa9ro|n\xc3\xbamero|lautet|est|es)\b){1,9}"
)
_GLUED = rb"(?:no|nr|num|number|id)?"
"""What camel case puts right behind a label: `passportNo`."""
_HEAD = rb"[A-Z]{0,4}[ -]?[A-Z]{0,2}[0-9]"
_GAPPED = re.compile(rb"(?i:" + _GAP + rb")?")
VALUE = rb"[A-Za-z0-9](?:[A-Za-z0-9]|[-/.][A-Za-z0-9]){3,24}"
_DATE = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{1,2}[/.][0-9]{1,2}[/.][0-9]{2,4}")


def labelled(
    kind: str, labels: bytes, starts: str, value: bytes = VALUE, check: Check | None = None, digits: int = 4
) -> Recognizer:
    """A recognizer for `kind`.

    `labels`: alternatives in lower case, matched without regard to case as whole words. `starts`: their first letters.
    `value`: what follows the gap. `digits`: how many digits the value has at least.
    """
    whole = re.compile(rb"(?:" + value + rb")(?![A-Za-z0-9_@])")

    def examine(scan: Scan, start: int, end: int) -> int:
        data = scan.data
        if start and (data[start - 1] == 0x2D or 0x61 <= data[start - 1] | 0x20 <= 0x7A):
            return start + 2
        label = head.match(data, start, start + 64)
        if label is None:
            return end
        scan.work += 300
        at = label.end()
        # The value starts where the gap ends; `id` or `no` may be part of the label, so the gap is read again here.
        gap = _GAPPED.match(data, at, at + 40)
        if gap is None:
            return at
        at = gap.end()
        match = whole.match(data, at, at + 48)
        if match is None:
            return at
        text = match[0]
        if sum(48 <= c <= 57 for c in text) < digits or _DATE.fullmatch(text):
            return at
        proved = check is not None and check(scan, text)
        scan.add(at, match.end(), kind, CHECKSUM if proved else CONTEXT)
        return match.end() - 1  # its last digit may begin what names its owner: see `PERSON_BEHIND`

    head = re.compile(rb"(?i:_?(?:" + labels + rb")" + _GLUED + rb"(?![a-z]))")
    pattern = rb"(?i:(?:\b|_)(?:" + labels + rb")" + _GLUED + _GAP + _HEAD + rb")"
    return Recognizer(kind.lower(), frozenset({kind}), pattern, both_cases(starts) + b"_", examine, labels=labels)
