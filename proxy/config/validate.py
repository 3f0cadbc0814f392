"""A tree of nodes to a typed model, and pydantic's errors to problems with a place.

Values are validated as JSON in strict mode: what YAML says is a text stays a text, while lists still become tuples.
A value from outside the file has no type of its own (`"${PORT}"` is a text to YAML); where its field refuses it, it
is tried once more as what it would mean unquoted, or as the text it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from proxy.config.fields import allowed_at
from proxy.config.problem import Path, Problem, listing, suggest
from proxy.config.source import UNRESOLVED
from proxy.config.tree import Mapping, Node, Scalar, Sequence, follow, place_of, scalars, typed, value_place

M = TypeVar("M", bound=BaseModel)
_TEXT_WANTED = {"string_type", "string_sub_type"}
_SHAPES = {
    "tuple_type": Sequence,
    "list_type": Sequence,
    "set_type": Sequence,
    "frozen_set_type": Sequence,
    "dict_type": Mapping,
    "mapping_type": Mapping,
    "model_type": Mapping,
    "model_attributes_type": Mapping,
    "dataclass_type": Mapping,
}


def validate(
    model: type[M], node: Mapping, at: Path, root: Node, also: tuple[str, ...] = ()
) -> tuple[M | None, list[Problem]]:
    """The model made from `node`, which stands at `at` in `root`; or None and every mistake in it.

    `also` are keys that are allowed there too, but handled elsewhere: they are named when a key is unknown.
    """
    built, errors = _run(model, node)
    if errors and _retype(node, errors):
        built, errors = _run(model, node)
    return built, problems(model, node, errors, at, root, also)


def _run(model: type[M], node: Mapping) -> tuple[M | None, list[Any]]:
    plain = node.plain()
    try:
        return model.model_validate_json(json.dumps(plain), strict=True), []
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    # A model's own "before" validators hand on Python values, of which strict mode refuses lists for tuples.
    if any(_right_shape(node, error) for error in errors):
        try:
            return model.model_validate(plain), []
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
    return None, errors


def _right_shape(node: Mapping, error: Any) -> bool:
    shape = _SHAPES.get(error["type"])
    return shape is not None and isinstance(follow(node, error["loc"])[0], shape)


def _retype(node: Mapping, errors: Iterable[Any]) -> bool:
    """Give values from outside another type where theirs was refused; whether any was changed."""
    changed = False
    for error in errors:
        found, reached = follow(node, error["loc"])
        if isinstance(found, Scalar):
            if found.loose and found.value != UNRESOLVED:
                other = found.text if error["type"] in _TEXT_WANTED else typed(found.text)
                changed = changed or type(other) is not type(found.value)
                found.value = other
        elif error["type"] in _TEXT_WANTED and found.text is not None and reached:
            above = follow(node, reached[:-1])[0]
            text = Scalar(found.text, found.text, found.place, loose=True)
            if isinstance(above, Mapping):
                above.items[str(reached[-1])] = text
            elif isinstance(above, Sequence):
                above.items[int(reached[-1])] = text
            changed = True
    return changed


def problems(
    model: type[BaseModel], node: Mapping, errors: list[Any], at: Path, root: Node, also: tuple[str, ...] = ()
) -> list[Problem]:
    """The errors as problems, one for each place."""
    found: dict[Path, Problem] = {}
    for error in errors:
        loc: Path = tuple(error["loc"])
        here, reached = follow(node, loc)
        missing, unknown = error["type"] == "missing", error["type"] == "extra_forbidden"
        if not missing and not unknown and _unresolved(here):
            continue
        if _counted_short(error, here):
            continue
        if missing:
            reached = (*reached, loc[-1])
        path = (*at, *reached)
        if unknown:
            known = allowed_at(model, loc[:-1]) + list(also if len(loc) == 1 else ())
            message = unknown_key(str(loc[-1]), known)
        else:
            message = say(error, here)
        place = place_of(root, path) if unknown else value_place(root, path)
        found.setdefault(reached, Problem.at(place, path, message))
    return list(found.values())


def _counted_short(error: Any, node: Node) -> bool:
    """Whether a list only counts as too short because entries in it are wrong, which is reported by itself."""
    least = (error.get("ctx") or {}).get("min_length", 0)
    return error["type"] == "too_short" and not isinstance(node, Scalar) and len(node.items) >= least


def _unresolved(node: Node) -> bool:
    return any(scalar.value == UNRESOLVED for scalar in scalars(node))


def unknown_key(key: str, known: list[str]) -> str:
    return f'unknown key "{key[:60]}"{suggest(key, known)}; allowed: {listing(known)}'


_LIMITS = {
    "greater_than": ("gt", "must be greater than {}"),
    "greater_than_equal": ("ge", "must be at least {}"),
    "less_than": ("lt", "must be less than {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "string_pattern_mismatch": ("pattern", "does not have the form {}"),
    "string_too_long": ("max_length", "must have at most {} characters"),
    "multiple_of": ("multiple_of", "must be a multiple of {}"),
}
_WANTED = {
    "missing": "is required",
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be a text",
    "list": "must be a list",
    "tuple": "must be a list",
    "set": "must be a list",
    "frozen": "must be a list",
    "dict": "must be a map (key: value)",
    "mapping": "must be a map (key: value)",
    "model": "must be a map (key: value)",
    "dataclass": "must be a map (key: value)",
}


def say(error: Any, node: Node) -> str:
    """One error in plain words: what was wrong and what is allowed. Values are shown where a choice of words was."""
    kind = str(error["type"])
    context = error.get("ctx") or {}
    if kind in {"literal_error", "enum"}:
        return _choice(str(context.get("expected", "")), node)
    if kind in _LIMITS:
        key, form = _LIMITS[kind]
        limit = context.get(key)
        return form.format(f"{limit:g}" if isinstance(limit, float) else limit)
    if kind.endswith("too_short"):
        least = context.get("min_length", 1)
        what = "characters" if kind.startswith("string") else "entries"
        return "must not be empty" if least == 1 else f"must have at least {least} {what}"
    if kind.endswith("too_long"):
        return f"must have at most {context.get('max_length')} entries"
    wanted = _WANTED.get(kind) or (_WANTED.get(kind.partition("_")[0]) if kind.endswith(_SHAPE_ENDS) else None)
    if wanted is not None:
        return wanted if kind == "missing" else f"{wanted}, not {shape(node)}{_hint(wanted, node)}"
    return _own_words(error, node)


_SHAPE_ENDS = ("_type", "_parsing", "_from_float", "_sub_type", "_size")


def _choice(expected: str, node: Node) -> str:
    words = [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(",") if word.strip()]
    said = f"must be one of {', '.join(words)}" if len(words) > 1 else f"must be {expected}"
    if not isinstance(node, Scalar):
        return f"{said}, not {shape(node)}"
    if node.origin is not None:
        return f"{said}, not what {node.origin} brought in"
    return f'{said}, not "{node.text[:60]}"{suggest(node.text, words)}'


def shape(node: Node) -> str:
    """What kind of value this is, in words that do not show it."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "a map"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return "true or false"
    return {int: "a whole number", float: "a number with a fraction"}.get(type(node.value), "a text")


