"""The border to `python-stdnum`: validators by module name, loaded when the first candidate asks."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from proxy.policies.pii.recognizers.labelled import Check


@functools.cache
def _module(name: str) -> Any:
    return importlib.import_module(f"stdnum.{name}")


def known(names: tuple[str, ...]) -> Check:
    """A check that says True if any of the modules accepts the number, else None: labels outrank unknown formats."""

    def check(text: bytes) -> bool | None:
        number = text.decode("utf-8", "replace")
        return True if any(_module(name).is_valid(number) for name in names) else None

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
