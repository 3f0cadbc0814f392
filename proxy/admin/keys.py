"""``/api/v1/keys``: each provider key by id, with its use, its limits and its state; switched on and off at once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.admin.describe import Paths, operation
from proxy.admin.reply import answer, refused

if TYPE_CHECKING:
    from proxy.app import App

log = logging.getLogger("llm_sidecar.admin")

_FIELDS = {
    "pool": "string", "id": "string", "upstream": "string?", "tier": "string", "priority": "integer",
    "enabled": "boolean", "state": "string", "why": "string", "returns_in": "number?", "cooling_models": "object",
    "requests": "integer", "success_rate": "number?", "latency": "number?", "rpm": "number", "max_rpm": "integer?",
    "tpm": "number", "max_tpm": "integer?", "in_flight": "integer", "max_concurrent": "integer?",
    "task_types": "array", "tasks": "object", "last_used": "number?", "shared": "boolean",
}  # fmt: skip
_ID = (("id", "The key's id, never its secret."),)
_UNKNOWN = {404: "There is no such key."}

PATHS: Paths = {
    "/api/v1/keys": {"get": operation("Every provider key: use, limits, state.", fields=_FIELDS, many=True)},
    "/api/v1/keys/{id}/enable": {
        "post": operation(
            "Use a key again, at once; ends its cooldowns.",
            fields=_FIELDS,
            path=_ID,
            errors={**_UNKNOWN, 409: "The key has no secret."},
        )
    },
    "/api/v1/keys/{id}/disable": {
        "post": operation("Use a key no more, at once and on every replica.", fields=_FIELDS, path=_ID, errors=_UNKNOWN)
    },
}


def add_routes(application: web.Application, app: App) -> None:
    """Hang the pages."""

    async def keys(request: web.Request) -> web.Response:
        assert app.snapshot is not None
        rings = app.snapshot.services.made().get("keys")
        return answer([] if rings is None else rings.snapshot())

    def switch(request: web.Request, *, on: bool) -> web.Response:
        name = request.match_info["id"]
        assert app.snapshot is not None
        rings = app.snapshot.services.made().get("keys")
        key = None if rings is None else rings.key(name)
        if on and key is not None and not key.reveal():
            return refused(409, f"the key {name!r} has no secret: give it one in the configuration, then reload")
        known = False
        for snapshot in app.snapshots:  # calls that began before a reload choose from the rings of then
            rings = snapshot.services.made().get("keys")
            known = (rings is not None and rings.switch(name, on=on)) or known
        if not known:
            return refused(404, f"there is no key {name[:100]!r}; GET /api/v1/keys lists those that are used")
        log.warning("key switched by hand", extra={"key": name, "enabled": on})
        rings = app.snapshot.services.made().get("keys")
        shown = [] if rings is None else rings.snapshot()
        return answer(next((key for key in shown if key["id"] == name), {"id": name, "enabled": on}))

    async def enable(request: web.Request) -> web.Response:
        return switch(request, on=True)

    async def disable(request: web.Request) -> web.Response:
        return switch(request, on=False)

    application.router.add_get("/api/v1/keys", keys)
    application.router.add_post("/api/v1/keys/{id}/enable", enable)
    application.router.add_post("/api/v1/keys/{id}/disable", disable)
