"""``/api/v1/upstreams`` and ``/api/v1/breakers``: is it there, how well does it answer, is its circuit open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.admin.describe import Paths, operation
from proxy.admin.reply import answer

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.app import App

PATHS: Paths = {
    "/api/v1/upstreams": {
        "get": operation(
            "Every upstream: reachable, latency, success rate, availability of the configured models, connections. "
            "Without `health:` only real calls tell, and reachable is null.",
            fields={
                "name": "string",
                "api": "string",
                "base_url": "string?",
                "health": "object?",
                "reachable": "boolean?",
                "since": "number?",
                "checked_at": "number?",
                "status": "integer?",
                "reason": "string",
                "latency": "number?",
                "latency_average": "number?",
                "success_rate": "number?",
                "models": "object?",
                "requests": "integer",
                "failures": "integer",
                "connections": "object",
            },
            many=True,
        )
    },
    "/api/v1/breakers": {
        "get": operation(
            "Every circuit breaker that has seen a call; those that are not closed come first.",
            fields={
                "name": "string",
                "per": "string",
                "upstream": "string",
                "model": "string?",
                "key": "string?",
                "state": "string",
                "since": "number",
                "reason": "string",
                "retry_after": "number?",
                "failures_in_a_row": "integer",
                "window": "object?",
                "probes_running": "integer",
                "settings": "object",
                "history": "array",
            },
            many=True,
        )
    },
}


def add_routes(application: web.Application, app: App) -> None:
    """Hang the pages."""

    async def upstreams(request: web.Request) -> web.Response:
        assert app.snapshot is not None
        return answer(app.snapshot.services.get("health").snapshot())

    async def breakers(request: web.Request) -> web.Response:
        assert app.snapshot is not None
        table = app.snapshot.services.made().get("breakers")
        return answer([] if table is None else table.snapshot())

    application.router.add_get("/api/v1/upstreams", upstreams)
    application.router.add_get("/api/v1/breakers", breakers)
