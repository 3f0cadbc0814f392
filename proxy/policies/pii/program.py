"""RE2 programs over bytes, as everything here uses them: no captures, so that a DFA alone decides, in linear time."""

from __future__ import annotations

from typing import Any, Final

import re2
from re2 import _re2

UNANCHORED: Final = _re2.RE2.Anchor.UNANCHORED
_MEMORY: Final = 8 << 20


def written(pattern: str) -> Any:
    """A pattern of the configuration, compiled. ValueError says what is wrong with it; RE2 itself writes nothing."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        raise ValueError(said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)) from None


def program(pattern: bytes, memory: int = _MEMORY) -> _re2.RE2:
    """The compiled pattern; UTF-8 sequences are written out in it where they matter. ValueError if it is none.

    `memory`: bound of the DFA's state cache, in bytes. It fills as new kinds of text come; a full one is emptied and
    refilled.
    """
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    options.max_mem = memory
    options.log_errors = False
    made = _re2.RE2(pattern, options)
    if not made.ok():
        raise ValueError(f"the combined pattern does not compile: {made.error()}")
    return made
