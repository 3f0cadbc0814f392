"""What would happen to a request: routes, policies one by one, the key, what would be sent. Nothing is sent or counted.

Own snapshot with fresh memory state (``Services(dry=True)``); each policy's request phase is really run, and what
it changed is found by comparing before and after, so that a policy needs no code of its own to be explained.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.chain import Chain
from proxy.claims import read_sidecar_headers
from proxy.clock import SystemClock
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Attempt, Exchange, Request
from proxy.head import parse_target
from proxy.match import why_not
from proxy.policy import Policy, Veto, Wait, called
from proxy.services import Services
from proxy.snapshot import Snapshot, dialect_for, led_astray
from proxy.upstream.render import render
from proxy.wiring import offer_services

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.chain import Step
    from proxy.config.model import Config

_SECRET_HEADERS = ("authorization", "x-api-key", "api-key", "cookie", "proxy-authorization")


@dataclass
class Explanation:
    """routes: (name, why it did not match or None). policies: (label, what it would do). refused: code and message.
    sent: method, url, headers (secrets as ids) and body of what would go up; None when nothing would."""

    request: dict[str, Any]
    routes: list[dict[str, Any]] = field(default_factory=list)
    chain: str | None = None
    policies: list[dict[str, Any]] = field(default_factory=list)
    target: dict[str, Any] | None = None
    key: str | None = None
    refused: dict[str, Any] | None = None
    sent: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return dict(self.__dict__)


async def explain(
    config: Config, method: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> Explanation:
    """Run one request through everything but the wire."""
    services = Services(SystemClock(), config, dry=True)
    offer_services(services)
    demo = {name: "http://demo/v1" for name, upstream in config.upstreams.items() if upstream.api == "demo"}
    snapshot = Snapshot(config, services, addresses=demo)
    await snapshot.start()
    try:
        return await _walk(snapshot, _exchange(method, target, headers, body))
    finally:
        await snapshot.stop()


def _exchange(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Exchange:
    path, raw_path, query, _ = parse_target(target)
    sent: CIMultiDict[str] = CIMultiDict({"host": "127.0.0.1"})
    if body is not None:
        sent["content-type"] = "application/json"
    sent.update(headers)
    request = Request(
        method,
        target,
        path,
        raw_path,
        query,
        CIMultiDictProxy(sent),
        tuple((name.encode(), value.encode()) for name, value in sent.items()),
        "127.0.0.1",
    )
    clock = SystemClock()
    exchange = Exchange("explain", request, clock.monotonic(), clock.now())
    from proxy.dialects import generic  # noqa: PLC0415 - beside its only use

    exchange.dialect = dialect_for(method, path) or generic
    read_sidecar_headers(exchange, sent)
    if body is not None:
        request.raw_body = body
        request.body = Document(body)
    return exchange


async def _walk(snapshot: Snapshot, exchange: Exchange) -> Explanation:
    request = exchange.request
    out = Explanation({"method": request.method, "path": request.path, "model": _model(exchange)})
    try:
        if parse_target(request.target)[3]:
            raise led_astray()
        for route in snapshot.routes:
            matched = route.rule is None or route.rule(exchange)
            missed = None if matched else why_not(route.config.match, exchange)
            out.routes.append({"route": route.name, "matched": matched, "missed": missed})
            if matched:
                break
        chain = snapshot.match(exchange)
        out.chain = chain.name
        snapshot.settle_target(exchange)
        await _policies(chain, exchange, out)
        out.target = {"upstream": exchange.target.upstream, "model": exchange.target.model or _model(exchange)}
        await _attempt(snapshot, chain, exchange, out)
    except ProxyError as error:
        out.refused = {"status": error.status, "code": error.code, "message": error.message, "policy": error.policy}
    return out


async def _policies(chain: Chain, exchange: Exchange, out: Explanation) -> None:
    part: Chain | None = chain
    while part is not None:
        for index, step in enumerate(part.steps, part.first):
            exchange.entered = index
            await _policy(part, index, step, exchange, out)
        exchange.entered = part.end
        part = part.below


async def _policy(chain: Chain, index: int, step: Step, exchange: Exchange, out: Explanation) -> None:
    policy = step.policy
    row: dict[str, Any] = {"policy": step.label, "mode": "observe" if policy.observe else "enforce"}
    out.policies.append(row)
    if step.when is not None and not step.when(exchange):
        row["would"] = ["skip: its `when` does not hold"]
        exchange.skipped |= 1 << index
        return
    if type(policy).on_request is Policy.on_request:
        row["would"] = [_silent(policy)]
        return
    before, notes = _state(exchange), len(exchange.notes)
    try:
        answer = await called(policy.on_request(exchange))
    except ProxyError as error:
        error.policy = error.policy or step.label
        row["would"] = [f"refuse: {error.status} {error.code}: {error.message}"]
        raise
    if answer is not None:
        row["would"] = [f"answer at once with status {answer.status}"]
        return
    does = _changes(before, _state(exchange))
    does += [text for _, text in exchange.notes[notes:]]
    row["would"] = does or ["let it pass"]


def _silent(policy: Policy) -> str:
    if policy.splits:
        return "look the answer up; what stands below runs when it is not there"
    kind = type(policy)
    if kind.on_attempt is not Policy.on_attempt:
        return "act on each attempt"
    if kind.on_result is not Policy.on_result:
        return "judge each attempt"
    return "act on the answer"


def _state(exchange: Exchange) -> dict[str, Any]:
    body = exchange.request.body
    edits = exchange.request.edits or {}
    return {
        "principal": exchange.principal.id,
        "project": exchange.project,
        "priority": exchange.priority,
        "target": str(exchange.target),
        "tags": dict(exchange.tags),
        "headers": {name: value for name, value in edits.items() if name not in _SECRET_HEADERS},
        "body": None if body is None else (body.encode() if not body.was_read else orjson.dumps(body.lenient())),
    }


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    out: list[str] = []
    for name in ("principal", "project", "priority", "target"):
        if before[name] != after[name]:
            out.append(f"set {name} to {after[name]}")
    for name in ("tags", "headers"):
        for key, value in after[name].items():
            if before[name].get(key) != value:
                out.append(f"{'remove' if value is None else 'set'} {name[:-1]} {key}" + (f"={value}" if value else ""))
    if before["body"] is not None and after["body"] is not None:
        old, new = _tree(before["body"]), _tree(after["body"])
        out += [f"change {place}" for place in _different(old, new, "")][:20]
    return out


def _tree(body: bytes) -> Any:
    """The JSON of a body; None where it is none: what refuses it says so."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _different(old: Any, new: Any, place: str) -> list[str]:
    if type(old) is not type(new):
        return [place or "the body"]
    if isinstance(old, dict):
        found: list[str] = []
        for key in dict.fromkeys([*old, *new]):
            where = f"{place}.{key}" if place else str(key)
            found += [where] if (key in old) != (key in new) else _different(old[key], new[key], where)
        return found
    if isinstance(old, list):
        if len(old) != len(new):
            return [place]
        return [one for i, (a, b) in enumerate(zip(old, new, strict=True)) for one in _different(a, b, f"{place}[{i}]")]
    return [] if old == new else [place]


