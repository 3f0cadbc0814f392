"""What an Anthropic messages request must look like. Source: Anthropic's API reference, "Create a message"."""

from __future__ import annotations

from typing import Final

from proxy.policies.validate import checks
from proxy.policies.validate.checks import Check, Json, missing, wrong
from proxy.policies.validate.limits import Limits

ROLES: Final = frozenset({"user", "assistant", "system"})


def _tool_use(part: Json, name: str, limits: Limits) -> None:
    checks.required_text(part, "id", name)
    checks.required_text(part, "name", name)
    checks.part_with("input", checks.mapping)(part, name, limits)


def _tool_result(part: Json, name: str, limits: Limits) -> None:
    checks.required_text(part, "tool_use_id", name)
    content = part.get("content")
    if type(content) is list:
        checks.parts(content, f"{name}.content", limits, _PARTS)
    elif content is not None and type(content) is not str:
        wrong(f"{name}.content", "a string or an array of blocks", content)


_PARTS: Final[dict[str, Check]] = {
    "text": checks.part_with("text", checks.text),
    "image": checks.part_with("source", checks.mapping),
    "document": checks.part_with("source", checks.mapping),
    "thinking": checks.part_with("thinking", checks.text),
    "tool_use": _tool_use,
    "tool_result": _tool_result,
}


def _tool(value: Json, name: str, limits: Limits) -> None:
    checks.fields(
        {"type": checks.text, "name": checks.text, "description": checks.text, "input_schema": checks.mapping},
        value,
        name,
        limits,
    )


def _tool_choice(value: Json, name: str, limits: Limits) -> None:
    if type(value) is not dict:
        wrong(name, "an object with a type", value)
    checks.required_text(value, "type", name)


FIELDS: Final[dict[str, Check]] = {
    "stream": checks.boolean,
    "max_tokens": checks.output_tokens(0),  # 0 only warms the prompt cache
    "temperature": checks.temperature,
    "top_p": checks.top_p,
    "top_k": checks.integer(0),
    "stop_sequences": checks.stop,
    "tools": checks.tool_list(_tool),
    "tool_choice": _tool_choice,
    "metadata": checks.mapping,
    "thinking": checks.mapping,
    "service_tier": checks.text,
}


def body(tree: dict[str, Json], limits: Limits) -> int:
    """System prompt and messages. Returns the characters of their texts; raises ProxyError."""
    chars = 0
    system = tree.get("system")
    if type(system) is str:
        chars = len(system)
    elif type(system) is list:
        chars = checks.parts(system, "system", limits, _PARTS)
    elif system is not None:
        wrong("system", "a string or an array of blocks", system)
    messages = tree.get("messages")
    if type(messages) is not list or not messages:
        if messages is None:
            missing("messages", "an array of messages")
        wrong("messages", "an array with at least one message", messages)
    if len(messages) > limits.max_messages:
        checks.too_many("messages", "messages", len(messages), limits.max_messages)
    for index, message in enumerate(messages):
        if type(message) is not dict:
            wrong(f"messages[{index}]", "an object", message)
        role = message.get("role")
        if type(role) is not str or (role not in ROLES and role not in limits.extra_roles):
            allowed = ", ".join([*sorted(ROLES), *limits.extra_roles])
            if role is None:
                missing(f"messages[{index}].role", f"one of {allowed}")
            wrong(f"messages[{index}].role", f"one of {allowed}", role)
        content = message.get("content")
        if type(content) is str:
            chars += len(content)
        elif type(content) is list:
            chars += checks.parts(content, f"messages[{index}].content", limits, _PARTS)
        elif content is None:
            missing(f"messages[{index}].content", "a string or an array of blocks")
        else:
            wrong(f"messages[{index}].content", "a string or an array of blocks", content)
    return chars
