"""JSON of answers, read and written without loss.

orjson is fast and strict. Providers are not: servers written in Python send NaN among log probabilities, a stream may
end within a surrogate pair, and applications have integers beyond 64 bits, which orjson turns into floats in silence
when it reads them and refuses to write. Here what orjson can say is left to it, and the rest to Python's own ``json``.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

__all__ = ["copied", "read", "rounds", "slowly", "written"]

_DIGITS: Final = bytes(48 if 48 <= byte < 58 else 32 for byte in range(256))
_LONG: Final = b"0" * 19
_INTEGER: Final = re.compile(rb"(?<![.\d])\d{19}")
"""What follows a point is the fraction of a float, which is read the same by both."""


def rounds(data: bytes) -> bool:
    """Whether orjson may turn an integer in ``data`` into a float. Text without long runs of digits costs two passes
    at C speed."""
    return _LONG in data.translate(_DIGITS) and _INTEGER.search(data) is not None


def read(data: bytes) -> Any:
    """The tree that ``data`` says, with each integer as it stands there. Raises ValueError."""
    if rounds(data):
        return slowly(data)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return slowly(data)


def slowly(data: bytes) -> Any:
    """The same for what orjson refuses or rounds. Raises ValueError."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None


def written(tree: Any) -> bytes:
    """A tree as JSON. Raises ValueError."""
    try:
        return orjson.dumps(tree)
    except TypeError:  # half a surrogate pair, an integer beyond 64 bits
        pass
    try:
        return json.dumps(tree, separators=(",", ":")).encode()
    except (RecursionError, TypeError) as error:
        raise ValueError(f"the tree is no JSON or nested too deep ({type(error).__name__})") from None


def copied(tree: Any) -> Any:
    """A tree that says the same and shares nothing with this one; two halves of a surrogate pair that have come
    together are one character in it. Raises ValueError."""
    return read(written(tree))
