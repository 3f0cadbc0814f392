"""The border to `python-stdnum`: validators by module name, loaded when the first candidate asks."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from proxy.policies.pii.recognizers.labelled import Check
from proxy.policies.pii.scan import Scan

_MARKS = b" -./+"


@functools.cache
def _module(name: str) -> Any:
    return importlib.import_module(f"stdnum.{name}")


_EACH = 1_500
"""What a module costs, in units of work."""


def known(by_size: Mapping[int, tuple[str, ...]], prefixed: str = "") -> Check:
    """A check that says whether a module accepts the number.

    `by_size`: for a count of letters and digits, the modules whose numbers have that many. `prefixed`: the module to
    ask for a number that begins with a country's two letters.
    """

    def check(scan: Scan, text: bytes) -> bool:
        names = by_size.get(len(text.translate(None, _MARKS)), ())
        if prefixed and text[:2].isalpha():
            names = (*names, prefixed)
        if not names or not scan.affords(_EACH * len(names)):
            return False
        number = text.decode("utf-8", "replace")
        return any(_module(name).is_valid(number) for name in names)

    return check


def exists(name: str) -> bool:
    """True if `stdnum.<name>` exists and can validate; for custom entities."""
    try:
        return hasattr(_module(name), "is_valid")
    except ImportError:
        return False


def valid(name: str, text: str) -> bool:
    """`stdnum.<name>.is_valid(text)`."""
    return bool(_module(name).is_valid(text))
