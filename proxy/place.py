"""How a place in a body is named in errors and logs: by its keys, as far as they are names.

A key may be a value: ``{"ann@acme.io": {...}}``. Errors are shown to operators, and kept longer than any body.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["place", "step"]

_NAME: Final = re.compile(r"[A-Za-z_-]{1,40}[0-9]{0,2}")
"""A name of a field. Digits within it may be a card or a key's."""


def step(key: str) -> str:
    """The key, or ``?`` where it does not look like a name."""
    return key if _NAME.fullmatch(key) is not None else "?"


def place(path: tuple[str | int, ...]) -> str:
    """The path as a caller reads it: ``messages[2].content``."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += f".{step(part)}" if out else step(part)
    return out
