"""What the pages of the admin port answer with."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

__all__ = ["BadQueryError", "answer", "number", "refused"]


class BadQueryError(Exception):
    """A parameter that cannot be read: name and what is allowed."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param} {message}")
        self.param = param


def answer(data: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(data, default=str), status=status, content_type="application/json")


def refused(status: int, message: str, *, param: str | None = None) -> web.Response:
    """An error in the shape that the data port uses, too."""
    return answer({"error": {"message": message, "type": "admin", "param": param, "code": None}}, status)


def number(request: web.Request, name: str, default: int, most: int) -> int:
    """A count from the query, between 0 and ``most``. Raises BadQueryError."""
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9:
        raise BadQueryError(name, "must be a whole number")
    return min(int(text), most)
