"""The admin port of several workers.

``/healthz`` and ``/readyz`` are answered here. Everything else is asked of the workers, with the client's own headers:
they check Host, Origin and token as ever, and the first refusal is the answer. A GET is asked of all and merged (see
``merge``), ``?worker=N`` asks one; what changes something is told to all, and the first one's answer given, but for
how many entries were cleared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson
from aiohttp import web
from multidict import CIMultiDict

from proxy import __version__
from proxy.browser import Hosts
from proxy.errors import ProxyError
from proxy.workers import key_rows, merge

if TYPE_CHECKING:
    from proxy.workers.supervisor import Member, Supervisor

log = logging.getLogger("llm_sidecar.workers")

_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length", "expect"})
_OF_ALL: Final = {"budgets": merge.budgets, "keys": key_rows.merged}
"""Pages below ``/api/v1`` whose rows stand for all workers."""
_PATIENCE: Final = 30.0
"""Seconds for a worker to begin its answer; one that does not is left out of a merged page."""


class WholeAdmin:
    """Listens on ``admin`` for all workers."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        config = supervisor.config.admin
        self._hosts = Hosts(config.host, config.hosts)
        self._secure = config.tls is not None
        self._runner: web.AppRunner | None = None
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def start(self) -> str:
        """Listen. Returns the URL. Raises OSError."""
        config = self._supervisor.config.admin
        application = web.Application(client_max_size=16 * 1024**2)
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/readyz", self._ready)
        application.router.add_route("*", "/{rest:.*}", self._ask)
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=1.0, handler_cancellation=True
        )
        await self._runner.setup()
        context = None
        if config.tls is not None:
            import ssl  # noqa: PLC0415 - only for TLS

            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(config.tls.cert, config.tls.key)
        await web.TCPSite(self._runner, config.host, config.port, ssl_context=context).start()
        host, port = self._runner.addresses[0][:2]
        scheme = "https" if self._secure else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()
        for session in self._sessions.values():
            await session.close()

    def forget(self, path: str) -> None:
        """A worker is gone, and its socket with it."""
        session = self._sessions.pop(path, None)
        if session is not None:
            task = asyncio.get_running_loop().create_task(session.close())
            self._supervisor.keep(task)

    # --- answered here -----------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:
        whole = self._supervisor
        return self._own(
            request,
            {"status": "ok", "version": __version__, "workers": whole.count, "running": len(whole.ready_members)},
        )

    async def _ready(self, request: web.Request) -> web.Response:
        """Ready: all workers were, once, and at least one is now."""
        whole = self._supervisor
        reasons: list[str] = []
        if whole.draining:
            reasons.append("draining")
        elif not whole.started:
            reasons.append("starting")
        members = whole.ready_members
        ready = 0
        if not reasons:
            said = await asyncio.gather(*(self._fetch(member, "/readyz") for member in members))
            for member, page in zip(members, said, strict=True):
                if page is None:
                    reasons.append(f"worker {member.number}: no answer")
                elif page.get("ready"):
                    ready += 1
                else:
                    reasons.extend(f"worker {member.number}: {reason}" for reason in page.get("reasons", ()))
            if len(members) < whole.count:
                reasons.append(f"{whole.count - len(members)} of {whole.count} workers are being started")
        return self._own(request, {"ready": ready > 0, "reasons": reasons, "workers": ready}, 200 if ready else 503)

    def _own(self, request: web.Request, page: Any, status: int = 200) -> web.Response:
        try:
            self._hosts.check(request.headers.get("host"))
        except ProxyError as error:
            page, status = {"error": {"message": error.message, "type": "admin", "param": None, "code": None}}, 403
        return web.Response(body=orjson.dumps(page), status=status, content_type="application/json")

    async def _fetch(self, member: Member, path: str) -> Any:
        try:
            async with self._session(member).get(f"http://localhost{path}") as answer:
                return orjson.loads(await answer.read())
        except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError):
            return None

    # --- asked of the workers ----------------------------------------------------------------------

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        members = self._supervisor.ready_members
        only = request.query.get("worker")
        if only is not None:
            members = [member for member in members if str(member.number) == only]
        if not members:
            text = "no worker is ready" if only is None else f"there is no worker {only[:20]!r}"
            page = {"error": {"message": text, "type": "admin", "param": None, "code": None}}
            return web.Response(body=orjson.dumps(page), status=503, content_type="application/json")
        body = await request.read() if request.can_read_body else None
        async with contextlib.AsyncExitStack() as stack:
            opened = await asyncio.gather(*(self._open(stack, member, request, body) for member in members))
            answers = [pair for pair in opened if pair is not None]
            if not answers:
                return web.Response(status=502, text="no worker answered")
            refused = next((pair for pair in answers if pair[1].status >= 300), None)
            number, first = answers[0] if refused is None else refused
            kind = first.headers.get("content-type", "")
            if refused is None and kind.startswith("text/event-stream"):
                return await self._stream(request, [answer for _, answer in answers])
            headers = CIMultiDict((k, v) for k, v in first.headers.items() if k.lower() not in _HOP)
            whole = await first.read()
            if refused is None and len(answers) > 1:
                together = _together(request)
                if kind.startswith("application/json") and together is not None:
                    said = [(n, orjson.loads(whole if n == number else await a.read())) for n, a in answers]
                    whole = orjson.dumps(together(said))
                elif request.method == "GET" and request.path == "/metrics":
                    whole = merge.metrics({n: (await a.read()).decode() for n, a in answers}).encode()
            return web.Response(body=whole, status=first.status, headers=headers)

    async def _open(
        self, stack: contextlib.AsyncExitStack, member: Member, request: web.Request, body: bytes | None
    ) -> tuple[int, aiohttp.ClientResponse] | None:
        headers = CIMultiDict((k, v) for k, v in request.headers.items() if k.lower() not in _HOP)
        origin = headers.get("origin")
        if self._secure and origin is not None:
            headers["origin"] = origin.replace("https://", "http://", 1)  # the private socket speaks plain HTTP
        try:
            answer = await stack.enter_async_context(
                self._session(member).request(
                    request.method, f"http://localhost{request.rel_url}", headers=headers, data=body
                )
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("worker did not answer an admin call", extra={"worker": member.number, "error": str(error)})
            return None
        return member.number, answer

    def _session(self, member: Member) -> aiohttp.ClientSession:
        session = self._sessions.get(member.admin)
        if session is None:
            session = self._sessions[member.admin] = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(member.admin, limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=_PATIENCE),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
            )
        return session

    async def _stream(self, request: web.Request, answers: list[aiohttp.ClientResponse]) -> web.StreamResponse:
        """The workers' event streams as one, event by event."""
        out = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await out.prepare(request)

        async def copy(answer: aiohttp.ClientResponse) -> None:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async for event in _events(answer):
                    await out.write(event)

        tasks = [asyncio.ensure_future(copy(answer)) for answer in answers]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return out


def _together(request: web.Request) -> Callable[[Sequence[tuple[int, Any]]], Any] | None:
    """What makes one JSON page of the workers'; None: the first one's is it."""
    page = request.path.removeprefix("/api/v1/")
    if request.method != "GET":
        return merge.cleared if page == "cache/clear" else None
    name = page.partition("/")[0]
    return _OF_ALL.get(name) or (merge.pages if name in merge.OF_ONE_PROCESS else None)


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole events, blank line included; they are this proxy's own, so lines end with a line feed."""
    rest = b""
    async for piece in answer.content.iter_any():
        rest += piece
        end = rest.rfind(b"\n\n")
        if end >= 0:
            yield rest[: end + 2]
            rest = rest[end + 2 :]