def _hint(wanted: str, node: Node) -> str:
    if wanted == _WANTED["string"] and isinstance(node, Scalar) and node.value is not None:
        return ": put it in quotes"
    if wanted == _WANTED["bool"] and isinstance(node, Scalar) and node.origin is None:
        meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}
        said = node.text.lower()
        word = meant.get(said) or (said if said in {"true", "false"} else None)
        return f"; did you mean {word}?" if word else ""
    if wanted in {_WANTED["int"], _WANTED["float"]} and isinstance(node, Scalar) and isinstance(node.value, str):
        if node.origin is not None:
            return ""
        return ": take off the quotes" if not isinstance(typed(node.text), str | bool | None) else ""
    return ""


def _own_words(error: Any, node: Node) -> str:
    """A validator's own message, without any value that came from outside the file."""
    context = error.get("ctx") or {}
    raised = context.get("error")
    message = str(raised) if raised is not None else str(error["msg"])
    for scalar in scalars(node):
        if scalar.origin is None:
            continue
        if "shown" in context:
            message = message.replace(str(context["shown"]), f"what {scalar.origin} brought in")
        # Messages of kind "config" are this package's own and quote nothing but `shown`.
        if error["type"] != "config" and _shares(message, scalar.text):
            return f"what {scalar.origin} brought in is not allowed here"
    return message[:500]


def _shares(message: str, secret: str) -> bool:
    """Whether a message quotes a part of a secret: validators may cut what they quote, or change its case."""
    message, secret = message.casefold(), secret.casefold()
    width = min(4, len(secret))
    return width > 0 and any(
        secret[start : start + width] in message for start in range(min(len(secret), 4096) - width + 1)
    )
