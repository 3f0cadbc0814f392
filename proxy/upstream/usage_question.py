"""Whether the streams of one upstream are asked for their usage (``stream_options.include_usage``), and what it says.

Most providers answer the question, some refuse a call that holds it. With ``stream_usage: auto`` it is put until it has
been refused. A refusal need not name the field ("Bad Request", a page of HTML), so when a 400 or 422 answers a call to
which we added the question, the same call is tried without it: if that is answered, the question was the mistake.

A client's own mistake looks the same at first, and must not be sent twice for ever. Once a stream with the question was
accepted, only an error that names the field is about it. Until then a few calls are doubled in vain, and after those
one a minute, since an upstream may be sent nothing but mistakes before its first good call.
"""

from __future__ import annotations

from time import monotonic
from typing import Final, Literal

__all__ = ["UsageQuestion"]

_UNKNOWN_FIELD: Final = (400, 422)
_NAMES: Final = (b"stream_options", b"include_usage")
_TRIALS: Final = 5
_PAUSE: Final = 60.0


class UsageQuestion:
    """asks: whether the next stream is asked. accepted: one that was asked has been answered."""

    __slots__ = ("_auto", "_in_vain", "_next", "accepted", "asks")

    def __init__(self, mode: Literal["auto", "always", "never"]) -> None:
        self._auto = mode == "auto"
        self.asks = mode != "never"
        self.accepted = False
        self._in_vain = 0
        self._next = 0.0

    def may_be_refused(self, status: int, body: bytes) -> bool:
        """Whether this error may be about the question, so that the call is worth trying without it."""
        if not self._auto or status not in _UNKNOWN_FIELD:
            return False
        if not self.asks or self.is_named(body):
            return True
        return not self.accepted and (self._in_vain < _TRIALS or monotonic() >= self._next)

    def is_named(self, body: bytes) -> bool:
        """Whether an error's body says what it is about."""
        return any(name in body for name in _NAMES)

    def tried_without(self, *, helped: bool) -> None:
        """What came of the call without the question."""
        if helped:
            self.asks = False
        else:
            self._in_vain += 1
            self._next = monotonic() + _PAUSE