async def _attempt(snapshot: Snapshot, chain: Chain, exchange: Exchange, out: Explanation) -> None:
    lowest = chain
    while lowest.below is not None:
        lowest = lowest.below
    target = exchange.target
    attempt = Attempt(1, 1, target, target.upstream, asyncio.get_running_loop().time())
    for _ in range(20):
        said = await called(lowest.begin_attempt(exchange, attempt))
        attempt.outcome = "vetoed" if said is not None else "cancelled"
        if not isinstance(said, Veto) or said.scope != "key" or attempt.key is None:
            break
        exchange.excluded_keys.add(attempt.key.id)
        await called(lowest.end_attempt(exchange, attempt))
        attempt = Attempt(1, 1, target, target.upstream, asyncio.get_running_loop().time())
    try:
        if isinstance(said, Veto):
            out.refused = {
                "status": said.error.status,
                "code": said.error.code,
                "message": said.error.message,
                "policy": said.error.policy,
            }
            return
        if isinstance(said, Wait):
            out.refused = {
                "status": None,
                "code": "wait",
                "message": "the call would wait for its turn",
                "policy": None,
            }
            return
        out.key = attempt.key.id if attempt.key is not None else None
        out.sent = _sent(snapshot, lowest, exchange, attempt)
    finally:
        await called(lowest.end_attempt(exchange, attempt))


def _sent(snapshot: Snapshot, chain: Chain, exchange: Exchange, attempt: Attempt) -> dict[str, Any]:
    upstream = snapshot.upstreams[attempt.upstream]
    reader = snapshot.reader(chain)
    outgoing = render(
        exchange,
        attempt,
        upstream,
        credentials=reader.passes_credentials(upstream, exchange.principal.method),
        readable=False,
        ask_usage=reader.usage and exchange.streaming and upstream.usage.asks,
    )
    hidden = {upstream.auth_header.decode(), *_SECRET_HEADERS, *(n.decode() for n in upstream.headers_named)}
    shown = f"<key {attempt.key.id}>" if attempt.key is not None else "<the client's own>"
    headers = {
        name.decode("latin-1"): shown if name.decode("latin-1").lower() in hidden else value.decode("latin-1")
        for name, value in outgoing.headers
    }
    body: Any = None
    if isinstance(outgoing.body, bytes):
        try:
            body = orjson.loads(outgoing.body)
        except orjson.JSONDecodeError:
            body = outgoing.body.decode("utf-8", "replace")
    endpoint = upstream.pool.endpoint
    return {
        "method": exchange.request.method,
        "url": f"{endpoint.scheme}://{endpoint.host_header.decode()}{outgoing.target.decode()}",
        "headers": headers,
        "body": body,
    }


def _model(exchange: Exchange) -> str | None:
    try:
        return exchange.model_asked
    except ProxyError:
        return None
