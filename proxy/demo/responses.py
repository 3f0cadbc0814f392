"""The responses API: whole answers, and the event sequence that a stream of one has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import orjson

from proxy.demo.wishes import Wishes
from proxy.demo.words import Heard, Json, arguments, count, cut, digest, filler, in_json, part_texts, tokens_of


def hear(tree: dict[str, Json]) -> Heard:
    """What a request said."""
    system = tree.get("instructions") or ""
    given = tree.get("input")
    if isinstance(given, str):
        return Heard(given, system)
    items = given or []
    user = next((part_texts(item.get("content")) for item in reversed(items) if item.get("role") == "user"), "")
    told = [part_texts(item.get("content")) for item in items if item.get("role") in ("system", "developer")]
    last = items[-1] if items else {}
    tool = part_texts(last.get("output")) if last.get("type") == "function_call_output" else None
    return Heard(user, "\n".join([system, *told] if system else told), tool)


def response(tree: dict[str, Json], wishes: Wishes) -> dict[str, Json]:
    """A whole response."""
    heard, key = hear(tree), digest(tree)
    function = None if heard.tool is not None or wishes.tokens is not None else _wanted(tree)
    was_cut = False
    if function is not None:
        given = orjson.dumps(arguments(heard, function.get("parameters"))).decode()
        written = count(given)
        item = {
            "id": f"fc_demo_{key}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_demo_{key}",
            "name": function["name"],
            "arguments": given,
        }
    else:
        text, was_cut = cut(_text(tree, wishes, heard), tree.get("max_output_tokens"), None)
        written = count(text)
        item = {
            "id": f"msg_demo_{key}",
            "type": "message",
            "status": "incomplete" if was_cut else "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
        }
    read = count(heard.user + heard.system + (heard.tool or "")) + 3
    return {
        "id": f"resp_demo_{key}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if was_cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if was_cut else None,
        "instructions": tree.get("instructions"),
        "max_output_tokens": tree.get("max_output_tokens"),
        "model": tree.get("model") or "demo",
        "output": [item],
        "parallel_tool_calls": tree.get("parallel_tool_calls", True),
        "previous_response_id": tree.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "store": tree.get("store", True),
        "temperature": tree.get("temperature", 1.0),
        "text": tree.get("text") or {"format": {"type": "text"}},
        "tool_choice": tree.get("tool_choice") or "auto",
        "tools": tree.get("tools") or [],
        "top_p": tree.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": _usage(read, written) if wishes.usage else None,
        "user": tree.get("user"),
        "metadata": tree.get("metadata") or {},
    }


def _usage(read: int, written: int) -> dict[str, Json]:
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


def _text(tree: dict[str, Json], wishes: Wishes, heard: Heard) -> str:
    if wishes.tokens is not None:
        return filler(wishes.tokens)
    wanted = (tree.get("text") or {}).get("format") or {}
    return (
        in_json(heard, wanted.get("schema")) if wanted.get("type") in ("json_object", "json_schema") else heard.quote()
    )


def _wanted(tree: dict[str, Json]) -> dict[str, Json] | None:
    choice = tree.get("tool_choice")
    offered: list[dict[str, Json]] = [tool for tool in tree.get("tools") or [] if tool.get("type") == "function"]
    if not offered or choice == "none":
        return None
    name = choice.get("name") if isinstance(choice, dict) else None
    return next((tool for tool in offered if tool["name"] == name), offered[0])


def response_events(tree: dict[str, Json], wishes: Wishes) -> Iterator[bytes]:
    """The same answer as the events of a stream; its last event says completed or incomplete."""
    whole = response(tree, wishes)
    number = -1

    def event(kind: str, **more: Any) -> bytes:
        nonlocal number
        number += 1
        data = orjson.dumps({"type": kind, "sequence_number": number, **more})
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    begun = {**whole, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    item = whole["output"][0]
    place = {"item_id": item["id"], "output_index": 0}
    if item["type"] == "function_call":
        yield event(
            "response.output_item.added", output_index=0, item={**item, "status": "in_progress", "arguments": ""}
        )
        for piece in tokens_of(item["arguments"]):
            yield event("response.function_call_arguments.delta", **place, delta=piece)
        yield event("response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"])
    else:
        part = item["content"][0]
        yield event("response.output_item.added", output_index=0, item={**item, "status": "in_progress", "content": []})
        place["content_index"] = 0
        yield event("response.content_part.added", **place, part={**part, "text": ""})
        for piece in tokens_of(part["text"]):
            yield event("response.output_text.delta", **place, delta=piece, logprobs=[])
        yield event("response.output_text.done", **place, text=part["text"], logprobs=[])
        yield event("response.content_part.done", **place, part=part)
    yield event("response.output_item.done", output_index=0, item=item)
    yield event(f"response.{whole['status']}", response=whole)
