"""A message of Anthropic's as events and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from proxy.dialects.family import apart, as_dict, positive, text_of
from proxy.dialects.merge import joined, merge
from proxy.exact import read
from proxy.stream.sse import Event

__all__ = ["AnthropicAnswer", "replay_message"]

_GROWS: Final = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
_STOP: Final = ("stop_reason", "stop_sequence", "stop_details")
_FRAME: Final = frozenset({"type", "delta", "usage"})


class AnthropicAnswer:
    """Adds the events of a stream up to the message they describe."""

    def __init__(self) -> None:
        self.message: dict[str, Any] | None = None
        self.blocks: dict[int, dict[str, Any]] = {}
        self.grown: dict[tuple[int, str], list[str]] = {}
        self.cited: dict[int, list[Any]] = {}
        self.stopped = False

    def add(self, body: dict[str, Any]) -> None:
        """Add one event."""
        kind = body.get("type")
        index = body.get("index")
        index = index if type(index) is int else 0
        if kind == "message_start":
            self.message = dict(as_dict(body.get("message")))
        elif kind == "content_block_start":
            self.blocks[index] = block = dict(as_dict(body.get("content_block")))
            model = text_of(as_dict(block.get("to")).get("model"))
            if block.get("type") == "fallback" and model and self.message is not None:
                self.message["model"] = model  # that of the last hop, as in a whole message
        elif kind == "content_block_delta":
            self._grow(index, as_dict(body.get("delta")))
        elif kind == "message_delta" and self.message is not None:
            self._update(as_dict(body.get("delta")))
            self._update({key: value for key, value in body.items() if key not in _FRAME})
            usage = {key: value for key, value in as_dict(body.get("usage")).items() if value is not None}
            self.message["usage"] = {**as_dict(self.message.get("usage")), **usage}
        elif kind == "message_stop":
            self.stopped = True

    def _update(self, fields: dict[str, Any]) -> None:
        """Fields of the message that are known at its end. Null says only of the stop that there is nothing."""
        assert self.message is not None
        for key, value in fields.items():
            if value is not None or key in _STOP or key not in self.message:
                self.message[key] = value

    def _grow(self, index: int, delta: dict[str, Any]) -> None:
        kind = delta.get("type")
        key = _GROWS.get(kind) if type(kind) is str else None
        if key is not None and type(delta.get(key)) is str:
            self.grown.setdefault((index, key), []).append(delta[key])
        elif index not in self.blocks:
            return
        elif kind == "signature_delta":
            self.blocks[index]["signature"] = delta.get("signature")
        elif kind == "citations_delta":
            self.cited.setdefault(index, []).append(delta.get("citation"))
        else:
            merge(self.blocks[index], {key: value for key, value in delta.items() if key != "type"})

    def done(self) -> dict[str, Any] | None:
        """The whole message; None when it is incomplete."""
        message = self.message
        if message is None or not self.stopped or not text_of(message.get("stop_reason")):
            return None
        for (index, key), parts in self.grown.items():
            block = self.blocks.get(index)
            if block is None:
                return None
            text = "".join(parts)
            if key != "partial_json":
                block[key] = (text_of(block.get(key)) or "") + text
            elif text:
                try:
                    block["input"] = read(text.encode("utf-8", "surrogatepass"))
                except ValueError:
                    return None
        for index, cited in self.cited.items():
            block = self.blocks[index]
            had = block.get("citations")
            block["citations"] = [*(had if type(had) is list else ()), *cited]
        message["content"] = [joined(self.blocks[index]) for index in sorted(self.blocks)]
        return apart(message)


def replay_message(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The bodies of the events that a stream of this message would have had."""
    usage = as_dict(message.get("usage"))
    content = message.get("content")
    start = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    if "stop_details" in message:
        start["stop_details"] = None
    if usage:
        start["usage"] = {**usage, "output_tokens": 1 if positive(usage.get("output_tokens")) else 0}
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(content if type(content) is list else ()):
        if type(block) is not dict:
            continue
        opened, deltas = _opened(block)
        yield {"type": "content_block_start", "index": index, "content_block": opened}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": message.get("stop_reason"), "stop_sequence": message.get("stop_sequence")}
    # SDKs look for these at the end alone.
    delta |= {key: message[key] for key in ("stop_details", "container") if key in message}
    yield {"type": "message_delta", "delta": delta, "usage": usage or {"output_tokens": 0}}
    yield {"type": "message_stop"}


def _opened(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it starts, and the deltas that fill it."""
    kind = block.get("type")
    deltas: list[dict[str, Any]] = []
    if kind == "text":
        opened = {**block, "text": ""}
        cited = block.get("citations")
        if type(cited) is list:
            opened["citations"] = []
            deltas += [{"type": "citations_delta", "citation": citation} for citation in cited]
        if text_of(block.get("text")):
            deltas.append({"type": "text_delta", "text": block["text"]})
        return opened, deltas
    if kind == "thinking":
        if text_of(block.get("thinking")):
            deltas.append({"type": "thinking_delta", "thinking": block["thinking"]})
        if text_of(block.get("signature")):
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return {**block, "thinking": "", "signature": ""}, deltas
    if kind in ("tool_use", "server_tool_use", "mcp_tool_use") and "input" in block:
        partial = Event.made(block["input"]).data or b""
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": partial.decode()}]
    return dict(block), deltas
