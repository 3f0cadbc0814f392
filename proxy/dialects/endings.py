"""How a stream is ended early but properly: what has to be known of it, and the events that are left to be said.

A stage that may cut a stream (``budget.stop_stream``) shows every event to one of these. It keeps positions and bytes,
never an event's parsed tree: policies above edit those trees, each for its own caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proxy.dialects.base import Ending, Plain
from proxy.dialects.family import as_dict
from proxy.stream.sse import Event

if TYPE_CHECKING:
    from proxy.dialects.base import Channel, Dialect

__all__ = ["ChoicesEnding", "MessageEnding", "ResponseEnding"]

_STOP_REASONS: Final = {
    "length": "max_tokens",
    "stop": "end_turn",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
}
_INCOMPLETE: Final = {"length": "max_output_tokens"}


class ChoicesEnding(Ending):
    """Chat and completions: each choice that has begun gets its finish. last: makes the chunk that says so."""

    def __init__(self, last: Callable[[Event | None, int, str], Event]) -> None:
        self._last = last
        self._open: dict[int, bool] = {}

    def see(self, event: Event) -> None:
        number = _goes_on(event)
        if number is not None:
            self._open[number] = True
            return
        choices = as_dict(event.json).get("choices")
        for choice in choices if type(choices) is list else ():
            number = as_dict(choice).get("index", 0)
            if type(number) is int:
                self._open[number] = as_dict(choice).get("finish_reason") is None

    def events(self, like: Event | None, reason: str, output: int) -> list[Event]:
        numbers = [number for number, is_open in self._open.items() if is_open] if self._open else [0]
        return [self._last(like, number, reason) for number in numbers]


class MessageEnding(Ending):
    """Anthropic's messages: the open block is closed, and the message's delta says why and what was put out."""

    def __init__(self) -> None:
        self._block: int | None = None

    def see(self, event: Event) -> None:
        number = _goes_on(event)
        if number is not None:
            self._block = number
            return
        body = as_dict(event.json)
        if body.get("type") in ("content_block_start", "content_block_delta"):
            index = body.get("index")
            self._block = index if type(index) is int else 0
        elif body.get("type") == "content_block_stop":
            self._block = None

    def events(self, like: Event | None, reason: str, output: int) -> list[Event]:
        made: list[dict[str, Any]] = []
        if self._block is not None:
            made.append({"type": "content_block_stop", "index": self._block})
        delta = {"stop_reason": _STOP_REASONS.get(reason, reason), "stop_sequence": None}
        made.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}})
        return [Event.made(body, body["type"]) for body in made]


class ResponseEnding(Ending):
    """The responses API: the last event repeats the response as it stands, with what has been put out."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._number = -1
        self._response = b""
        self._items: dict[int, bytes] = {}
        self._done: set[int] = set()
        self._texts: dict[Channel, list[str]] = {}

    def see(self, event: Event) -> None:
        body = as_dict(event.json)
        number, kind = body.get("sequence_number"), body.get("type")
        if type(number) is int:
            self._number = number
        if type(body.get("response")) is dict:
            self._response = event.encode()
        elif kind in ("response.output_item.added", "response.output_item.done"):
            index = body.get("output_index")
            index = index if type(index) is int else 0
            self._items[index] = event.encode()
            if kind.endswith("done"):
                self._done.add(index)
        else:
            for piece in self._dialect.read(event).pieces:
                if not piece.whole:
                    self._texts.setdefault(piece.channel, []).append(piece.text)

    def events(self, like: Event | None, reason: str, output: int) -> list[Event]:
        response = {
            "id": "", "object": "response", "created_at": 0, "model": "", "parallel_tool_calls": True,
            "tool_choice": "auto", "tools": [], "error": None, "usage": None,
            **as_dict(_body(self._response).get("response")),
            "output": [self._item(index) for index in sorted(self._items)],
            "status": "incomplete",
            "incomplete_details": {"reason": _INCOMPLETE.get(reason, reason)},
        }  # fmt: skip
        made = {"type": "response.incomplete", "response": response, "sequence_number": self._number + 1}
        return [Event.made(made, "response.incomplete")]

    def _item(self, index: int) -> dict[str, Any]:
        """An item as far as it has come."""
        item = as_dict(_body(self._items[index]).get("item"))
        if index in self._done:
            return item
        if "status" in item:
            item["status"] = "incomplete"
        for channel, texts in self._texts.items():
            if not isinstance(channel, tuple) or channel[0] != index:
                continue
            match channel[1]:
                case "output_text":
                    part = {"type": "output_text", "text": "".join(texts), "annotations": []}
                    item["content"] = [*_parts(item), part]
                case "refusal":
                    item["content"] = [*_parts(item), {"type": "refusal", "refusal": "".join(texts)}]
                case "function_call_arguments":
                    item["arguments"] = "".join(texts)
        return item


def _goes_on(event: Event) -> int | None:
    """Of which choice or block the event is one more text and nothing else, as nearly all are; None where it is more,
    or nobody has read it. Their channels begin with its number, so the event need not be parsed for it.
    """
    reading = event.reading
    if type(reading) is Plain:
        channel = reading.pieces[0].channel
        if type(channel) is tuple and type(number := channel[0]) is int:
            return number
    return None


def _parts(item: dict[str, Any]) -> list[Any]:
    content = item.get("content")
    return content if type(content) is list else []


def _body(data: bytes) -> dict[str, Any]:
    return as_dict(Event(data).json)
