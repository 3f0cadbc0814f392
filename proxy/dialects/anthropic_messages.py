"""Anthropic's messages API.

Channels: (block, "text"), (block, "partial_json"), (block, *path) for what a block brings with its start. Thinking
is signed: it is neither masked in a request nor restored in an answer, so it is no text in either direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from proxy.accounting.usage import Usage
from proxy.dialects.anthropic_stream import AnthropicAnswer, replay_message
from proxy.dialects.base import NOTHING, Bound, Channel, Ending, Finish, Json, Piece, Reader, Reading, Slot
from proxy.dialects.counts import anthropic_usage
from proxy.dialects.endings import MessageEnding
from proxy.dialects.family import Family, as_dict, positive, text_of
from proxy.dialects.leaves import NO_NAMES, Path, is_name, is_signed, keys, walk
from proxy.dialects.repeats import Repeats
from proxy.errors import ProxyError
from proxy.stream.sse import Event

__all__ = ["AnthropicMessages", "anthropic_messages"]

_INPUTS: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_SEALED: Final = ("thinking", "signature", "data")
_THINKING: Final = frozenset({"thinking", "redacted_thinking"})
_DELTA_TEXTS: Final = {"text_delta": "text", "input_json_delta": "partial_json"}
_SILENT: Final = frozenset({"thinking_delta", "signature_delta"})


class AnthropicMessages(Family):
    """``POST /v1/messages``."""

    name = "anthropic_messages"
    operation = "chat"
    streams_end_with_done = True
    needs_final = True
    described_keys = frozenset({"tools", "metadata", "mcp_servers"})

    # --- request -----------------------------------------------------------------------
    def bound(self, body: Json) -> Bound:
        return Bound(positive(as_dict(body).get("max_tokens")))

    def _field_texts(self, body: dict[str, Any], key: str) -> Iterator[Slot]:
        value = body[key]
        if key == "messages" and type(value) is list:
            for index, message in enumerate(value):
                path = ("messages", index)
                if type(message) is not dict:
                    yield from walk(value, index, "user", path)
                    continue
                role = text_of(message.get("role")) or "user"
                for field in message:
                    if field == "content":
                        yield from _content(message, field, role, (*path, field))
                    elif field != "role" or type(message[field]) is not str or not is_name(field, message[field]):
                        yield from walk(message, field, role, (*path, field))
        elif key == "system":
            yield from _content(body, key, "system", (key,))
        else:
            yield from walk(body, key, "input", (key,))

    def add_system(self, body: Json, text: str) -> None:
        if type(body) is not dict:
            return
        system = body.get("system")
        if type(system) is list:
            system.insert(0, {"type": "text", "text": text})
        else:
            body["system"] = f"{text}\n\n{system}" if text_of(system) else text

    def stateful(self, body: Json) -> bool:
        return bool(as_dict(body).get("container"))

    def asks_usage(self, body: Json) -> bool:
        return True

    # --- whole answer ------------------------------------------------------------------
    def answer_texts(self, body: Json) -> Iterator[Slot]:
        if type(body) is dict and "content" in body:
            yield from _content(body, "content", "assistant", ("content",), answer=True)

    def usage(self, body: Json) -> Usage | None:
        return anthropic_usage(as_dict(body).get("usage"))

    def finish(self, body: Json) -> Finish:
        reason = text_of(as_dict(body).get("stop_reason"))
        cut = type(body) is dict and "stop_reason" in body and body["stop_reason"] is None
        return Finish(reason is not None, [reason] if reason else [], cut)

    # --- streamed answer ---------------------------------------------------------------
    def read(self, event: Event) -> Reading:
        reading: Reading | None = event.reading
        if reading is None:
            event.reading = reading = self._read(event)
        return reading

    def reader(self) -> Reader:
        return Repeats(self)

    def _read(self, event: Event) -> Reading:
        body = event.json
        if type(body) is not dict:
            return NOTHING
        kind = body.get("type")
        index = body.get("index")
        if type(index) is not int:
            index = 0
        if kind == "content_block_delta":
            return _read_delta(body, index)
        if kind == "content_block_start":
            block = as_dict(body.get("content_block"))
            pieces = [
                Piece(slot.holder, slot.key, slot.kind, "assistant", slot.path, (index, *slot.path[1:]))
                for slot in _block(body, "content_block", "assistant", ("content_block",), answer=True)
            ]
            return Reading(pieces, (), bool(pieces) or block.get("type") not in ("text", None))
        if kind == "content_block_stop":
            return Reading(closes=((index,),))
        if kind == "message_start":
            message = as_dict(body.get("message"))
            return Reading(usage=anthropic_usage(message.get("usage"), part=True), model=text_of(message.get("model")))
        if kind == "message_delta":
            finish = text_of(as_dict(body.get("delta")).get("stop_reason"))
            usage = anthropic_usage(body.get("usage"), part=True)
            return Reading(closes=None, commits=finish is not None, finish=finish, usage=usage)
        if kind == "message_stop":
            return Reading(closes=None, final=True)
        if kind == "error" or body.get("error"):
            return Reading(closes=None, error=True)
        if kind == "ping":
            return NOTHING
        unknown = [
            Piece(slot.holder, slot.key, slot.kind, "assistant", slot.path, (index, *slot.path))
            for slot in walk([body], 0, "assistant", ())
        ]
        return Reading(unknown, (), bool(unknown)) if unknown else NOTHING

    def delta(self, like: Event, channel: Channel, text: str) -> Event:
        parts: tuple[Any, ...] = channel if isinstance(channel, tuple) and channel else (0, "text")
        if parts[1:] == ("partial_json",):
            delta = {"type": "input_json_delta", "partial_json": text}
        else:
            delta = {"type": "text_delta", "text": text}
        return _event({"type": "content_block_delta", "index": parts[0], "delta": delta})

    def ending(self) -> Ending:
        return MessageEnding()

    def collect(self, events: Sequence[Event]) -> Json | None:
        answer = AnthropicAnswer()
        for event in events:
            body = as_dict(event.json)
            if body.get("type") == "error" or body.get("error"):  # what `read` calls one, without its pieces
                return None
            answer.add(body)
        return answer.done()

    def replay(self, body: Json, *, include_usage: bool) -> list[Event]:
        return [_event(part) for part in replay_message(as_dict(body))]

    # --- errors ------------------------------------------------------------------------
    def error(self, error: ProxyError) -> bytes:
        return orjson.dumps(_error(error))

    def error_event(self, error: ProxyError, after: bytes = b"") -> Event | None:
        return _event(_error(error))

    def upstream_error(self, body: Json) -> str | None:
        found = as_dict(body).get("error")
        return text_of(as_dict(found).get("type")) or text_of(found)


def _error(error: ProxyError) -> dict[str, Any]:
    """Anthropic's own shape, with our code beside the few types that its API knows."""
    told = {"type": error.kind.anthropic, "message": error.message, "code": error.code}
    return {"type": "error", "error": told}


