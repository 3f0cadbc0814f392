"""``/api/v1/openapi.json``: the admin port described, from what each page says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy import __version__
from proxy.admin.describe import Paths, operation
from proxy.admin.reply import answer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

PATHS: Paths = {
    "/healthz": {
        "get": operation("The process runs.", fields={"status": "string", "version": "string"}, open_to_all=True)
    },
    "/readyz": {
        "get": operation(
            "Ready for calls; 503 while starting, draining, or when a part that calls need is not there.",
            fields={"ready": "boolean", "reasons": "array", "notes": "array"},
            open_to_all=True,
        )
    },
    "/api/v1/openapi.json": {"get": operation("This document.")},
}


def document(pages: Iterable[Paths]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these pages."""
    paths: dict[str, Any] = {}
    for page in pages:
        paths.update(page)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llm-sidecar admin API",
            "version": __version__,
            "description": "What a running proxy knows of itself, and the few things that can be told to it.",
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
        "paths": paths,
    }


def add_routes(application: web.Application, pages: Iterable[Paths]) -> None:
    """Hang the document."""
    made = document([*pages, PATHS])

    async def openapi(request: web.Request) -> web.Response:
        return answer(made)

    application.router.add_get("/api/v1/openapi.json", openapi)
