"""The words under ``on:`` of retry and fallback, and which verdicts they match.

    a failure class    ``timeout``, ``server_error`` ... as in ``proxy.exchange.FailureClass``
    5xx, 503, 429      a status, or all statuses of a hundred
    circuit_open       no request was sent because a breaker, the key pool or a limit said no: the code of the veto
    connect, no_key    short words for ``unreachable`` and ``no_key_available``

Blanks and ``-`` stand for ``_``. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from proxy.exchange import FailureClass

if TYPE_CHECKING:
    from proxy.policy import Verdict

CLASSES: Final[frozenset[str]] = frozenset(get_args(FailureClass))
VETOES: Final = frozenset({"circuit_open", "no_key_available"})

_ALIASES: Final = {
    "connect": "unreachable",
    "connection": "unreachable",
    "connect_error": "unreachable",
    "no_key": "no_key_available",
    "rate_limit": "rate_limited",
    "stall": "stalled",
    "timeouts": "timeout",
    "truncation": "truncated",
}

# What a veto says in the words of a failure: whoever listed the one means the other too.
_VETO_CLASS: Final[dict[str, str]] = {
    "rate_limit_exceeded": "rate_limited",
    "insufficient_quota": "quota",
    "overloaded": "overloaded",
    "upstream_unreachable": "unreachable",
    "upstream_timeout": "timeout",
}

_STATUS: Final = re.compile(r"[45](?:[0-9]{2}|xx)")


class Causes:
    """A set of words, compiled."""

    __slots__ = ("_classes", "_statuses", "words")

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(words)
        self._classes = frozenset(word for word in self.words if not _STATUS.fullmatch(word))
        statuses: set[int] = set()
        for word in self.words:
            if _STATUS.fullmatch(word):
                first = int(word[0]) * 100
                statuses.update(range(first, first + 100) if word.endswith("xx") else (int(word),))
        self._statuses = frozenset(statuses)

    def __repr__(self) -> str:
        return f"<Causes {' '.join(self.words)}>"

    def match(self, verdict: Verdict) -> str | None:
        """The word that a failed or vetoed try matches, None when none does. A veto of the whole call matches none."""
        veto = verdict.veto
        if veto is not None:
            if veto.scope == "call":
                return None
            code = veto.error.code
            return code if code in self._classes else self._listed(_VETO_CLASS.get(code))
        if verdict.failure is None:
            return None
        if verdict.failure in self._classes:
            return verdict.failure
        return str(verdict.status) if verdict.status in self._statuses else None

    def _listed(self, word: str | None) -> str | None:
        return word if word in self._classes else None


def _normal(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise PydanticCustomError("cause", "must be a word such as timeout, or a status such as 503 or 5xx")
    word = value.strip().lower().replace("-", "_").replace(" ", "_")
    word = _ALIASES.get(word, word)
    if word in CLASSES or word in VETOES or _STATUS.fullmatch(word):
        return word
    allowed = sorted({*CLASSES, *VETOES})
    near = difflib.get_close_matches(word, allowed, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise PydanticCustomError(
        "cause",
        "must be one of {allowed}, or a status such as 503 or 5xx" + hint,
        {"allowed": ", ".join(allowed)},
    )


Cause = Annotated[
    str,
    BeforeValidator(_normal),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": sorted({*CLASSES, *VETOES, *_ALIASES})},
                {"type": "string", "pattern": "^[45]([0-9]{2}|xx)$", "examples": ["5xx"]},
                {"type": "integer", "minimum": 400, "maximum": 599},
            ]
        }
    ),
]
"""One word under ``on:``, in its normal form."""


def _one_or_many(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


CauseList = Annotated[tuple[Cause, ...], BeforeValidator(_one_or_many)]
"""What stands under ``on:``: one word or a list of words."""
