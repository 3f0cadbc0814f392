"""The admin port: an aiohttp application of its own, away from the calls.

Health and metrics need no token; everything else needs ``admin.token`` when one is set, and it has to be set off
loopback. Host and Origin are checked as on the data port, so that no web page can read or change anything here.
"""

from __future__ import annotations

import hmac
import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxy import __version__
from proxy.admin.reply import BadQueryError, answer, refused
from proxy.browser import Hosts
from proxy.errors import ProxyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.app import App
    from proxy.config.server import Admin as AdminConfig

log = logging.getLogger("llm_sidecar.admin")

_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})


class Admin:
    """The admin port of one process."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.use(app.config.admin)
        self._runner: web.AppRunner | None = None

    def use(self, config: AdminConfig) -> None:
        """Take over the token and the host names; where it listens stays."""
        self._token = config.token.get_secret_value().encode() if config.token is not None else None
        self._hosts = Hosts(config.host, config.hosts)

    def _application(self) -> web.Application:
        from proxy.admin import api  # noqa: PLC0415 - kept beside its only user

        application = web.Application(middlewares=[self._guard()])
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/readyz", self._ready)
        api.add_routes(application, self.app)
        return application

    def _guard(self) -> Any:
        @web.middleware
        async def guard(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            try:
                self._hosts.check(request.headers.get("host"))
            except ProxyError as error:
                return refused(403, error.message)
            origin = request.headers.get("origin")
            if origin is not None and origin != f"{request.scheme}://{request.host}":
                return refused(403, "calls from other web pages are not allowed")
            if self._token is not None and request.path not in _OPEN:
                scheme, _, said = request.headers.get("authorization", "").partition(" ")
                if scheme.lower() != "bearer" or not hmac.compare_digest(said.strip().encode(), self._token):
                    return refused(401, "the admin port needs `Authorization: Bearer` with admin.token")
            try:
                return await handler(request)
            except BadQueryError as bad:
                return refused(400, str(bad), param=bad.param)
            except web.HTTPException as missed:
                if missed.status < 400:
                    raise
                page = refused(missed.status, f"{request.method} {request.path[:200]}: {missed.reason}")
                if "Allow" in missed.headers:
                    page.headers["Allow"] = missed.headers["Allow"]
                return page
            except ConnectionError:
                raise
            except Exception as error:
                log.exception("a page of the admin port failed", extra={"path": request.path[:200]})
                return refused(500, f"the page failed ({type(error).__name__}); the log says where")

        return guard

    async def start(self) -> str:
        """Listen. Returns the URL. Raises OSError."""
        config = self.app.config.admin
        self._runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=1.0
        )
        await self._runner.setup()
        context = None
        if config.tls is not None:
            import ssl  # noqa: PLC0415 - only for TLS

            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(config.tls.cert, config.tls.key)
        site = web.TCPSite(self._runner, config.host, config.port, ssl_context=context)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        scheme = "http" if context is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return answer({"status": "ok", "version": __version__})

    async def _ready(self, request: web.Request) -> web.Response:
        app = self.app
        notes: list[str] = []
        reasons = [] if app.ready else ["draining" if app.draining else "starting"]
        if app.snapshot is not None:
            for part in app.snapshot.services.made().values():
                unready = getattr(part, "unready", None)
                if unready is not None:
                    reason = unready()
                    if reason is not None:
                        reasons.append(reason)
            books = app.snapshot.services.made().get("accounting")
            if books is not None and books.store is not None:
                notes = [f"{part}: {trouble}" for part, trouble in books.store.troubles().items()]
                if books.store.journal.refusing:
                    reasons.append("the journal has no room, and account.on_full is refuse")
        return answer({"ready": not reasons, "reasons": reasons, "notes": notes}, 503 if reasons else 200)
