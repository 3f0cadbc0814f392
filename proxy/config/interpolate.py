"""`${...}` in values.

    ${NAME}             the environment variable NAME; it must be set
    ${NAME:-default}    NAME, or the default when NAME is unset or empty; the default may hold ${...} itself
    ${file:/path}       the content of a file, without the line end at its end; relative to the YAML file
    ${encrypted:TOKEN}  a secret encrypted with the master key (`llm-sidecar keys encrypt`)
    ${set:NAME}         true when NAME is set and not empty, else false; ${unset:NAME} is its opposite
    $$                  a dollar sign

What a reference brings in is text and is never interpolated again, so a secret may hold any character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxy.config import secrets
from proxy.config.problem import suggest
from proxy.config.secrets import SecretError

Function = Callable[[str, "Context"], str]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CALL = re.compile(r"([a-z]+):(.*)", re.DOTALL)
_DEFAULT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*):-(.*)", re.DOTALL)
MAX_RESULT = 1024 * 1024


class InterpolationError(ValueError):
    """A reference that cannot be followed. The message names the reference, never what it brought in."""


@dataclass
class Context:
    """What references are resolved against. `folder` is that of the YAML file; `files` collects what was read."""

    env: Mapping[str, str]
    folder: Path = field(default_factory=Path)
    files: dict[Path, None] = field(default_factory=dict)
    functions: Mapping[str, Function] = field(default_factory=lambda: FUNCTIONS)


@dataclass(frozen=True, slots=True)
class Result:
    """`text` after interpolation; `outside` when a part of it came from outside the file and must not be shown."""

    text: str
    outside: bool


def _file(argument: str, context: Context) -> str:
    if not argument:
        raise InterpolationError("${file:...} needs a path")
    path = context.folder / Path(argument).expanduser()
    text = secrets.read_small(path)
    context.files[path] = None
    return text.removesuffix("\n").removesuffix("\r")


def _encrypted(argument: str, context: Context) -> str:
    return secrets.decrypt(argument, secrets.master_keys(context.env))


def _is_set(argument: str, context: Context) -> str:
    if not _NAME.fullmatch(argument):
        raise InterpolationError("${set:NAME} needs the name of an environment variable")
    return "true" if context.env.get(argument) else "false"


def _is_unset(argument: str, context: Context) -> str:
    if not _NAME.fullmatch(argument):
        raise InterpolationError("${unset:NAME} needs the name of an environment variable")
    return "false" if context.env.get(argument) else "true"


FUNCTIONS: dict[str, Function] = {"encrypted": _encrypted, "file": _file, "set": _is_set, "unset": _is_unset}
_SHOWABLE = {"set", "unset"}


def interpolate(text: str, context: Context) -> Result:
    """Follow every reference in `text`. Raises `InterpolationError`; the message names no value."""
    parts: list[str] = []
    outside = False
    position = 0
    length = 0
    while True:
        start = text.find("$", position)
        if start < 0:
            parts.append(text[position:])
            break
        parts.append(text[position:start])
        if text.startswith("$$", start):
            parts.append("$")
            position = start + 2
        elif text.startswith("${", start):
            end = _closing(text, start + 2)
            found = _follow(text[start + 2 : end], context)
            parts.append(found.text)
            outside = outside or found.outside
            position = end + 1
        else:
            parts.append("$")
            position = start + 1
        length += len(parts[-1])
        if length > MAX_RESULT:
            raise InterpolationError("the references bring in more than 1 MiB")
    return Result("".join(parts), outside)


def _closing(text: str, start: int) -> int:
    """Where the reference that began before `start` ends; references inside it are counted."""
    depth = 1
    for index in range(start, len(text)):
        if text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
        elif text[index] == "{" and text[index - 1] == "$":
            depth += 1
            if depth > 8:
                raise InterpolationError("references stand more than 8 deep in one another")
    raise InterpolationError("${ without its closing }; write $$ for a dollar sign")


def _follow(reference: str, context: Context) -> Result:
    if _NAME.fullmatch(reference):
        return Result(_variable(reference, context), outside=True)
    with_default = _DEFAULT.fullmatch(reference)
    if with_default:
        value = context.env.get(with_default[1])
        if value:
            return Result(_text(value, with_default[1]), outside=True)
        return interpolate(with_default[2], context)
    call = _CALL.fullmatch(reference)
    if call is None:
        raise InterpolationError(
            f"${{{reference[:60]}}} is no reference: allowed are ${{NAME}}, ${{NAME:-default}}, "
            + ", ".join(f"${{{name}:...}}" for name in sorted(context.functions))
            + " and $$ for a dollar sign"
        )
    name, argument = call[1], call[2]
    function = context.functions.get(name)
    if function is None:
        known = ", ".join(sorted(context.functions))
        raise InterpolationError(
            f"${{{name}:...}}: there is no function {name}; allowed: {known}{suggest(name, context.functions)}"
        )
    try:
        return Result(_text(function(argument, context), f"{name}:..."), outside=name not in _SHOWABLE)
    except SecretError as error:
        raise InterpolationError(f"${{{name}:...}}: {error}") from None


def _variable(name: str, context: Context) -> str:
    value = context.env.get(name)
    if value is None:
        raise InterpolationError(
            f"the environment variable {name} is not set: set it, or give a default with ${{{name}:-default}}"
            + suggest(name, context.env)
        )
    return _text(value, name)


def _text(value: str, source: str) -> str:
    # Bytes of the environment that are not UTF-8 arrive as lone surrogates, which no later step could write out.
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InterpolationError(f"${{{source}}} is not UTF-8 text")
    return value
