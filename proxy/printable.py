"""Text that others wrote, on its way to a terminal or into a log of lines.

A model's name, a path, a tag or a message may hold a line break, which would be a line of the log that nobody wrote, or
codes that a terminal obeys. They are shown as what they are.
"""

from __future__ import annotations

from typing import Final

__all__ = ["printable"]

_SHOWN: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    **{ord(sign): shown for sign, shown in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))},
    # Line and paragraph separators, and what turns the direction of a line around.
    **{
        code: f"\\u{code:04x}"
        for code in (0x2028, 0x2029, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    },
    **{code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)},
}


def printable(text: str) -> str:
    """The same text on one line, without control codes.

    >>> printable("a\\nb\\x1b[31m")
    'a\\\\nb\\\\x1b[31m'
    """
    return text if text.isprintable() else text.translate(_SHOWN)
