"""The placeholder and all the ways in which a model or a server may write it back.

A placeholder is `<EMAIL_1>`, or `<EMAIL_1_x7q>` with a call's nonce. What comes back may have other case, brackets
written as `&lt;`, `\\u003c` or `\\<`, an escaped underscore, a line break at a joint, or a bracket missing. The same
grammar finds look-alikes in a request, so that a number which a text already uses is never given to a value.

    bracketed   open joint TYPE joint _ joint number [joint _ joint nonce] [joint close]     any case
    bare        TYPE _ number [_ nonce] [close]         upper case, no letter, digit or _ before it

A placeholder without its closing bracket must not be followed by a letter, a digit or `_`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

_OPENS = ("<", "&lt;", "&LT;", "&#60;", "\\u003c", "\\u003C", "\\<", "\\x3c")
_CLOSES = (">", "&gt;", "&GT;", "&#62;", "\\u003e", "\\u003E", "\\>", "\\x3e")
_JOINT = r"(?:[ \t\r\n]|\\[nrt]){0,2}"
_SCORE = r"(?:\\{0,2}_)"
_NUMBER = "[1-9][0-9]{0,5}"
_NONCE = "[a-z0-9]{3}"


def canonical(kind: str, number: int, nonce: str | None = None) -> str:
    """The placeholder as it is written into a request."""
    return f"<{kind}_{number}_{nonce}>" if nonce else f"<{kind}_{number}>"


class Grammar:
    """The compiled grammar for some types and a nonce. Instances are cached: use `grammar(...)`.

    `nonce`: None for placeholders without, "" to accept any nonce or none (look-alikes).
    """

    __slots__ = ("_has_nonce", "_types", "full", "longest", "marks", "partial", "suspect")

    def __init__(self, types: tuple[str, ...], nonce: str | None) -> None:
        self._types = {t.replace("_", "").upper(): t for t in types}
        self._has_nonce = nonce is not None
        self.marks = ("<", "&", "\\", *types)
        """A text that holds none of these holds no placeholder; the test costs 30 ns each."""
        kinds = sorted(types, key=len, reverse=True)
        tails = () if nonce is None else ((_SCORE, (re.escape(nonce) if nonce else _NONCE)),)
        optional = nonce == ""
        self.full = re.compile(_full(kinds, tails, optional), re.ASCII)
        self.partial = re.compile(_partial(kinds, nonce), re.ASCII)
        starts = "|".join(re.escape(k) for k in kinds)
        heads = "|".join(sorted({k[:i] for k in kinds for i in range(1, len(k))}, key=len, reverse=True))
        bare = f"(?<![A-Za-z0-9_])(?:{starts}|(?:{heads})\\Z)" if heads else f"(?<![A-Za-z0-9_])(?:{starts})"
        self.suspect = re.compile(rf"[<&\\]|{bare}" if kinds else r"(?!)", re.ASCII)
        joints = 5 + max((k.count("_") for k in kinds), default=0) * 2
        self.longest = max(map(len, kinds), default=0) * 3 + joints * 4 + 6 + 6 + 6 + 8
        """Upper bound, in characters, of what one placeholder can be written as: the most that is ever held back."""

    def key(self, match: re.Match[str]) -> tuple[str, int, str | None]:
        """The (type, number, nonce) that a match of `full` stands for."""
        kind = match["a"] or match["b"] or match["c"]
        number = match["n"] or match["m"] or match["o"]
        nonce = (match["x"] or match["y"] or match["z"]) if self._has_nonce else None
        return self._types[_NOT_LETTERS.sub("", kind).upper()], int(number), nonce.lower() if nonce else None


_NOT_LETTERS = re.compile(r"\\[nrt]|[^A-Za-z0-9]")


@functools.lru_cache(maxsize=256)
def _cached(types: tuple[str, ...], nonce: str | None) -> Grammar:
    return Grammar(types, nonce)


def grammar(types: Iterable[str], nonce: str | None = None) -> Grammar:
    """The grammar for these types; a nonce is particular to its call, so those are not kept."""
    names = tuple(sorted(types))
    return Grammar(names, nonce) if nonce else _cached(names, nonce)


def _kind(name: str, joint: str) -> str:
    return (joint + _SCORE + joint).join(re.escape(part) for part in name.split("_"))


def _full(kinds: list[str], tails: tuple[tuple[str, str], ...], optional: bool) -> str:
    # `\<` counts only with `\>`: a text may end in a backslash just where a placeholder is put behind it.
    opens = "|".join(re.escape(mark) for mark in _OPENS if mark != "\\<")
    closes = "|".join(map(re.escape, _CLOSES))
    quantifier = "?" if optional else ""

    def tail(group: str, joint: str) -> str:
        return "".join(f"(?:{joint}{s}{joint}(?P<{group}>{n})){quantifier}" for s, n in tails)

    def body(kind: str, number: str, nonce: str) -> str:
        named = "|".join(_kind(k, _JOINT) for k in kinds)
        return f"{_JOINT}(?P<{kind}>{named}){_JOINT}{_SCORE}{_JOINT}(?P<{number}>{_NUMBER}){tail(nonce, _JOINT)}"

    plain = "|".join(_kind(k, "") for k in kinds)
    loose = r"(?![A-Za-z0-9_])"
    return (
        f"(?i:(?:{opens}){body('a', 'n', 'x')}(?:{_JOINT}(?:{closes})|{loose}))"
        f"|(?i:\\\\<{body('c', 'o', 'z')}{_JOINT}\\\\>)"
        f"|(?<![A-Za-z0-9_])(?P<b>{plain}){_SCORE}(?P<m>{_NUMBER}){tail('y', '')}(?:{closes}|{loose})"
        if kinds
        else r"(?!)"
    )


def _partial(kinds: list[str], nonce: str | None) -> str:
    """A pattern for a text that ends inside a placeholder: all its proper beginnings, up to the end of the text.

    For a sequence of elements the beginnings are: a beginning of the first, or all of the first and a beginning of
    the rest. Each element is a pair (whole, beginnings).
    """
    if not kinds:
        return r"(?!)"
    score = (_SCORE, r"\\{0,2}")
    joint = (_JOINT, r"(?:[ \t\r\n]|\\[nrt]){0,1}\\?")
    number = (_NUMBER, r"(?:[1-9][0-9]{0,5})?")
    close = ("|".join(map(re.escape, _CLOSES)), _heads(_CLOSES))
    alternatives = []
    for kind in kinds:
        words = [(re.escape(part), _heads((part,))) for part in kind.split("_")]
        spaced, plain = [], []
        for i, word in enumerate(words):
            if i:
                spaced += [joint, score, joint]
                plain.append(score)
            spaced.append(word)
            plain.append(word)
        open_ = ("|".join(map(re.escape, _OPENS)), _heads(_OPENS))
        bracketed = [open_, joint, *spaced, joint, score, joint, number]
        bare = [*plain, score, number]
        if nonce is not None:
            mark = (re.escape(nonce), _heads((nonce,))) if nonce else (_NONCE, "[a-z0-9]{0,2}")
            bracketed += [joint, score, joint, mark]
            bare += [score, mark]
        alternatives.append(f"(?i:{_beginnings([*bracketed, joint, close])})")
        alternatives.append(f"(?<![A-Za-z0-9_]){_beginnings([*bare, close])}")
    return f"(?:{'|'.join(alternatives)})\\Z"


def _heads(marks: tuple[str, ...]) -> str:
    """All proper beginnings of some literals, the empty one too."""
    heads = sorted({mark[:i] for mark in marks for i in range(len(mark))}, key=len, reverse=True)
    return "(?:" + "|".join(re.escape(head) for head in heads) + ")"


def _beginnings(elements: list[tuple[str, str]]) -> str:
    pattern = ""
    for whole, beginning in reversed(elements):
        pattern = f"(?:(?:{whole}){pattern}|{beginning}\\Z)" if pattern else f"(?:{beginning}\\Z)"
    return pattern
