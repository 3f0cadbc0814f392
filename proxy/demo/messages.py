"""Anthropic messages: whole answers and the events of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from proxy.demo.wishes import Wishes
from proxy.demo.words import Heard, Json, arguments, count, cut, digest, filler, part_texts, tokens_of


def hear(tree: dict[str, Json]) -> Heard:
    """What a conversation said."""
    messages = tree["messages"]
    last = messages[-1].get("content")
    results = [block for block in last if block.get("type") == "tool_result"] if isinstance(last, list) else []
    tool = part_texts(results[-1].get("content")) if results else None
    user = next((part_texts(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), "")
    return Heard(user, part_texts(tree.get("system")), tool)


def message(tree: dict[str, Json], wishes: Wishes) -> dict[str, Json]:
    """A whole message."""
    heard, key = hear(tree), digest(tree)
    tool = None if heard.tool is not None or wishes.tokens is not None else _wanted(tree)
    reason = "end_turn"
    if tool is not None:
        given = arguments(heard, tool.get("input_schema"))
        block = {"type": "tool_use", "id": f"toolu_demo_{key}", "name": tool["name"], "input": given}
        written, reason = count(orjson.dumps(given).decode()), "tool_use"
    else:
        text = filler(wishes.tokens) if wishes.tokens is not None else heard.quote()
        text, was_cut = cut(text, tree.get("max_tokens"), tree.get("stop_sequences"))
        block = {"type": "text", "text": text}
        written, reason = count(text), "max_tokens" if was_cut else reason
    answer = {
        "id": f"msg_demo_{key}",
        "type": "message",
        "role": "assistant",
        "model": tree.get("model") or "demo",
        "content": [block],
        "stop_reason": reason,
        "stop_sequence": None,
    }
    # The field is required in this API: without a wish for counts they are zero.
    answer["usage"] = _usage(tokens_in(tree), written) if wishes.usage else _usage(0, 0)
    return answer


def tokens_in(tree: dict[str, Json]) -> int:
    """Input tokens of a request."""
    return count(part_texts(tree.get("system")) + "".join(part_texts(m.get("content")) for m in tree["messages"])) + 3


def _usage(read: int, written: int) -> dict[str, Json]:
    return {
        "input_tokens": read,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": written,
        "service_tier": "standard",
    }


def _wanted(tree: dict[str, Json]) -> dict[str, Json] | None:
    choice = tree.get("tool_choice") or {}
    offered: list[dict[str, Json]] = [
        tool for tool in tree.get("tools") or [] if tool.get("type", "custom") == "custom" and tool.get("name")
    ]
    if not offered or choice.get("type") == "none":
        return None
    return next((tool for tool in offered if tool["name"] == choice.get("name")), offered[0])


def message_events(tree: dict[str, Json], wishes: Wishes) -> Iterator[bytes]:
    """The same answer as the events of a stream."""
    whole = message(tree, wishes)
    block, counts = whole["content"][0], whole["usage"]

    def event(kind: str, **more: Any) -> bytes:
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **more}) + b"\n\n"

    begun = {
        **whole,
        "content": [],
        "stop_reason": None,
        "usage": {**counts, "output_tokens": min(1, counts["output_tokens"])},
    }
    yield event("message_start", message=begun)
    if block["type"] == "text":
        yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        yield event("ping")
        for piece in tokens_of(block["text"]):
            yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    else:
        yield event("content_block_start", index=0, content_block={**block, "input": {}})
        yield event("ping")
        for piece in tokens_of(orjson.dumps(block["input"]).decode()):
            yield event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": piece})
    yield event("content_block_stop", index=0)
    ending = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=ending, usage={"output_tokens": counts["output_tokens"]})
    yield event("message_stop")