def _event(body: dict[str, Any]) -> Event:
    return Event.made(body, body["type"])


def _read_delta(body: dict[str, Any], index: int) -> Reading:
    delta = body.get("delta")
    if type(delta) is not dict:
        return NOTHING
    kind = delta.get("type")
    key = _DELTA_TEXTS.get(kind) if type(kind) is str else None
    if key is not None and len(delta) == 2 and type(text := delta.get(key)) is str:
        if not text:
            return NOTHING
        slot_kind: Any = "text" if key == "text" else "arguments"
        piece = Piece(delta, key, slot_kind, "assistant", ("delta", key), (index, key))
        return Reading((piece,), (), True)
    if type(kind) is str and kind in _SILENT:
        return Reading(commits=kind == "thinking_delta")
    # A citation and the like: said once, so its channels end with the event.
    pieces = [
        Piece(slot.holder, slot.key, slot.kind, "assistant", slot.path, (index, *slot.path))
        for slot in walk(body, "delta", "assistant", ("delta",))
    ]
    return Reading(pieces, [piece.channel for piece in pieces], bool(pieces)) if pieces else NOTHING


def _content(holder: Any, key: Any, role: str, path: Path, *, answer: bool = False) -> Iterator[Slot]:
    """The texts of ``content``, ``system`` or a tool result: a string or blocks.

    answer: thinking is left alone whether its signature has come or not, as it is in a stream.
    """
    value = holder[key]
    if type(value) is str:
        if value:
            yield Slot(holder, key, "text", role, path)
    elif type(value) is list:
        for index in range(len(value)):
            yield from _block(value, index, role, (*path, index), answer=answer)
            block = value[index]
            if type(block) is dict and _takes_input(block.get("type")) and "input" in block:
                # Not where a block opens in a stream: readings are shared, and others reach its values by their keys.
                yield from keys(block, "input", role, (*path, index, "input"))
    else:
        yield from walk(holder, key, role, path)


def _block(holder: Any, key: Any, role: str, path: Path, *, answer: bool = False) -> Iterator[Slot]:
    block = holder[key]
    if type(block) is not dict:
        yield from walk(holder, key, role, path)
        return
    kind = block.get("type")
    sealed = _SEALED if is_signed(block) or (answer and _thinks(kind)) else ()
    for field in block:
        value = block[field]
        if field in sealed:
            continue
        if field == "text" and type(value) is str:
            if value:
                yield Slot(block, field, "text", role, (*path, field))
        elif field == "input" and _takes_input(kind):
            yield from walk(block, field, role, (*path, field), names=NO_NAMES)
        elif field == "content" and kind == "tool_result":
            yield from _content(block, field, "tool", (*path, field))
        elif field == "source" and type(value) is dict and value.get("type") == "text":
            for inner in value:
                if inner == "data" and type(value[inner]) is str:
                    if value[inner]:
                        yield Slot(value, inner, "text", role, (*path, field, inner))
                else:
                    yield from walk(value, inner, role, (*path, field, inner))
        elif not (field == "name" and type(value) is str and is_name("id", value)):
            yield from walk(block, field, role, (*path, field))


def _takes_input(kind: Any) -> bool:
    return type(kind) is str and kind in _INPUTS


def _thinks(kind: Any) -> bool:
    return type(kind) is str and kind in _THINKING


anthropic_messages = AnthropicMessages()
