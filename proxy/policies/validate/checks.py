"""The parts that every API's rules are made of: one check for one value.

A check gets a value that is there (null is the same as absent), the dotted name of its field, and the limits. It
returns nothing, or raises ``invalid_value`` with that name. Messages show numbers and short plain words that the
client sent, never its texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from proxy.errors import ProxyError
from proxy.policies.validate.limits import Limits

Json = Any
Check = Callable[[Json, str, Limits], None]

MAX_NAME: Final = 256
_WORD: Final = re.compile(r"[A-Za-z_]{1,24}")
_PLAIN: Final = 10_000_000
"""Numbers from here on may be those of a card or an account."""


def shown(value: Json) -> str:
    """What stands there, as far as it may be shown."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if not -_PLAIN < value < _PLAIN:
            return f"a number of {len(str(abs(value)))} digits"
        case int() | float():
            return f"{value:g}" if type(value) is float else str(value)
        case str():
            return f"{value!r}" if _WORD.fullmatch(value) else "a string" if value else "an empty string"
        case list():
            return "an array" if value else "an empty array"
        case dict():
            return "an object"
    return "null"


def wrong(param: str, wanted: str, value: Json) -> NoReturn:
    """Refuse: ``param`` must be ``wanted``."""
    raise ProxyError("invalid_value", f"{param} must be {wanted}, not {shown(value)}.", param=param)


def too_many(param: str, what: str, count: int, limit: int) -> NoReturn:
    """Refuse: more than is allowed."""
    raise ProxyError("invalid_value", f"{param} has {count} {what}; at most {limit} are allowed.", param=param)


def missing(param: str, wanted: str) -> NoReturn:
    """Refuse: a required field is not there."""
    raise ProxyError("missing_required_parameter", f"{param} is missing: it must be {wanted}.", param=param)


def boolean(value: Json, name: str, limits: Limits) -> None:
    """true or false."""
    if type(value) is not bool:
        wrong(name, "true or false", value)


def text(value: Json, name: str, limits: Limits) -> None:
    """A string."""
    if type(value) is not str:
        wrong(name, "a string", value)


def mapping(value: Json, name: str, limits: Limits) -> None:
    """An object."""
    if type(value) is not dict:
        wrong(name, "an object", value)


def array(value: Json, name: str, limits: Limits) -> None:
    """An array."""
    if type(value) is not list:
        wrong(name, "an array", value)


def texts(value: Json, name: str, limits: Limits) -> None:
    """An array of strings."""
    array(value, name, limits)
    for index, one in enumerate(value):
        if type(one) is not str:
            wrong(f"{name}[{index}]", "a string", one)


def text_or_mapping(value: Json, name: str, limits: Limits) -> None:
    """A string, or an object of a later version of the API."""
    if type(value) is not str and type(value) is not dict:
        wrong(name, "a string or an object", value)


def number(lowest: float, highest: float) -> Check:
    """A number within fixed bounds."""

    def check(value: Json, name: str, limits: Limits) -> None:
        if (type(value) is not float and type(value) is not int) or not lowest <= value <= highest:
            wrong(name, f"a number from {lowest:g} to {highest:g}", value)

    return check


def integer(lowest: int, highest: int = 2**63 - 1) -> Check:
    """A whole number within fixed bounds."""
    wanted = f"an integer from {lowest} to {highest}" if highest < 2**53 else f"an integer of at least {lowest}"

    def check(value: Json, name: str, limits: Limits) -> None:
        if type(value) is not int or not lowest <= value <= highest:
            wrong(name, wanted, value)

    return check


def temperature(value: Json, name: str, limits: Limits) -> None:
    """Within the configured range."""
    lowest, highest = limits.temperature
    if (type(value) is not float and type(value) is not int) or not lowest <= value <= highest:
        wrong(name, f"a number from {lowest:g} to {highest:g}", value)


def top_p(value: Json, name: str, limits: Limits) -> None:
    """Within the configured range."""
    lowest, highest = limits.top_p
    if (type(value) is not float and type(value) is not int) or not lowest <= value <= highest:
        wrong(name, f"a number from {lowest:g} to {highest:g}", value)


