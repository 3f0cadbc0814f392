"""Everything built from one version of the configuration; swapped whole on reload.

Routes, chains, upstreams and services, and the small questions that the flow asks of them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs
from aiohttp.streams import EMPTY_PAYLOAD

from proxy.below import Below
from proxy.browser import Hosts, Origins, is_loopback
from proxy.build import build_chain, cors_of, overrides
from proxy.chain import Chain
from proxy.claims import read_sidecar_headers
from proxy.dialects import generic
from proxy.dialects import resolve as resolve_dialect
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Exchange, Request, Target
from proxy.head import Head, Payload, Whole
from proxy.match import compile_routes, networks, why_not
from proxy.stream.pipe import Pipe
from proxy.upstream.endpoint import Upstream
from proxy.upstream.judge import Reader
from proxy.upstream.keys.own import OwnKey
from proxy.upstream.transport.decode import decode

if TYPE_CHECKING:
    from proxy.config.model import Config
    from proxy.config.upstream import Upstream as UpstreamConfig
    from proxy.connection import Connection
    from proxy.dialects.base import Dialect
    from proxy.exchange import Answer, AttemptKey, RawHeaders
    from proxy.flight import Flight
    from proxy.match import CompiledRoute
    from proxy.policy import Policy
    from proxy.services import Services

_SANE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}").fullmatch
# Ids need to be unique, not secret: a random beginning for this process, then a count.
_OWN: Final = ("/v1/models", "/v1/sidecar/")
"""Where calls may be answered here."""
_RUN: Final = f"req_{random.getrandbits(64):016x}"
_COUNT: Final = itertools.count(1)


class Snapshot:
    """One version of the configuration, ready to serve."""

    def __init__(
        self,
        config: Config,
        services: Services,
        *,
        addresses: Mapping[str, str] | None = None,
        access: Callable[[Exchange], None] | None = None,
        before: Snapshot | None = None,
    ) -> None:
        """before: the snapshot that this one replaces; unchanged upstreams are taken over with their connections."""
        self.config = config
        self.services = services
        self.log = logging.getLogger("llm_sidecar.flow")
        self.no_body = EMPTY_PAYLOAD
        self.flights: set[Flight] = set()
        self.below = Below
        self.buffered = 0
        self.in_flight: set[Exchange] = set()
        self.watchers: list[Callable[[Exchange], None]] = [] if before is None else before.watchers
        self.access = access
        self._policies: list[Policy] = []
        self._left: asyncio.Event | None = None
        self.now = services.clock.monotonic
        """Seconds to the microsecond (the loop's own clock is cut to whole milliseconds)."""
        self._wall = services.clock.now
        self.addresses: Mapping[str, str] = addresses or {}
        self.upstreams: dict[str, Upstream] = {
            name: self._unchanged(before, name, upstream)
            or Upstream(name, upstream, self.addresses.get(name) or upstream.base_url or "")
            for name, upstream in config.upstreams.items()
        }
        services.offer("upstreams", lambda _: self.upstreams)
        self.chains: dict[str, Chain] = {
            name: build_chain(name, entries, services) for name, entries in config.chains.items()
        }
        self.routes: tuple[CompiledRoute, ...] = compile_routes(config.routes)
        self._max_body = config.server.max_body
        self._max_buffered = config.server.max_buffered
        self._aliases = config.models
        self.routes_read_body = any(route.needs_model for route in self.routes)
        loopback = is_loopback(config.server.host) or config.server.unix is not None
        self._hosts = Hosts(config.server.host, config.server.hosts, unix=config.server.unix is not None)
        self._origins = {name: Origins(cors_of(chain), loopback=loopback) for name, chain in self.chains.items()}
        self._trusted = networks(config.server.trusted_proxies) if config.server.trusted_proxies else None
        self._readers: dict[int, Reader] = {}
        self._unsplit: dict[str, Chain] = {}
        for chain in self.chains.values():
            self._make_readers(chain)

    def _unchanged(self, before: Snapshot | None, name: str, config: UpstreamConfig) -> Upstream | None:
        """The upstream of the snapshot before, if it is the same. Files of TLS may hold something else by now."""
        known = None if before is None else before.upstreams.get(name)
        if known is None or before is None or known.config != config:
            return None
        if before.addresses.get(name) != self.addresses.get(name):
            return None
        tls = config.tls
        return known if tls is None or not (tls.ca or tls.cert or tls.key) else None

    def _make_readers(self, chain: Chain) -> None:
        auth = next((p for p in chain.policies if p.name == "authenticate"), None)
        credentials: str | None = None if auth is None else auth.options.method
        for part in (chain, chain.through, chain.below):
            if part is None:
                continue
            reads = any(
                p.reads_answer and (overrides(p, "on_response") or overrides(p, "open_stream")) for p in part.policies
            )
            # A split stores and replays whole answers, and a flight's end is its final event.
            reads = reads or part.settles or chain.split is not None
            self._readers[id(part)] = Reader(
                part, reads=reads, credentials=credentials, max_body=self.config.server.max_body
            )

    # --- 1 and 2: a call begins ----------------------------------------------------------------------

    def begin(self, connection: Connection, head: Head) -> Exchange:
        """The exchange of a call whose head has come."""
        request = Request(
            head.method,
            head.target,
            head.path,
            head.raw_path,
            head.query,
            head.headers,
            head.raw_headers,
            connection.peer,
        )
        request.head = head
        request.content_length = head.length
        said = head.said_id
        exchange = Exchange(
            said if said is not None and _SANE_ID(said) else f"{_RUN}{next(_COUNT):08x}",
            request,
            self.now(),
            self._wall(),
        )
        if self._trusted is not None:
            request.peer = self._client_address(request)
        exchange.dialect = dialect_for(head.method, head.path) or generic
        if head.ours:
            read_sidecar_headers(exchange, head.headers)
        self.in_flight.add(exchange)
        return exchange

    def _client_address(self, request: Request) -> str:
        """The last address in X-Forwarded-For that is not a trusted proxy's own."""
        assert self._trusted is not None
        peer = request.peer
        if not self._trusted(peer):
            return peer
        for address in reversed((request.headers.get("x-forwarded-for") or "").split(",")):
            hop = address.strip()
            if not hop:
                continue
            peer = hop
            if not self._trusted(hop):
                break
        return peer

    def admit(self, exchange: Exchange, payload: Payload) -> Chain | Answer | None:
        """Steps 2 and 3 for the usual call, without waiting: its body is here and no route asks for the model.
        None: something has to be waited for. Raises ProxyError, for a foreign Host before all else."""
        request = exchange.request
        head = request.head
        assert head is not None
        known = head.admitted
        if known is not None and known[0] is self and type(payload) is Whole:
            # The same head on the same connection: what was decided by it alone is decided.
            chain: Chain
            _, chain, exchange.route_name, exchange.chain_name, exchange.target, coded, settles = known
            raw = payload.data
            size = exchange.held_bytes = len(raw)
            if coded or size > self._max_body or self.buffered + size > self._max_buffered:
                exchange.held_bytes = 0
                self.take_body(exchange, self._within(raw))
            else:
                self.buffered += size
                request.raw_body = raw
                request.body = Document(raw)
            if settles:
                self.settle_target(exchange)
            return chain
        self._hosts.check(head.host)
        if head.dotted:
            raise led_astray()
        if self.routes_read_body or head.origin is not None or head.upgrade:
            return None
        whole = payload is EMPTY_PAYLOAD
        if not whole:
            if not payload.is_eof() or not self.holds_body(exchange, payload):
                return None
            raw = self._within(take_whole(payload))
            chain = self.match(exchange)
            if head.sent_up is not None:
                settles = bool(self._aliases) or request.path.startswith(_OWN)
                coded = head.coding is not None
                head.admitted = (
                    self, chain, exchange.route_name, exchange.chain_name, exchange.target, coded, settles,
                )  # fmt: skip
            self.take_body(exchange, raw)
        else:
            chain = self.match(exchange)
            if exchange.dialect is None or exchange.dialect.name != generic.name:
                # A known API called without a body: whoever reads it finds that it is no JSON.
                request.body, request.raw_body = Document(b""), b""
        if self._aliases or request.path.startswith(_OWN):
            self.settle_target(exchange)
        return chain

    def _within(self, raw: bytes) -> bytes:
        if len(raw) > self._max_body:
            raise ProxyError("request_too_large", f"The body is larger than {self._max_body} bytes.")
        return raw

    def holds_body(self, exchange: Exchange, payload: Payload) -> bool:
        """Whether this call's body is a JSON document that is read whole."""
        if payload is EMPTY_PAYLOAD:
            return False
        request = exchange.request
        kind = request.headers.get(hdrs.CONTENT_TYPE)
        dialect = dialect_for(request.method, request.path)
        if dialect is None or (dialect.name == generic.name and kind is not None):
            # An endpoint that is not known: JSON is read by the generic dialect, anything else is streamed.
            return kind is not None and "json" in kind.lower() and "multipart" not in kind.lower()
        return kind is None or not kind.startswith("multipart/")

    def reserve_memory(self, exchange: Exchange, size: int) -> None:
        """A call holds ``size`` bytes of its body from now on, also while they are still coming. Raises ``overloaded``
        (503) when all bodies together are too large."""
        more = size - exchange.held_bytes
        if self.buffered + more > self.config.server.max_buffered:
            raise ProxyError("overloaded", "Too many request bodies are held in memory at once.", retry_after=1.0)
        self.buffered += more
        exchange.held_bytes = size

    def take_body(self, exchange: Exchange, raw: bytes) -> None:
        """Make the document of a body that was read."""
        request = exchange.request
        request.raw_body = raw
        self.reserve_memory(exchange, len(raw))
        coding = request.headers.get("content-encoding")
        if coding is not None and coding.lower() not in ("", "identity"):
            try:
                raw = decode(raw, coding.lower(), self.config.server.max_body)
            except Exception as error:
                if type(error).__name__ == "BodyTooLarge":
                    raise ProxyError(
                        "request_too_large",
                        f"The body is larger than {self.config.server.max_body} bytes when unpacked.",
                    ) from None
                raise ProxyError(
                    "invalid_value", f"The body is not valid {coding[:40]}: {error}.", param="content-encoding"
                ) from None
            self.reserve_memory(exchange, exchange.held_bytes + len(raw))
        request.body = Document(raw)

    # --- 3: match ------------------------------------------------------------------------------------

    def match(self, exchange: Exchange) -> Chain:
        """The chain of the first route that matches. Raises ``unknown_route``."""
        for route in self.routes:
            if route.rule is None or route.rule(exchange):
                return self._take(exchange, route)
        raise self._no_route(exchange)

    async def match_reading(self, exchange: Exchange, read: Callable[[], Awaitable[None]]) -> Chain:
        """The same where routes ask for the model: the body is read when the first such route is reached."""
        has_read = False
        for route in self.routes:
            if route.needs_model and not has_read:
                has_read = True
                await read()
            if route.rule is None or route.rule(exchange):
                return self._take(exchange, route)
        raise self._no_route(exchange)

    def _take(self, exchange: Exchange, route: CompiledRoute) -> Chain:
        config = route.config
        exchange.route_name = route.name
        exchange.target = Target(config.upstream, config.model)
        name = config.chain
        asked = exchange.request.headers.get("x-sidecar-chain")
        if asked is not None:
            if asked not in config.allow_chains and asked != name:
                allowed = ", ".join(config.allow_chains) or "none"
                raise ProxyError(
                    "policy_refused",
                    f"The chain {asked[:60]!r} may not be asked for on this route (allowed: {allowed}).",
                    param="x-sidecar-chain",
                )
            name = asked
        exchange.chain_name = name
        return self.chains[name]

    def _no_route(self, exchange: Exchange) -> ProxyError:
        missed = "; ".join(f"{route.name} ({why_not(route.config.match, exchange)})" for route in self.routes[:20])
        request = exchange.request
        return ProxyError(
            "unknown_route",
            f"No route matches {request.method} {request.path[:200]}. Routes missed: {missed or 'there are none'}.",
        )

    def for_upgrade(self, exchange: Exchange, chain: Chain) -> Chain:
        """The same chain for a call that becomes a websocket: nothing splits it, since there is nothing to share."""
        if chain.split is None:
            return chain
        exchange.cache_status = "bypass"
        found = self._unsplit.get(chain.name)
        if found is None:
            steps = [step for step in chain.all_steps if step is not chain.split]
            found = self._unsplit[chain.name] = Chain(chain.name, steps, digest=chain.digest)
            self._make_readers(found)
        return found

    def check_origin(self, exchange: Exchange, chain: Chain) -> Answer | None:
        """Refuse foreign pages; an Answer is a preflight's."""
        return self._origins[chain.name].check(exchange)

    def settle_target(self, exchange: Exchange) -> None:
        """Model aliases, and the local answers of ``/v1/models``."""
        request = exchange.request
        if self._aliases and (request.body is not None or request.upgrade) and exchange.target.model is None:
            model = exchange.model_asked
            alias = self._aliases.get(model) if model is not None else None
            if alias is not None:
                exchange.target = Target(alias.upstream or exchange.target.upstream, alias.model)
        path = exchange.request.path
        if path == "/v1/models" or path.startswith("/v1/models/"):
            from proxy.models import own_answer  # noqa: PLC0415 - rare

            exchange.own_answer = own_answer(self, exchange)
        elif path == "/v1/sidecar/limits":
            from proxy.quotas import own_limits  # noqa: PLC0415 - rare

            exchange.own_answer = own_limits(self, exchange)

    # --- what the flow asks --------------------------------------------------------------------------

    def reader(self, chain: Chain) -> Reader:
        """What ``chain`` wants to know of answers."""
        return self._readers[id(chain)]

    def pipe_for(self, exchange: Exchange, answer: Answer) -> Pipe:
        """A pipe for a source of events that has none."""
        assert exchange.dialect is not None and answer.source is not None
        return Pipe(exchange.dialect, answer.source)

    def answer_headers(self, exchange: Exchange, answer: Answer) -> RawHeaders:
        """The answer's own headers and those this proxy adds."""
        headers = answer.headers
        request_id = exchange.id.encode("latin-1", "replace")
        headers.append((b"x-sidecar-request-id", request_id))
        if answer.origin not in ("upstream", "cache"):
            headers.append((b"x-request-id", request_id))
        served = exchange.served_by
        if served is None and exchange.error is not None:
            served = exchange.failed_at
        sent = len(exchange.attempts)
        if served is not None:
            sent += served.resent  # a kept connection had been closed: the request went out twice
            headers.append((b"x-sidecar-upstream", served.upstream.encode()))
            if served.key is not None:
                headers.append((b"x-sidecar-key", served.key.id.encode()))
        headers.append((b"x-sidecar-attempts", b"%d" % sent))
        if exchange.cache_status is not None:
            headers.append((b"x-sidecar-cache", exchange.cache_status.encode()))
        if exchange.added_headers:
            headers.extend(exchange.added_headers)
        if exchange.timings is not None:
            headers.append((b"server-timing", _server_timing(exchange)))
        return headers

    def any_key(self, upstream: str) -> AttemptKey | None:
        """A key for the proxy's own questions to an upstream (its list of models); None when it has no keys."""
        pool = self.config.upstreams[upstream].keys
        if pool is None:
            return None
        key = next((key for key in self.config.keys[pool].keys if key.enabled), None)
        return None if key is None else OwnKey(key)

    def finish(self, exchange: Exchange) -> None:
        """The call is over."""
        self.in_flight.discard(exchange)
        if self._left is not None and not self.in_flight:
            self._left.set()
        self.buffered -= exchange.held_bytes
        if self.access is not None:
            self.access(exchange)
        for watch in self.watchers:
            watch(exchange)

    # --- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """The snapshot goes live."""
        state = self.services.made().get("state")
        if state is not None and "state" not in self.services.adopted:
            await state.start()
        for chain in self.chains.values():
            for policy in chain.policies:
                self._policies.append(policy)
                await policy.start()
        if any(upstream.config.health is not None for upstream in self.upstreams.values()):
            self.services.get("health").start()

    async def retire(self, after: Snapshot) -> None:
        """Another takes new calls from now on. Returns when the last call on this one is over, flights included."""
        for upstream in self.upstreams.values():
            if upstream is not after.upstreams.get(upstream.name):
                upstream.pool.retire()
        health = self.services.made().get("health")
        if health is not None:
            await health.stop()
        self._left = asyncio.Event()
        while self.in_flight or self.flights:
            if self.in_flight:
                self._left.clear()
                await self._left.wait()
            else:  # a revalidation, whose caller has been served
                await asyncio.wait([flight.task for flight in self.flights])

    async def stop(self, others: Iterable[Snapshot] = ()) -> None:
        """Nothing uses the snapshot any more. What ``others`` use as well goes on; safe after half a start."""
        kept = {id(part) for other in others for part in other.parts()}
        for flight in list(self.flights):
            flight.cancel()
        if self.flights:  # their policies have a last word
            await asyncio.wait([flight.task for flight in self.flights], timeout=2.0)
        started, self._policies = self._policies, []
        for policy in started:
            await policy.stop()
        health = self.services.made().get("health")
        if health is not None:
            await health.stop()
        for upstream in self.upstreams.values():
            if id(upstream) not in kept:
                await upstream.pool.close()
        for part in list(self.services.made().values()):
            close = getattr(part, "close", None)
            if close is not None and id(part) not in kept:
                said = close()
                if hasattr(said, "__await__"):
                    await said

    def parts(self) -> list[Any]:
        """What may be shared with another snapshot: upstreams and services."""
        return [*self.upstreams.values(), *self.services.made().values()]


def led_astray() -> ProxyError:
    """A path with dot segments: routes match it as it stands, an upstream resolves it to one that they never saw."""
    return ProxyError("invalid_value", "The path has a segment of dots: send it as it is meant.", param="path")


@lru_cache(512)
def dialect_for(method: str, path: str) -> Dialect | None:
    """The dialect of a path; the path alone tells an Anthropic call from an OpenAI one."""
    return resolve_dialect(method, path, "openai")


def take_whole(payload: Payload) -> bytes:
    """The body of a payload that is complete."""
    if isinstance(payload, Whole):
        return payload.read_nowait()
    buffer = payload._buffer
    if len(buffer) == 1 and payload._exception is None and not payload._protocol._reading_paused:
        # aiohttp's own way is four Python calls for the same popleft.
        payload._size = 0
        return buffer.popleft()
    data: bytes = payload.read_nowait(-1)
    return data


def _server_timing(exchange: Exchange) -> bytes:
    parts = [f"{name};dur={seconds * 1000:.3f}" for name, seconds in (exchange.timings or {}).items()]
    served = exchange.served_by
    if served is not None and served.first_byte_at is not None:
        parts.append(f"upstream;dur={max(0.0, served.first_byte_at - served.started_at) * 1000:.3f}")
    return ", ".join(parts).encode()
