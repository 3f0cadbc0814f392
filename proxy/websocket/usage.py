"""What a session used: the provider says it at the end of each response, and the session's usage is the sum.

Realtime sessions say ``response.done``; the responses API over a websocket says ``response.completed`` (or
``incomplete``, ``failed``). The tokens of an input transcription are another model's and are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.dialects.counts import openai_usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.exchange import Attempt

__all__ = ["Tally"]

_ENDS: Final = frozenset({"response.done", "response.completed", "response.incomplete", "response.failed"})
# Most messages are pieces of audio and text: they are told apart without being parsed.
_HINT: Final = b'"usage"'


class Tally:
    """Sums up what the upstream's messages say, on the attempt: it is up to date whenever the session ends. said: is
    called after each of those that say something."""

    __slots__ = ("_attempt", "_said")

    def __init__(self, attempt: Attempt, said: Callable[[], None]) -> None:
        self._attempt = attempt
        self._said = said

    def read(self, message: bytes) -> None:
        """Look at one text message."""
        if _HINT not in message or b'"response.' not in message:
            return
        try:
            event: Any = orjson.loads(message)
        except orjson.JSONDecodeError:
            return
        if type(event) is not dict or event.get("type") not in _ENDS:
            return
        response = event.get("response")
        found = openai_usage(_usual(response.get("usage"))) if type(response) is dict else None
        if found is not None:
            before = self._attempt.usage
            self._attempt.usage = found if before is None else before + found
            self._said()


def _usual(counts: Any) -> Any:
    """Realtime sessions write ``input_token_details`` where the other APIs write ``input_tokens_details``."""
    if type(counts) is not dict:
        return None
    for side in ("input", "output"):
        details = counts.get(f"{side}_token_details")
        if type(details) is dict:
            counts.setdefault(f"{side}_tokens_details", details)
    return counts
