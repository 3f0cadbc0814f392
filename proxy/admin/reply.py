"""What the pages of the admin port answer with."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

__all__ = ["answer", "number", "refused"]


def answer(data: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(data, default=str), status=status, content_type="application/json")


def refused(status: int, message: str, *, param: str | None = None) -> web.Response:
    """An error in the shape that the data port uses, too."""
    return answer({"error": {"message": message, "type": "admin", "param": param, "code": None}}, status)


def number(request: web.Request, name: str, default: int, most: int) -> int:
    """A count from the query, between 0 and ``most``. Raises HTTPBadRequest."""
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9:
        raise web.HTTPBadRequest(
            body=refused(400, f"{name} must be a whole number", param=name).body, content_type="application/json"
        )
    return min(int(text), most)