def output_tokens(lowest: int = 1) -> Check:
    """A bound of the output, within the configured limit."""

    def check(value: Json, name: str, limits: Limits) -> None:
        limit = limits.max_output_tokens
        if type(value) is not int or value < lowest:
            wrong(name, f"an integer of at least {lowest}", value)
        if limit is not None and value > limit:
            wrong(name, f"at most {limit}", value)

    return check


def choices(value: Json, name: str, limits: Limits) -> None:
    """How many answers are asked for."""
    if type(value) is not int or not 1 <= value <= limits.max_choices:
        wrong(name, f"an integer from 1 to {limits.max_choices}", value)


def stop(value: Json, name: str, limits: Limits) -> None:
    """A string or a short array of strings."""
    if type(value) is str:
        return
    if type(value) is not list:
        wrong(name, "a string or an array of strings", value)
    if len(value) > limits.max_stop:
        too_many(name, "entries", len(value), limits.max_stop)
    texts(value, name, limits)


def fields(known: Mapping[str, Check], value: Json, name: str, limits: Limits) -> None:
    """An object whose known fields, where they are there, are right."""
    if type(value) is not dict:
        wrong(name, "an object", value)
    for key, one in value.items():
        check = known.get(key)
        if check is not None and one is not None:
            check(one, f"{name}.{key}", limits)


def of(known: Mapping[str, Check]) -> Check:
    """A check for an object with these fields."""

    def check(value: Json, name: str, limits: Limits) -> None:
        fields(known, value, name, limits)

    return check


def required_text(holder: dict[str, Json], key: str, name: str) -> str:
    """The string ``holder[key]``, which must be there and not empty."""
    value = holder.get(key)
    if value is None:
        missing(f"{name}.{key}", "a string")
    if type(value) is not str or not value:
        wrong(f"{name}.{key}", "a string that is not empty", value)
    return value


def tool_list(one: Check) -> Check:
    """An array of tools, each right and none too many."""

    def check(value: Json, name: str, limits: Limits) -> None:
        if type(value) is not list:
            wrong(name, "an array", value)
        if len(value) > limits.max_tools:
            too_many(name, "entries", len(value), limits.max_tools)
        for index, tool in enumerate(value):
            one(tool, f"{name}[{index}]", limits)

    return check


def parts(value: list[Json], name: str, limits: Limits, known: Mapping[str, Check]) -> int:
    """An array of content parts; types nobody knows pass. Returns the characters of their texts."""
    chars = 0
    for index, part in enumerate(value):
        if type(part) is not dict:
            wrong(f"{name}[{index}]", "an object with a type", part)
        kind = part.get("type")
        if kind is None:
            missing(f"{name}[{index}].type", "a string")
        if type(kind) is not str:
            wrong(f"{name}[{index}].type", "a string", kind)
        check = known.get(kind)
        if check is not None:
            check(part, f"{name}[{index}]", limits)
            said = part.get("text")
            if type(said) is str:
                chars += len(said)
    return chars


def part_with(key: str, inner: Check) -> Check:
    """A content part whose field ``key`` must be there and right."""

    def check(part: Json, name: str, limits: Limits) -> None:
        value = part.get(key)
        if value is None:
            missing(f"{name}.{key}", "given for a part of this type")
        inner(value, f"{name}.{key}", limits)

    return check


def many_inputs(value: Json, name: str, limits: Limits) -> int:
    """A string, an array of strings, token numbers, arrays of token numbers, or objects (images and the like).

    Returns the characters of the strings.
    """
    if type(value) is str:
        return len(value)
    if type(value) is not list or not value:
        wrong(name, "a string, an array of strings, or an array of token numbers", value)
    kinds = set(map(type, value))
    if kinds == {int}:
        return 0
    if len(value) > limits.max_inputs:
        too_many(name, "entries", len(value), limits.max_inputs)
    if kinds == {str}:
        return sum(map(len, value))
    if kinds == {list}:
        for index, one in enumerate(value):
            if set(map(type, one)) != {int}:
                wrong(f"{name}[{index}]", "an array of token numbers that is not empty", one)
        return 0
    first = type(value[0])
    for index, one in enumerate(value):
        if type(one) not in (str, int, list, dict):
            wrong(f"{name}[{index}]", "a string or token numbers", one)
        if type(one) is not first and dict not in kinds:
            wrong(f"{name}[{index}]", "of the same type as the first entry", one)
    return sum(len(one) for one in value if type(one) is str)
