"""What a chat completions request must look like. Source: OpenAI's API reference, "Create chat completion"."""

from __future__ import annotations

from typing import Final

from proxy.policies.validate import checks
from proxy.policies.validate.checks import MAX_NAME, Check, Json, missing, wrong
from proxy.policies.validate.limits import Limits

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_MAY_SAY_NOTHING: Final = frozenset({"assistant", "function"})

_PARTS: Final[dict[str, Check]] = {
    "text": checks.part_with("text", checks.text),
    "image_url": checks.part_with("image_url", checks.text_or_mapping),
    "input_audio": checks.part_with("input_audio", checks.mapping),
    "file": checks.part_with("file", checks.mapping),
    "refusal": checks.part_with("refusal", checks.text),
}


def _call(value: Json, name: str, limits: Limits) -> None:
    """The function of a tool call. Some providers take the arguments as an object."""
    if type(value) is not dict:
        wrong(name, "an object", value)
    checks.required_text(value, "name", name)
    arguments = value.get("arguments")
    if arguments is not None and type(arguments) is not str and type(arguments) is not dict:
        wrong(f"{name}.arguments", "a string that holds JSON", arguments)


def _tool_calls(value: Json, name: str, limits: Limits) -> None:
    if type(value) is not list:
        wrong(name, "an array", value)
    for index, one in enumerate(value):
        checks.fields(_TOOL_CALL, one, f"{name}[{index}]", limits)


_TOOL_CALL: Final[dict[str, Check]] = {
    "id": checks.text,
    "type": checks.text,
    "function": _call,
    "custom": checks.of({"name": checks.text, "input": checks.text}),
}
_MESSAGE: Final[dict[str, Check]] = {
    "name": checks.text,
    "tool_call_id": checks.text,
    "tool_calls": _tool_calls,
    "function_call": _call,
    "refusal": checks.text,
    "audio": checks.mapping,
}


def _function(value: Json, name: str, limits: Limits) -> None:
    if type(value) is not dict:
        wrong(name, "an object", value)
    if len(checks.required_text(value, "name", name)) > MAX_NAME:
        wrong(f"{name}.name", f"at most {MAX_NAME} characters long", value["name"])
    checks.fields(_FUNCTION, value, name, limits)


_FUNCTION: Final[dict[str, Check]] = {
    "description": checks.text,
    "parameters": checks.mapping,
    "strict": checks.boolean,
}


def _tool(value: Json, name: str, limits: Limits) -> None:
    if type(value) is not dict:
        wrong(name, "an object", value)
    kind = checks.required_text(value, "type", name)
    if kind == "function":
        if value.get("function") is None:
            missing(f"{name}.function", "an object with the function's name")
        _function(value["function"], f"{name}.function", limits)


def _tool_choice(value: Json, name: str, limits: Limits) -> None:
    if type(value) is dict:
        checks.required_text(value, "type", name)
        checks.fields({"function": _call}, value, name, limits)
    elif type(value) is not str:
        wrong(name, "none, auto, required or an object that names a tool", value)


def _response_format(value: Json, name: str, limits: Limits) -> None:
    if type(value) is not dict:
        wrong(name, "an object with a type", value)
    if checks.required_text(value, "type", name) == "json_schema":
        schema = value.get("json_schema")
        if schema is None:
            missing(f"{name}.json_schema", "an object with name and schema")
        checks.fields(
            {"name": checks.text, "schema": checks.mapping, "strict": checks.boolean},
            schema,
            f"{name}.json_schema",
            limits,
        )


def _logit_bias(value: Json, name: str, limits: Limits) -> None:
    if type(value) is not dict:
        wrong(name, "an object of token numbers and biases", value)
    for token, bias in value.items():
        if (type(bias) is not int and type(bias) is not float) or not -100 <= bias <= 100:
            wrong(f"{name}.{token[:24]}", "a number from -100 to 100", bias)


def _stream_options(value: Json, name: str, limits: Limits) -> None:
    checks.fields({"include_usage": checks.boolean, "include_obfuscation": checks.boolean}, value, name, limits)


SAMPLING: Final[dict[str, Check]] = {
    "stream": checks.boolean,
    "temperature": checks.temperature,
    "top_p": checks.top_p,
    "n": checks.choices,
    "stop": checks.stop,
    "presence_penalty": checks.number(-2, 2),
    "frequency_penalty": checks.number(-2, 2),
    "logit_bias": _logit_bias,
    "seed": checks.integer(-(2**63)),
    "stream_options": _stream_options,
    "user": checks.text,
}
FIELDS: Final[dict[str, Check]] = {
    **SAMPLING,
    "max_tokens": checks.output_tokens(),
    "max_completion_tokens": checks.output_tokens(),
    "logprobs": checks.boolean,
    "top_logprobs": checks.integer(0, 100),
    "tools": checks.tool_list(_tool),
    "tool_choice": _tool_choice,
    "parallel_tool_calls": checks.boolean,
    "functions": checks.tool_list(_function),
    "function_call": checks.text_or_mapping,
    "response_format": _response_format,
    "modalities": checks.texts,
    "audio": checks.mapping,
    "prediction": checks.mapping,
    "reasoning_effort": checks.text,
    "service_tier": checks.text,
    "store": checks.boolean,
    "metadata": checks.mapping,
    "prompt_cache_key": checks.text,
    "safety_identifier": checks.text,
    "web_search_options": checks.mapping,
}


def body(tree: dict[str, Json], limits: Limits) -> int:
    """The messages. Returns the characters of their texts; raises ProxyError."""
    messages = tree.get("messages")
    if type(messages) is not list or not messages:
        if messages is None:
            missing("messages", "an array of messages")
        wrong("messages", "an array with at least one message", messages)
    if len(messages) > limits.max_messages:
        checks.too_many("messages", "messages", len(messages), limits.max_messages)
    chars = 0
    for index, message in enumerate(messages):
        if type(message) is not dict:
            wrong(f"messages[{index}]", "an object", message)
        role = message.get("role")
        if type(role) is not str or (role not in ROLES and role not in limits.extra_roles):
            _wrong_role(role, index, limits)
        content = message.get("content")
        if type(content) is str:
            chars += len(content)
            if len(message) == 2:
                continue
        elif type(content) is list:
            chars += checks.parts(content, f"messages[{index}].content", limits, _PARTS)
        elif content is not None:
            wrong(f"messages[{index}].content", "a string or an array of parts", content)
        elif role not in _MAY_SAY_NOTHING:
            missing(f"messages[{index}].content", "a string or an array of parts")
        for key, value in message.items():
            check = _MESSAGE.get(key)
            if check is not None and value is not None:
                check(value, f"messages[{index}].{key}", limits)
    return chars


def _wrong_role(role: Json, index: int, limits: Limits) -> None:
    param = f"messages[{index}].role"
    allowed = ", ".join([*sorted(ROLES), *limits.extra_roles])
    if role is None:
        missing(param, f"one of {allowed}")
    wrong(param, f"one of {allowed}", role)
