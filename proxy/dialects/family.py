"""What the JSON APIs have in common, with OpenAI's error shape: the ground every dialect stands on.

Each method accepts any JSON: a body that is no object has no model, no texts of its own and no usage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from proxy.accounting.usage import Usage
from proxy.dialects.base import NOTHING, Bound, Channel, Dialect, Finish, Json, Opaque, Reading, Slot
from proxy.dialects.counts import greater, openai_usage
from proxy.dialects.leaves import NAMES, NO_NAMES, TOOL_NAMES, Path, opaque_parts, walk
from proxy.errors import ProxyError
from proxy.exact import copied
from proxy.stream.sse import Event

__all__ = ["Family", "apart", "as_dict", "positive", "text_of"]

_STATE: Final = frozenset(
    {"previous_response_id", "conversation", "conversation_id", "thread_id", "assistant_id", "background"}
)
_WHO: Final = frozenset({"user", "safety_identifier", "prompt_cache_key"})
_NOTHING: Final[dict[str, Any]] = {}
DONE: Final = b"[DONE]"


def as_dict(value: Json) -> dict[str, Any]:
    """The value if it is an object, else an empty one (not to be edited)."""
    return value if type(value) is dict else _NOTHING


def apart(whole: dict[str, Any]) -> dict[str, Any] | None:
    """What was collected, sharing nothing with the events: written and read once. None when it cannot be written."""
    try:
        copy: dict[str, Any] = copied(whole)
    except ValueError:
        return None
    return copy


def text_of(value: Json) -> str | None:
    """The value if it is a string that is not empty."""
    return value if type(value) is str and value else None


def positive(value: Json) -> int | None:
    """The value if it is an integer above 0."""
    return value if type(value) is int and value > 0 else None


_BOUNDS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")


class Family(Dialect):
    """Defaults for an OpenAI-like JSON API."""

    described_keys: frozenset[str] = frozenset({"tools", "functions", "metadata", "response_format"}) | _WHO
    """Top-level fields whose texts are masked only when asked."""

    # --- request -----------------------------------------------------------------------
    def model(self, body: Json) -> str | None:
        return text_of(as_dict(body).get("model"))

    def set_model(self, body: Json, model: str) -> None:
        if type(body) is dict:
            body["model"] = model

    def wants_stream(self, body: Json) -> bool:
        return as_dict(body).get("stream") is True

    def bound(self, body: Json) -> Bound:
        if type(body) is not dict:
            return Bound()
        choices = (positive(body["n"]) or 1) if "n" in body else 1
        for key in _BOUNDS:
            if key in body and (tokens := positive(body[key])) is not None:
                return Bound(tokens, choices)
        return Bound(None, choices)

    def texts(self, body: Json) -> Iterator[Slot]:
        if type(body) is list:
            for index in range(len(body)):
                yield from walk(body, index, "input", (index,))
            return
        if type(body) is not dict:
            return
        described = self.described_keys
        for key in list(body):
            kind = type(body[key])
            if kind in (str, dict, list) and key not in described and key != "model":
                yield from self._field_texts(body, key)

    def _field_texts(self, body: dict[str, Any], key: str) -> Iterator[Slot]:
        """The texts of one top-level field of a request."""
        yield from walk(body, key, "input", (key,))

    def described(self, body: Json) -> Iterator[Slot]:
        if type(body) is not dict:
            return
        for key in list(body):
            if key in self.described_keys:
                if key in _WHO:
                    yield from walk(body, key, "user", (key,), names=NO_NAMES)
                elif key == "metadata":
                    yield from walk(body, key, "metadata", (key,), names=NO_NAMES)
                else:
                    yield from walk(body, key, "tool", (key,), names=TOOL_NAMES)

    def opaque(self, body: Json) -> Iterator[Opaque]:
        yield from opaque_parts([body], 0, ())

    def stateful(self, body: Json) -> bool:
        """True for an explicit reference to provider state or an explicit ``store: true``.

        A provider's own default for ``store`` is not read as the client's wish.
        """
        if type(body) is not dict:
            return False
        return body.get("store") is True or (not _STATE.isdisjoint(body) and any(body.get(key) for key in _STATE))

    def add_system(self, body: Json, text: str) -> None:
        return

    def asks_usage(self, body: Json) -> bool:
        return as_dict(as_dict(body).get("stream_options")).get("include_usage") is True

    def ask_usage(self, body: Json) -> None:
        return

    # --- whole answer ------------------------------------------------------------------
    def answer_texts(self, body: Json) -> Iterator[Slot]:
        yield from self._known_or_walk(body)

    def _known_or_walk(self, body: Json, names: frozenset[str] = NAMES) -> Iterator[Slot]:
        if type(body) is dict or type(body) is list:
            path: Path = ()
            root = [body]
            yield from walk(root, 0, "assistant", path, names=names)

    def usage(self, body: Json) -> Usage | None:
        fields = as_dict(body)
        return openai_usage(fields.get("usage"), fields.get("service_tier"))

    def finish(self, body: Json) -> Finish:
        return Finish(type(body) is dict and not body.get("error"))

    def answer_model(self, body: Json) -> str | None:
        return text_of(as_dict(body).get("model"))

    # --- streamed answer ---------------------------------------------------------------
    def read(self, event: Event) -> Reading:
        return NOTHING

    def join_usage(self, before: Usage | None, now: Usage) -> Usage:
        return greater(before, now)

    def delta(self, like: Event, channel: Channel, text: str) -> Event:
        return Event.made({"text": text})

    def collect(self, events: Sequence[Event]) -> Json | None:
        return None

    def replay(self, body: Json, *, include_usage: bool) -> list[Event]:
        return [Event.made(body), Event.made(DONE)]

    # --- errors ------------------------------------------------------------------------
    def error(self, error: ProxyError) -> bytes:
        return orjson.dumps({"error": openai_error(error)})

    def error_event(self, error: ProxyError, after: bytes = b"") -> Event | None:
        return Event.made({"error": openai_error(error)})

    def upstream_error(self, body: Json) -> str | None:
        fields = as_dict(body)
        found = fields.get("error")
        if type(found) is dict:
            inner = as_dict(found.get("innererror"))
            return text_of(found.get("code")) or text_of(found.get("type")) or text_of(inner.get("code"))
        if found or fields.get("object") == "error":
            return text_of(fields.get("code")) or text_of(fields.get("type")) or text_of(found)
        return None


def openai_error(error: ProxyError) -> dict[str, str | None]:
    """The ``error`` object that OpenAI's SDKs read."""
    return {"message": error.message, "type": error.kind.type, "param": error.param, "code": error.code}
