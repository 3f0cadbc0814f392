"""The pages of the admin port, one module a subject; each says what it gives beside the code that gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.admin import cache, config, costs, exchanges, keys, limits, metrics, openapi, upstreams

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.app import App

PAGES: Final = (config, upstreams, keys, limits, costs, cache, exchanges, metrics)


def add_routes(application: web.Application, app: App) -> None:
    """Hang every page, and the document that describes them."""
    for page in PAGES:
        page.add_routes(application, app)
    openapi.add_routes(application, [page.PATHS for page in PAGES])
