"""The HTTP side of the demo: one handler, a table of endpoints, and the faults that headers ask for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson
from aiohttp import web

from proxy.demo import chat, embeddings, messages, others, realtime, responses
from proxy.demo.wishes import NO_WISHES, Wishes, read_wishes
from proxy.demo.words import Json
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.policies.validate import checks, rules
from proxy.policies.validate.limits import Limits

MAX_BODY: Final = 64 * 1024 * 1024
_MAX_SERIES: Final = 1000
_LIMITS: Final = Limits.model_validate({})

Whole = Callable[[dict[str, Json], Wishes], Json]
Events = Callable[[dict[str, Json], Wishes], Iterable[bytes]]


def _moderations(tree: dict[str, Json], wishes: Wishes) -> Json:
    return others.moderations(tree)


def _count_tokens(tree: dict[str, Json], wishes: Wishes) -> Json:
    return {"input_tokens": messages.tokens_in(tree)}


# path below /v1 -> dialect whose rules the body must follow, whole answer, events of a streamed one
_APIS: Final[dict[str, tuple[str, Whole, Events | None]]] = {
    "chat/completions": ("openai_chat", chat.chat, chat.chat_events),
    "completions": ("openai_completions", chat.completions, chat.completions_events),
    "embeddings": ("openai_embeddings", embeddings.embeddings, None),
    "responses": ("openai_responses", responses.response, responses.response_events),
    "messages": ("anthropic_messages", messages.message, messages.message_events),
    "messages/count_tokens": ("anthropic_messages", _count_tokens, None),
    "moderations": ("generic", _moderations, None),
}
_UPLOADS: Final = frozenset({"files", "audio/transcriptions", "audio/translations"})
_POSTS: Final = frozenset({*_APIS, *_UPLOADS, "audio/speech"})


class Demo:
    """The demo upstream. ``port`` and ``url`` say where it listens once started; ``requests`` counts what came."""

    def __init__(self) -> None:
        self.port = 0
        self.host = ""
        self.requests = 0
        self._numbers = itertools.count(1)
        self._failed: dict[str, int] = {}
        self._http: web.Server | None = None
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Its base URL, with ``/v1``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen. Returns the port, a free one for 0. Raises OSError when it cannot be had."""
        self._http = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._server = await asyncio.get_running_loop().create_server(self._http, host, port)
        self.host = host
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self) -> None:
        """Stop listening and end what is under way."""
        if self._server is not None and self._http is not None:
            self._server.close()
            await self._http.shutdown(0.1)
            self._server = self._http = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        wishes = NO_WISHES
        anthropic = "/messages" in request.path or "anthropic-version" in request.headers
        try:
            wishes = read_wishes(request.headers)
            if wishes.latency:
                await asyncio.sleep(wishes.latency)
            self._maybe_fail(wishes)
            answer = await self._answer(request, wishes)
        except ProxyError as error:
            answer = _refuse(error, anthropic)
        except _Asked as asked:
            answer = _asked(asked, wishes, anthropic)
        if answer.prepared:
            return answer
        self._sign(answer)
        if wishes.stall is not None:
            await asyncio.Event().wait()
        if wishes.cut is not None and isinstance(answer, web.Response):
            return await self._cut_short(request, answer)
        return answer

    def _sign(self, answer: web.StreamResponse) -> None:
        number = f"req_demo_{next(self._numbers)}"
        answer.headers["x-request-id"] = number
        answer.headers["request-id"] = number
        answer.headers["openai-processing-ms"] = "1"

    def _maybe_fail(self, wishes: Wishes) -> None:
        if wishes.series is not None:
            failed = self._failed.get(wishes.series, 0)
            if failed >= wishes.failures:
                return
            if len(self._failed) >= _MAX_SERIES and wishes.series not in self._failed:
                del self._failed[next(iter(self._failed))]
            self._failed[wishes.series] = failed + 1
            raise _Asked(wishes.status or 503)
        if wishes.status is not None:
            raise _Asked(wishes.status)

    async def _answer(self, request: web.BaseRequest, wishes: Wishes) -> web.StreamResponse:
        path = "/" + "/".join(part for part in request.path.split("/") if part)
        endpoint = path.removeprefix("/openai").removeprefix("/v1").removeprefix("/")
        deployment = endpoint.startswith("deployments/")
        if deployment:
            endpoint = endpoint.partition("/")[2].partition("/")[2]
        method = request.method
        if endpoint == "models" or endpoint.startswith("models/"):
            if method not in ("GET", "HEAD"):
                raise ProxyError("method_not_allowed", f"{method} is not allowed here; use GET.")
            name = endpoint.removeprefix("models").removeprefix("/")
            return _json(others.model(name) if name else others.models())
        if endpoint == "realtime" and method == "GET":
            return await realtime.converse(request)
        if endpoint not in _POSTS:
            raise ProxyError(
                "model_not_found", f"The demo upstream has no {path}; it has {', '.join(sorted(_POSTS))} and models."
            )
        if method != "POST":
            raise ProxyError("method_not_allowed", f"{method} is not allowed here; use POST.")
        if endpoint in _UPLOADS:
            size = await _drink(request)
            is_file = endpoint == "files"
            return _json(others.uploaded(size) if is_file else others.transcription(size, request.content_type))
        tree = Document(await _read(request)).strict()
        if endpoint == "audio/speech":
            return web.Response(body=others.silence(), content_type="audio/wav")
        dialect, whole, events = _APIS[endpoint]
        if type(tree.get("model")) is not str and not deployment and endpoint != "moderations":
            if tree.get("model") is None and not tree.get("prompt"):
                checks.missing("model", "the name of a model")
            if tree.get("model") is not None:
                checks.wrong("model", "a string", tree["model"])
        rules.check(dialect, tree, _LIMITS)
        if endpoint == "messages" and tree.get("max_tokens") is None:
            checks.missing("max_tokens", "an integer")
        if events is not None and tree.get("stream") is True:
            return await self._stream(request, events(tree, wishes), wishes)
        return _json(whole(tree, wishes))

    async def _stream(self, request: web.BaseRequest, events: Iterable[bytes], wishes: Wishes) -> web.StreamResponse:
        answer = web.StreamResponse(
            headers={"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        )
        self._sign(answer)
        await answer.prepare(request)
        for number, event in enumerate(events):
            if number == wishes.stall:
                await asyncio.Event().wait()
            if number == wishes.cut:
                _hang_up(request)
                return answer
            if wishes.delay:
                await asyncio.sleep(wishes.delay)
            await answer.write(event)
        await answer.write_eof()
        return answer

    async def _cut_short(self, request: web.BaseRequest, whole: web.Response) -> web.StreamResponse:
        body = whole.body if isinstance(whole.body, bytes) else b""
        answer = web.StreamResponse(status=whole.status, headers=whole.headers)
        answer.content_length = len(body)
        await answer.prepare(request)
        await answer.write(body[: len(body) // 2])
        _hang_up(request)
        return answer


class _Asked(Exception):  # noqa: N818 - not an error: the caller wished for it
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _hang_up(request: web.BaseRequest) -> None:
    """Close the connection after what was written, without the end that the framing promises."""
    if request.transport is not None:
        request.transport.close()


async def _read(request: web.BaseRequest) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > MAX_BODY:
            raise ProxyError("request_too_large", f"The body has more than {MAX_BODY} bytes.")
        pieces.append(piece)
    return b"".join(pieces)


async def _drink(request: web.BaseRequest) -> int:
    """Read an upload away and say how large it was."""
    size = 0
    async for piece in request.content.iter_any():
        size += len(piece)
    return size


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _error(status: int, kind: str, code: str, message: str, param: str | None, anthropic: bool) -> web.Response:
    if anthropic:
        return _json({"type": "error", "error": {"type": kind, "message": message}}, status)
    return _json({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def _refuse(error: ProxyError, anthropic: bool) -> web.Response:
    kind = error.kind.anthropic if anthropic else error.kind.type
    return _error(error.status, kind, error.code, error.message, error.param, anthropic)


# status -> type and code as OpenAI says them, type as Anthropic says it
_SAID: Final = {
    400: ("invalid_request_error", "invalid_request", "invalid_request_error"),
    401: ("invalid_request_error", "invalid_api_key", "authentication_error"),
    403: ("invalid_request_error", "unsupported_country_region_territory", "permission_error"),
    404: ("invalid_request_error", "model_not_found", "not_found_error"),
    413: ("invalid_request_error", "request_too_large", "request_too_large"),
    429: ("requests", "rate_limit_exceeded", "rate_limit_error"),
    529: ("server_error", "overloaded", "overloaded_error"),
}


def _asked(asked: _Asked, wishes: Wishes, anthropic: bool) -> web.Response:
    status = asked.status
    kind, code, theirs = _SAID.get(status, ("server_error", "server_error", "api_error"))
    message = f"This error was asked for with x-demo headers (status {status})."
    answer = _error(status, theirs if anthropic else kind, wishes.code or code, message, None, anthropic)
    if wishes.retry_after is not None:
        answer.headers["retry-after"] = wishes.retry_after
    return answer
