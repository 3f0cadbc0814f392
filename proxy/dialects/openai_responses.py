"""OpenAI's responses API.

Channels: (output, family, part) where family is what stands between ``response.`` and ``.delta`` in an event's type
(``output_text``, ``refusal``, ``function_call_arguments``, ``reasoning_summary_text`` ...) and part is the content
or summary index. ``done`` events repeat a channel's whole text; so do the items and the final response.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from proxy.dialects.base import NOTHING, Channel, Ending, Finish, Json, Piece, Reading, Slot
from proxy.dialects.counts import openai_usage, service_of
from proxy.dialects.endings import ResponseEnding
from proxy.dialects.family import Family, apart, as_dict, openai_error, text_of
from proxy.dialects.leaves import Path, walk
from proxy.dialects.response_events import replay_response
from proxy.dialects.response_items import item_texts, items_texts
from proxy.errors import ProxyError
from proxy.stream.sse import Event, Parser

__all__ = ["OpenAIResponses", "openai_responses"]

_ENDS: Final = {"response.completed": True, "response.incomplete": True, "response.failed": False}
_ARGUMENTS: Final = frozenset({"function_call_arguments", "mcp_call_arguments"})
_DONE_KEYS: Final = ("text", "refusal", "arguments", "input", "code", "transcript")
_PARTS: Final = {"output_text": "output_text", "refusal": "refusal", "reasoning_text": "reasoning_text"}
_ITEM_ARGUMENTS: Final = {
    "function_call": "function_call_arguments",
    "mcp_call": "mcp_call_arguments",
    "custom_tool_call": "custom_tool_call_input",
    "code_interpreter_call": "code_interpreter_call_code",
}


class OpenAIResponses(Family):
    """``POST /v1/responses``."""

    name = "openai_responses"
    operation = "chat"
    streams_end_with_done = True
    described_keys = Family.described_keys | {"text"}
    echoes = frozenset({"metadata", "user", "safety_identifier", "prompt_cache_key"})

    # --- request -----------------------------------------------------------------------
    def _field_texts(self, body: dict[str, Any], key: str) -> Iterator[Slot]:
        if key == "input":
            yield from items_texts(body, key, "user", (key,))
        elif key == "instructions":
            yield from items_texts(body, key, "instructions", (key,))
        else:
            yield from walk(body, key, "input", (key,))

    def stateful(self, body: Json) -> bool:
        """True also where an item of an earlier response is referred to by its id."""
        if super().stateful(body):
            return True
        items = as_dict(body).get("input")
        return type(items) is list and any(as_dict(item).get("type") == "item_reference" for item in items)

    def add_system(self, body: Json, text: str) -> None:
        if type(body) is dict:
            said = text_of(body.get("instructions"))
            body["instructions"] = f"{text}\n\n{said}" if said else text

    def asks_usage(self, body: Json) -> bool:
        return True

    # --- whole answer ------------------------------------------------------------------
    def answer_texts(self, body: Json) -> Iterator[Slot]:
        if type(body) is dict:
            yield from _response_texts(body, ())

    def finish(self, body: Json) -> Finish:
        reason = _reason(as_dict(body))
        return Finish(reason is not None, [reason] if reason else [])

    # --- streamed answer ---------------------------------------------------------------
    def read(self, event: Event) -> Reading:
        reading: Reading | None = event.reading
        if reading is None:
            event.reading = reading = self._read(event)
        return reading

    def _read(self, event: Event) -> Reading:
        body = event.json
        if type(body) is not dict:
            return Reading(closes=None, final=True) if event.done else NOTHING
        kind = body.get("type")
        if type(kind) is not str:
            return Reading(closes=None, error=True) if body.get("error") else NOTHING
        output = _index(body, "output_index")
        if kind.endswith(".delta"):
            if type(text := body.get("delta")) is not str or not text or kind == "response.audio.delta":
                return NOTHING
            family = kind[9:-6]
            channel = (output, family, _part(body))
            slot_kind: Any = "arguments" if family in _ARGUMENTS else "text"
            return Reading((Piece(body, "delta", slot_kind, "assistant", ("delta",), channel),), (), True)
        response = body.get("response")
        if kind in _ENDS or type(response) is dict:
            return self._read_response(kind, as_dict(response))
        if kind == "error" or body.get("error"):
            return Reading(closes=None, error=True)
        if kind.startswith("response.output_item."):
            return _read_item(body, output, kind.endswith(".done"))
        if kind.startswith(("response.content_part.", "response.reasoning_summary_part.")):
            return _read_part(body, output, kind)
        if kind.endswith(".done"):
            return _read_done(body, output, kind[9:-5])
        pieces = [
            Piece(slot.holder, slot.key, slot.kind, "assistant", slot.path, (output, kind, *slot.path), True)
            for slot in walk([body], 0, "assistant", ())
        ]
        return Reading(pieces, (), bool(pieces)) if pieces else NOTHING

    def _read_response(self, kind: str, response: dict[str, Any]) -> Reading:
        pieces = [
            Piece(slot.holder, slot.key, slot.kind, slot.role, slot.path, ("response", *slot.path[1:]), True)
            for slot in _response_texts(response, ("response",))
        ]
        ends = kind in _ENDS
        return Reading(
            pieces,
            None if ends else (),
            ends,
            _reason(response) if ends else None,
            openai_usage(response.get("usage")),
            _ENDS.get(kind, False),
            kind == "response.failed",
            model=text_of(response.get("model")),
            service=service_of(response.get("service_tier")),
        )

    def delta(self, like: Event, channel: Channel, text: str) -> Event:
        body = as_dict(like.json)
        parts: tuple[Any, ...] = channel if isinstance(channel, tuple) and len(channel) == 3 else (0, "output_text", 0)
        output, family, part = parts
        kind = f"response.{family}.delta"
        item = text_of(body.get("item_id")) or text_of(as_dict(body.get("item")).get("id")) or ""
        made: dict[str, Any] = {"type": kind, "item_id": item, "output_index": output}
        if str(family).startswith("reasoning_summary"):
            made["summary_index"] = part
        elif family not in _ITEM_ARGUMENTS.values():
            made["content_index"] = part
        if family == "output_text":
            made["logprobs"] = []
        made["delta"] = text
        if "sequence_number" in body:
            made["sequence_number"] = body["sequence_number"]
        return Event.made(made, kind)

    def ending(self) -> Ending:
        return ResponseEnding(self)

    def collect(self, events: Sequence[Event]) -> Json | None:
        whole: dict[str, Any] | None = None
        items: dict[int, Any] = {}
        for event in events:
            body = as_dict(event.json)
            if self.read(event).error:
                return None
            kind = body.get("type")
            if kind == "response.output_item.done":
                items[_index(body, "output_index")] = body.get("item")
            elif kind in ("response.completed", "response.incomplete"):
                whole = as_dict(body.get("response"))
        if not whole:
            return None
        if not whole.get("output") and items:
            # Some servers leave the items out of the last event.
            whole = {**whole, "output": [items[index] for index in sorted(items)]}
        return apart(whole)

    def replay(self, body: Json, *, include_usage: bool) -> list[Event]:
        return [Event.made(part, part["type"]) for part in replay_response(as_dict(body))]

    # --- errors ------------------------------------------------------------------------
    def error_event(self, error: ProxyError, after: bytes = b"") -> Event | None:
        """The API's own ``error`` event, with the ``error`` object beside it that makes SDKs raise."""
        numbers = [as_dict(event.json).get("sequence_number") for event in Parser().feed(after)]
        last = max((number for number in numbers if type(number) is int), default=-1)
        shape = openai_error(error)
        told = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
        return Event.made({**told, "sequence_number": last + 1, "error": shape}, "error")


