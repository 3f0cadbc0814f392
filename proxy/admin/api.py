"""The JSON API of the admin port: one small function a page, each a picture of one part of the running process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxy.admin.app import answer

if TYPE_CHECKING:
    from proxy.app import App


def add_routes(application: web.Application, app: App) -> None:
    """Hang the pages under ``/api/v1``."""

    async def config(request: web.Request) -> web.Response:
        return answer(app.loaded.shown())

    async def upstreams(request: web.Request) -> web.Response:
        assert app.snapshot is not None
        return answer(app.snapshot.services.get("health").snapshot())

    async def breakers(request: web.Request) -> web.Response:
        assert app.snapshot is not None
        made = app.snapshot.services.made().get("breakers")
        return answer([] if made is None else made.snapshot())

    async def exchanges(request: web.Request) -> web.Response:
        assert app.snapshot is not None
        return answer([_exchange(exchange) for exchange in app.snapshot.in_flight])

    application.router.add_get("/api/v1/config", config)
    application.router.add_get("/api/v1/upstreams", upstreams)
    application.router.add_get("/api/v1/breakers", breakers)
    application.router.add_get("/api/v1/exchanges", exchanges)


def _exchange(exchange: Any) -> dict[str, Any]:
    return {
        "id": exchange.id,
        "route": exchange.route_name,
        "chain": exchange.chain_name,
        "principal": exchange.principal.id,
        "model": exchange.model_known,
        "upstream": exchange.target.upstream,
        "started": exchange.started_wall,
        "committed": exchange.committed,
    }
