"""What a responses request must look like. Source: OpenAI's API reference, "Create a model response"."""

from __future__ import annotations

from typing import Final

from proxy.policies.validate import checks
from proxy.policies.validate.checks import Check, Json, missing, wrong
from proxy.policies.validate.limits import Limits

_TEXT: Final = checks.part_with("text", checks.text)
_PARTS: Final[dict[str, Check]] = {
    "input_text": _TEXT,
    "output_text": _TEXT,
    "summary_text": _TEXT,
    "refusal": checks.part_with("refusal", checks.text),
}
_ITEM: Final[dict[str, Check]] = {
    "type": checks.text,
    "role": checks.text,
    "id": checks.text,
    "call_id": checks.text,
    "name": checks.text,
    "arguments": checks.text,
    "status": checks.text,
}


def _tool(value: Json, name: str, limits: Limits) -> None:
    if type(value) is not dict:
        wrong(name, "an object", value)
    if checks.required_text(value, "type", name) == "function":
        checks.required_text(value, "name", name)
        checks.fields({"description": checks.text, "parameters": checks.mapping}, value, name, limits)


def _tool_choice(value: Json, name: str, limits: Limits) -> None:
    if type(value) is dict:
        checks.required_text(value, "type", name)
    elif type(value) is not str:
        wrong(name, "none, auto, required or an object that names a tool", value)


FIELDS: Final[dict[str, Check]] = {
    "stream": checks.boolean,
    "temperature": checks.temperature,
    "top_p": checks.top_p,
    "max_output_tokens": checks.output_tokens(),
    "max_tool_calls": checks.integer(0),
    "top_logprobs": checks.integer(0, 100),
    "previous_response_id": checks.text,
    "conversation": checks.text_or_mapping,
    "prompt": checks.mapping,
    "tools": checks.tool_list(_tool),
    "tool_choice": _tool_choice,
    "parallel_tool_calls": checks.boolean,
    "text": checks.of({"format": checks.of({"type": checks.text, "name": checks.text, "schema": checks.mapping})}),
    "reasoning": checks.of({"effort": checks.text, "summary": checks.text}),
    "include": checks.texts,
    "store": checks.boolean,
    "background": checks.boolean,
    "stream_options": checks.mapping,
    "truncation": checks.text,
    "metadata": checks.mapping,
    "service_tier": checks.text,
    "user": checks.text,
    "prompt_cache_key": checks.text,
    "safety_identifier": checks.text,
}


def body(tree: dict[str, Json], limits: Limits) -> int:
    """Input and instructions. Returns the characters of their texts; raises ProxyError."""
    chars = 0
    instructions = tree.get("instructions")
    if type(instructions) is str:
        chars = len(instructions)
    elif instructions is not None:
        wrong("instructions", "a string", instructions)
    given = tree.get("input")
    if type(given) is str:
        return chars + len(given)
    if given is None:
        if not (tree.get("prompt") or tree.get("previous_response_id") or tree.get("conversation")):
            missing("input", "a string or an array of items")
        return chars
    if type(given) is not list:
        wrong("input", "a string or an array of items", given)
    if len(given) > limits.max_messages:
        checks.too_many("input", "items", len(given), limits.max_messages)
    for index, item in enumerate(given):
        name = f"input[{index}]"
        checks.fields(_ITEM, item, name, limits)
        if item.get("type") is None and item.get("role") is None and item.get("id") is None:
            missing(f"{name}.type", "a string, or role must be given")
        content = item.get("content")
        if type(content) is str:
            chars += len(content)
        elif type(content) is list:
            chars += checks.parts(content, f"{name}.content", limits, _PARTS)
        elif content is not None:
            wrong(f"{name}.content", "a string or an array of parts", content)
        elif item.get("role") is not None and item.get("type") in (None, "message"):
            missing(f"{name}.content", "a string or an array of parts")
    return chars
