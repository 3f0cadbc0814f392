"""Values with units: durations, sizes and ratios, as types for configuration models.

A bare number is refused for a duration or a size: `timeout: 30` has been read as seconds by some and as milliseconds
by others once too often. Only 0 needs no unit.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
BYTES = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
MAX_SECONDS = 100 * 366 * 86400.0
MAX_BYTES = 2**60

_DURATION_PART = r"[0-9]{1,15}(?:\.[0-9]{1,15})?(?:ms|s|m|h|d|w)"
_DURATION = re.compile(rf"(?:{_DURATION_PART})+")
_DURATION_PARTS = re.compile(r"([0-9.]+)(ms|s|m|h|d|w)")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(" + "|".join(BYTES) + ")")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,15})?) ?%")

DURATION_FORM = "a number with a unit, such as 250ms, 5s, 10m, 1h or 7d"
SIZE_FORM = "a number with a unit, such as 512KiB, 64MiB or 1MB"
RATIO_FORM = "a number from 0 to 1 or a percentage, such as 0.2 or 20%"


def _refuse(value: object, what: str, form: str) -> PydanticCustomError:
    if isinstance(value, bool) or value is None:
        shown = {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, int | float):
        # The unit is what is missing: show the same number with one.
        shown = f"the bare number {value:g}" if isinstance(value, float) else f"the bare number {str(value)[:20]}"
    elif isinstance(value, str):
        shown = f'"{value[:40]}"'
    else:
        shown = "a list" if isinstance(value, list | tuple) else "a map"
    return PydanticCustomError("config", f"must be {what}: {form}, not {{shown}}", {"shown": shown})


def parse_duration(value: object) -> float:
    """Seconds from `250ms`, `5s`, `1h30m`, or 0. Raises `PydanticCustomError` (a `ValueError`) with the right form."""
    if value == 0 and not isinstance(value, bool):
        return 0.0
    if isinstance(value, str) and _DURATION.fullmatch(value):
        # One multiplication a part keeps 0.1s at exactly 0.1.
        seconds = sum(float(number) * SECONDS[unit] for number, unit in _DURATION_PARTS.findall(value))
        if seconds <= MAX_SECONDS:
            return seconds
    raise _refuse(value, "a duration", DURATION_FORM)


def parse_size(value: object) -> int:
    """Bytes from `512KiB`, `64MiB`, `1.5MB`, or 0. Raises `PydanticCustomError`, a `ValueError`, with the form."""
    if value == 0 and not isinstance(value, bool):
        return 0
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found:
        size = round(float(found[1]) * BYTES[found[2]])
        if size <= MAX_BYTES:
            return size
    raise _refuse(value, "a size", SIZE_FORM)


def parse_ratio(value: object) -> float:
    """A share from 0 to 1, given as such or as a percentage. Raises `PydanticCustomError` with the right form."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if found and float(found[1]) <= 100:
        return float(found[1]) / 100
    raise _refuse(value, "a ratio", RATIO_FORM)


def show_duration(seconds: float) -> str:
    """The shortest form that `parse_duration` reads back: 90.0 is `90s`, 3600.0 is `1h`."""
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % SECONDS[unit] == 0 and (unit != "m" or seconds >= 120):
            return f"{int(seconds / SECONDS[unit])}{unit}"
    return f"{seconds * 1000:.12g}ms" if seconds else "0s"


def show_size(size: int) -> str:
    """The shortest form that `parse_size` reads back: 67108864 is `64MiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % BYTES[unit] == 0:
            return f"{size // BYTES[unit]}{unit}"
    return f"{size}B"


def _is_none(value: object) -> bool:
    return value is None or value == "none"


def _duration_or_none(value: object) -> float | None:
    try:
        return None if _is_none(value) else parse_duration(value)
    except PydanticCustomError:
        raise _refuse(value, "a duration or none", DURATION_FORM) from None


def _size_or_none(value: object) -> int | None:
    try:
        return None if _is_none(value) else parse_size(value)
    except PydanticCustomError:
        raise _refuse(value, "a size or none", SIZE_FORM) from None


_DURATION_PATTERN = rf"^(({_DURATION_PART})+|0)$".replace("(?:", "(")
_SIZE_PATTERN = r"^([0-9]+(\.[0-9]+)? ?(" + "|".join(BYTES) + ")|0)$"


def _schema(pattern: str, example: str, *, none: bool) -> dict[str, Any]:
    forms: list[dict[str, Any]] = [{"type": "string", "pattern": pattern, "examples": [example]}, {"const": 0}]
    if none:
        forms.append({"enum": ["none", None]})
    return {"anyOf": forms}


Duration = Annotated[
    float, BeforeValidator(parse_duration), WithJsonSchema(_schema(_DURATION_PATTERN, "30s", none=False))
]
"""Seconds as a float."""

DurationOrNone = Annotated[
    float | None, BeforeValidator(_duration_or_none), WithJsonSchema(_schema(_DURATION_PATTERN, "30s", none=True))
]
"""Seconds as a float, or None for the word `none`: no bound."""

Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(_schema(_SIZE_PATTERN, "64MiB", none=False))]
"""Bytes as an int."""

SizeOrNone = Annotated[
    int | None, BeforeValidator(_size_or_none), WithJsonSchema(_schema(_SIZE_PATTERN, "64MiB", none=True))
]
"""Bytes as an int, or None for the word `none`: no bound."""

Ratio = Annotated[
    float,
    BeforeValidator(parse_ratio),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": r"^[0-9]{1,3}(\.[0-9]+)? ?%$", "examples": ["20%"]},
            ]
        }
    ),
]
"""A share from 0 to 1; `20%` is 0.2."""

PositiveDuration = Annotated[Duration, Field(gt=0)]
PositiveSize = Annotated[Size, Field(gt=0)]
