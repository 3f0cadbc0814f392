"""``/api/v1/config``: what is configured, without secrets; ``POST /api/v1/reload``; ``/api/v1/alerts``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy import __version__
from proxy.admin.describe import Paths, operation
from proxy.admin.reply import answer, number

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.app import App

PATHS: Paths = {
    "/api/v1/config": {
        "get": operation(
            "The configuration in use, with its defaults; secrets as they are written, never their value.",
            fields={
                "version": "string",
                "generation": "integer",
                "loaded": "number",
                "files": "array",
                "warnings": "array",
                "retiring": "integer",
                "last_reload": "object?",
                "config": "object",
            },
        )
    },
    "/api/v1/reload": {
        "post": operation(
            "Read the files again and take them over: all or nothing. 409: nothing was, and why.",
            fields={"ok": "boolean", "generation": "integer", "problems": "array", "warnings": "array"},
            errors={409: "The files hold mistakes, or a change that needs a restart."},
        )
    },
    "/api/v1/alerts": {
        "get": operation(
            "What went wrong lately, newest first: each warning and error once, with its count.",
            fields={
                "first": "number",
                "last": "number",
                "count": "integer",
                "severity": "string",
                "logger": "string",
                "text": "string",
                "about": "object",
            },
            many=True,
            query=(("limit", "How many; 200 at most."),),
        )
    },
}


def add_routes(application: web.Application, app: App) -> None:
    """Hang the pages."""

    async def config(request: web.Request) -> web.Response:
        reloader = app.reloader
        return answer(
            {
                "version": __version__,
                "generation": reloader.generation,
                "loaded": reloader.at,
                "files": [str(file) for file in app.loaded.sources],
                "warnings": [str(warning) for warning in app.warnings],
                "retiring": len(reloader.retiring),
                "last_reload": None if reloader.last is None else _shown(reloader.last),
                "config": app.loaded.shown(),
            }
        )

    async def reload(request: web.Request) -> web.Response:
        # Who asked may leave; what was begun is finished all the same.
        done = await asyncio.shield(asyncio.ensure_future(app.reload("POST /api/v1/reload")))
        if done.ok:
            return answer(_shown(done))
        error = {"message": "; ".join(done.problems), "type": "admin", "param": None, "code": None}
        return answer(_shown(done) | {"error": error}, 409)

    async def alerts(request: web.Request) -> web.Response:
        return answer(app.alarms.latest(number(request, "limit", 200, 200)))

    application.router.add_get("/api/v1/config", config)
    application.router.add_post("/api/v1/reload", reload)
    application.router.add_get("/api/v1/alerts", alerts)


def _shown(done: object) -> dict[str, object]:
    from dataclasses import asdict  # noqa: PLC0415 - rare

    return asdict(done)  # type: ignore[call-overload,no-any-return]
