"""OpenAPI descriptions in few words: each page says what it takes and gives beside the code that does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["ERROR", "Paths", "operation"]

Paths = Mapping[str, Mapping[str, Any]]
"""Path -> method -> operation, as OpenAPI has it."""

Fields = Mapping[str, str]
"""Name -> type: ``string``, ``number``, ``integer``, ``boolean``, ``object``, ``array``; with ``?`` it may be null."""

ERROR: Final = {
    "type": "object",
    "properties": {"error": {"type": "object", "properties": {"message": {"type": "string"}}}},
    "required": ["error"],
}


def operation(
    summary: str,
    *,
    fields: Fields | None = None,
    many: bool = False,
    query: Sequence[tuple[str, str]] = (),
    path: Sequence[tuple[str, str]] = (),
    body: Fields | None = None,
    media: Mapping[str, str] | None = None,
    errors: Mapping[int, str] | None = None,
    open_to_all: bool = False,
) -> dict[str, Any]:
    """One operation. fields: of the answer, or of each element when it is a list (``many``); None: an open object.

    query, path, body: what it takes. media: further media types of the answer and what they hold. open_to_all: without
    the admin token.
    """
    schema: dict[str, Any] = {"type": "object"} if fields is None else _object(fields)
    content: dict[str, Any] = {"application/json": {"schema": {"type": "array", "items": schema} if many else schema}}
    if media is not None:
        content |= {kind: {"schema": {"type": "string", "description": text}} for kind, text in media.items()}
    parameters = [_parameter(name, text, "path") for name, text in path]
    parameters += [_parameter(name, text, "query") for name, text in query]
    made: dict[str, Any] = {"summary": summary, "responses": {"200": {"description": "Done.", "content": content}}}
    if parameters:
        made["parameters"] = parameters
    if body is not None:
        made["requestBody"] = {"content": {"application/json": {"schema": _object(body)}}}
    for status, text in (errors or {}).items():
        made["responses"][str(status)] = {"description": text, "content": {"application/json": {"schema": ERROR}}}
    if open_to_all:
        made["security"] = []
    return made


def _parameter(name: str, text: str, place: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "description": text, "schema": {"type": "string"}}


def _object(fields: Fields) -> dict[str, Any]:
    return {"type": "object", "properties": {name: _typed(kind) for name, kind in fields.items()}}


def _typed(kind: str) -> dict[str, Any]:
    return {"type": [kind[:-1], "null"]} if kind.endswith("?") else {"type": kind}
