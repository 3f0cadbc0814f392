"""A whole response of the responses API as the events a stream of it would have had."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from proxy.dialects.family import as_dict, text_of

__all__ = ["replay_response"]

Body = dict[str, Any]
_ENDS: Final = ("completed", "incomplete", "failed")
# item type: the field that grows, and the event family it grows by
_GROWS: Final = {
    "function_call": ("arguments", "function_call_arguments"),
    "mcp_call": ("arguments", "mcp_call_arguments"),
    "custom_tool_call": ("input", "custom_tool_call_input"),
    "code_interpreter_call": ("code", "code_interpreter_call_code"),
}
_PARTS: Final = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}


def replay_response(response: Body) -> Iterator[Body]:
    """Bodies of the events, numbered."""
    for number, body in enumerate(_events(response)):
        body["sequence_number"] = number
        yield body


def _events(response: Body) -> Iterator[Body]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    begun.pop("output_text", None)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    output = response.get("output")
    for index, item in enumerate(output if type(output) is list else ()):
        if type(item) is dict:
            yield from _item(index, item)
    status = response.get("status")
    end = status if status in _ENDS else "completed"
    yield {"type": f"response.{end}", "response": response}


def _item(index: int, item: Body) -> Iterator[Body]:
    kind = text_of(item.get("type")) or "message"
    place: Body = {"item_id": text_of(item.get("id")) or "", "output_index": index}
    opened: Body = {**item}
    if "status" in item:
        opened["status"] = "in_progress"
    for field in ("content", "summary"):
        if type(item.get(field)) is list:
            opened[field] = []
    grows = _GROWS.get(kind)
    if grows is not None and text_of(item.get(grows[0])):
        opened[grows[0]] = ""
    yield {"type": "response.output_item.added", "output_index": index, "item": opened}
    summary = item.get("summary")
    for number, part in enumerate(summary if type(summary) is list else ()):
        yield from _summary({**place, "summary_index": number}, as_dict(part))
    content = item.get("content")
    for number, part in enumerate(content if type(content) is list else ()):
        yield from _part({**place, "content_index": number}, as_dict(part))
    if grows is not None and (text := text_of(item.get(grows[0]))):
        field, family = grows
        yield {"type": f"response.{family}.delta", **place, "delta": text}
        done: Body = {"type": f"response.{family}.done", **place, field: text}
        if kind == "function_call" and text_of(item.get("name")):
            done["name"] = item["name"]
        yield done
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _part(place: Body, part: Body) -> Iterator[Body]:
    kind = part.get("type")
    field = _PARTS.get(kind) if type(kind) is str else None
    if field is None:
        yield {"type": "response.content_part.added", **place, "part": part}
        yield {"type": "response.content_part.done", **place, "part": part}
        return
    opened: Body = {**part, field: ""}
    notes = part.get("annotations")
    if type(notes) is list:
        opened["annotations"] = []
    if type(part.get("logprobs")) is list:
        opened["logprobs"] = []
    yield {"type": "response.content_part.added", **place, "part": opened}
    text = text_of(part.get(field)) or ""
    logprobs: Body = {}
    if kind == "output_text":
        said = part.get("logprobs")
        logprobs["logprobs"] = said if type(said) is list else []
    if text:
        yield {"type": f"response.{kind}.delta", **place, "delta": text, **logprobs}
    for number, note in enumerate(notes if type(notes) is list else ()):
        yield {
            "type": "response.output_text.annotation.added",
            **place,
            "annotation_index": number,
            "annotation": note,
        }
    yield {"type": f"response.{kind}.done", **place, field: text, **logprobs}
    yield {"type": "response.content_part.done", **place, "part": part}


def _summary(place: Body, part: Body) -> Iterator[Body]:
    text = text_of(part.get("text")) or ""
    yield {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
    if text:
        yield {"type": "response.reasoning_summary_text.delta", **place, "delta": text}
    yield {"type": "response.reasoning_summary_text.done", **place, "text": text}
    yield {"type": "response.reasoning_summary_part.done", **place, "part": part}
