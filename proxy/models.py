"""``/v1/models``: what the routes can reach.

With one upstream and no renames the call is forwarded untouched. Else the lists of all upstreams that routes name
are fetched at once and merged, with aliases added; an upstream that is down is left out and named in the header
``x-sidecar-models-missing``. ``/v1/models/{id}`` goes where a call for that model would go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from proxy.dialects import openai_chat
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer, Attempt, Exchange, Request, Target
from proxy.upstream.render import render
from proxy.upstream.transport import TransportError
from proxy.upstream.transport.decode import decode

if TYPE_CHECKING:
    from proxy.snapshot import Snapshot

_LARGEST = 8 * 1024 * 1024
_PATIENCE = 10.0


def own_answer(snapshot: Snapshot, exchange: Exchange) -> Callable[[Exchange], Awaitable[Answer]] | None:
    """Who answers this call: None to forward it (its target may have been set), else a coroutine function."""
    path = exchange.request.path
    if exchange.request.method not in ("GET", "HEAD"):
        return None
    if path.startswith("/v1/models/"):
        _send_where_a_call_would_go(snapshot, exchange, path.removeprefix("/v1/models/"))
        return None
    names = _reachable(snapshot)
    if len(names) <= 1 and not snapshot.config.models and not any(r.config.model for r in snapshot.routes):
        return None

    async def merged(asked: Exchange) -> Answer:
        return await _merged(snapshot, asked, names)

    return merged


def _reachable(snapshot: Snapshot) -> list[str]:
    names = [route.config.upstream for route in snapshot.routes]
    names += [alias.upstream for alias in snapshot.config.models.values() if alias.upstream is not None]
    return list(dict.fromkeys(names))


def _send_where_a_call_would_go(snapshot: Snapshot, exchange: Exchange, model: str) -> None:
    """The route is the one that a chat call for this model would take, and the name the one it would be sent under."""
    request = exchange.request
    call = Request(
        "POST", "/v1/chat/completions", "/v1/chat/completions", "/v1/chat/completions", "",
        request.headers, request.raw_headers, request.peer,
    )  # fmt: skip
    call.body = Document.of({"model": model})
    asked = Exchange(exchange.id, call, exchange.started_at, exchange.started_wall)
    asked.dialect = openai_chat
    asked.project, asked.tags = exchange.project, exchange.tags
    upstream, real = exchange.target.upstream, None
    route = next((route for route in snapshot.routes if route.rule is None or route.rule(asked)), None)
    if route is not None:
        upstream, real = route.config.upstream, route.config.model
    alias = snapshot.config.models.get(model)
    if alias is not None and real is None:
        upstream, real = alias.upstream or upstream, alias.model
    exchange.target = Target(upstream)
    if real is not None:
        request.path = f"/v1/models/{real}"
        request.raw_path = f"/v1/models/{quote(real, safe=':@')}"


async def _merged(snapshot: Snapshot, exchange: Exchange, names: list[str]) -> Answer:
    lists = await asyncio.gather(*(_list_of(snapshot, exchange, name) for name in names))
    models: dict[str, Any] = {}
    missing: list[str] = []
    for name, found in zip(names, lists, strict=True):
        if found is None:
            missing.append(name)
            continue
        for model in found:
            models.setdefault(model["id"], model)
    if len(missing) == len(names):
        raise ProxyError("upstream_unreachable", f"No upstream could list its models: {', '.join(missing)}.")
    for alias, target in snapshot.config.models.items():
        models.setdefault(alias, {"id": alias, "object": "model", "created": 0, "owned_by": target.upstream or "alias"})
    body = {"object": "list", "data": list(models.values())}
    headers = [(b"content-type", b"application/json")]
    if missing:
        headers.append((b"x-sidecar-models-missing", ", ".join(missing).encode()))
    return Answer(200, headers, origin="sidecar", body=Document(orjson.dumps(body)))


async def _list_of(snapshot: Snapshot, exchange: Exchange, name: str) -> list[dict[str, Any]] | None:
    """One upstream's models in the OpenAI shape; None when it is down or answers something else."""
    upstream = snapshot.upstreams[name]
    reader = snapshot.reader(snapshot.chains[exchange.chain_name])
    attempt = Attempt(1, 1, Target(name), name, asyncio.get_running_loop().time())
    attempt.key = snapshot.any_key(name)
    outgoing = render(
        exchange,
        attempt,
        upstream,
        credentials=reader.passes_credentials(upstream),
        readable=True,
        ask_usage=False,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            incoming = await upstream.pool.send(outgoing)
            raw = await incoming.read(_LARGEST)
        coding = next((v for k, v in incoming.headers if k.lower() == b"content-encoding"), None)
        tree = orjson.loads(raw if coding is None else decode(raw, coding.decode("latin-1"), _LARGEST))
    except (TransportError, TimeoutError, orjson.JSONDecodeError):
        return None
    data = tree.get("data") if isinstance(tree, dict) else None
    if incoming.status != 200 or not isinstance(data, list):
        return None
    return [model for model in data if isinstance(model, dict) and isinstance(model.get("id"), str)]