def _response_texts(response: dict[str, Any], path: Path) -> Iterator[Slot]:
    """The texts of a response: what was put out, and the instructions that it repeats."""
    for field in ("instructions", "output", "output_text"):
        if field in response:
            role = "instructions" if field == "instructions" else "assistant"
            yield from items_texts(response, field, role, (*path, field))


def _read_item(body: dict[str, Any], output: int, done: bool) -> Reading:
    item = as_dict(body.get("item"))
    pieces = []
    for slot in item_texts(body, "item", "assistant", ("item",)) if "item" in body else ():
        pieces.append(_whole(slot, _item_channel(item, output, slot.path[1:])))
    calls = text_of(item.get("type")) not in (None, "message", "reasoning")
    return Reading(pieces, ((output,),) if done else (), bool(pieces) or calls)


def _item_channel(item: dict[str, Any], output: int, path: Path) -> Channel:
    kind = item.get("type")
    if len(path) == 3 and type(path[1]) is int:
        if path[0] == "content":
            return (output, "refusal" if path[2] == "refusal" else _family_of(item, path[1]), path[1])
        if path[0] == "summary":
            return (output, "reasoning_summary_text", path[1])
    if len(path) == 1 and type(kind) is str and kind in _ITEM_ARGUMENTS and path[0] in ("arguments", "input", "code"):
        return (output, _ITEM_ARGUMENTS[kind], 0)
    return (output, "item", *path)


def _family_of(item: dict[str, Any], index: int) -> str:
    content = item.get("content")
    part = content[index] if type(content) is list and index < len(content) else None
    kind = as_dict(part).get("type")
    return _PARTS.get(kind, "output_text") if type(kind) is str else "output_text"


def _read_part(body: dict[str, Any], output: int, kind: str) -> Reading:
    summary = kind.startswith("response.reasoning_summary_part.")
    part = as_dict(body.get("part"))
    said = part.get("type")
    family = "reasoning_summary_text" if summary else _PARTS.get(said, "output_text") if type(said) is str else ""
    channel = (output, family, _part(body))
    pieces = [
        _whole(slot, channel if len(slot.path) == 2 else (*channel, *slot.path))
        for slot in (walk(body, "part", "assistant", ("part",)) if "part" in body else ())
    ]
    return Reading(pieces, (channel,) if kind.endswith(".done") else (), bool(pieces))


def _read_done(body: dict[str, Any], output: int, family: str) -> Reading:
    channel = (output, family, _part(body))
    pieces: list[Piece] = []
    for key in _DONE_KEYS:
        value = body.get(key)
        if type(value) is str and value:
            kind: Any = "arguments" if family in _ARGUMENTS else "text"
            pieces.append(Piece(body, key, kind, "assistant", (key,), channel, True))
    return Reading(pieces, (channel,), bool(pieces))


def _whole(slot: Slot, channel: Channel) -> Piece:
    return Piece(slot.holder, slot.key, slot.kind, slot.role, slot.path, channel, True)


def _reason(response: dict[str, Any]) -> str | None:
    """``completed``, or why not; None while the response is not at an end."""
    status = response.get("status")
    if status == "incomplete":
        return text_of(as_dict(response.get("incomplete_details")).get("reason")) or "incomplete"
    return "completed" if status == "completed" else None


def _index(body: dict[str, Any], key: str) -> int:
    value = body.get(key)
    return value if type(value) is int else 0


def _part(body: dict[str, Any]) -> int:
    return _index(body, "summary_index" if "summary_index" in body else "content_index")


openai_responses = OpenAIResponses()
