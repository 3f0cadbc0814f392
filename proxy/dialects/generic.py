"""Any other JSON API: every string leaf is a text, but ids, URLs, models and enums.

Channel: the path of a leaf within its event, led by the event's ``type`` or name, so that a field that grows from
event to event is one text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.accounting.usage import Usage
from proxy.dialects.base import NOTHING, Bound, Channel, Json, Piece, Reading, Slot
from proxy.dialects.counts import any_usage, media_usage
from proxy.dialects.family import Family, as_dict, text_of
from proxy.dialects.leaves import walk
from proxy.dialects.prompts import prompt_texts
from proxy.stream.sse import Event

__all__ = ["Generic", "generic", "kept"]


class Generic(Family):
    """JSON without a dialect of its own: moderations, images, rerank, endpoints that do not exist yet."""

    name = "generic"

    def _field_texts(self, body: dict[str, Any], key: str) -> Iterator[Slot]:
        if key in ("input", "prompt", "query", "text"):
            yield from prompt_texts(body, key)
        else:
            yield from walk(body, key, "input", (key,))

    def bound(self, body: Json) -> Bound:
        """Each choice may be a picture."""
        bound = super().bound(body)
        bound.pictures = bound.choices
        return bound

    def usage(self, body: Json) -> Usage | None:
        return media_usage(as_dict(body))

    def read(self, event: Event) -> Reading:
        reading: Reading | None = event.reading
        if reading is None:
            event.reading = reading = self._read(event)
        return reading

    def _read(self, event: Event) -> Reading:
        body = event.json
        if type(body) is not dict:
            return Reading(closes=None, final=True) if event.done else NOTHING
        family = text_of(body.get("type")) or event.name or ""
        pieces = [
            Piece(slot.holder, slot.key, slot.kind, "assistant", slot.path, (family, *slot.path))
            for slot in walk([body], 0, "assistant", ())
        ]
        error = bool(body.get("error")) or family == "error"
        return Reading(
            pieces,
            None if error else (),
            bool(pieces),
            usage=any_usage(body.get("usage")),
            error=error,
            model=text_of(body.get("model")),
        )

    def delta(self, like: Event, channel: Channel, text: str) -> Event:
        path = list(channel[1:]) if isinstance(channel, tuple) else []
        value: Any = text
        for part in reversed(path):
            value = [value] if type(part) is int else {part: value}
        body = value if type(value) is dict else {"text": text}
        kind = as_dict(like.json).get("type")
        if type(kind) is str:
            body.setdefault("type", kind)
        return Event.made(body, like.name)


class _Kept(Generic):
    """An API whose path names what the provider keeps (a thread, a conversation): what the body says is added to it."""

    def stateful(self, body: Json) -> bool:
        return True


generic = Generic()
kept = _Kept()
"""The same dialect for calls that are stateful whatever they say."""
