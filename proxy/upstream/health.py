"""Background checks: is each upstream there, how fast does it answer, does it offer the models we use.

Off unless an upstream has ``health:``. A check is one GET of ``health.path`` (the models list by default) with the
upstream's first usable key, over the same pool as the calls. Any answer below 500 means reachable: a 401 comes from a
provider that is up. What it finds feeds the breakers (``Breakers.checked``) and ``GET /api/v1/upstreams``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.recent import Recent
from proxy.upstream.transport import Outgoing, Timeouts, TransportError
from proxy.upstream.transport.decode import decode

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.config.model import Config
    from proxy.upstream.breakers import Breakers
    from proxy.upstream.endpoint import Upstream

    Credential = Callable[[str], tuple[bytes, bytes] | None]
    """The header that carries an upstream's key, by the upstream's name; None to ask without."""

log = logging.getLogger("llm_sidecar.health")

MAX_LIST: Final = 4 * 1024 * 1024
"""Bytes of a models list that are read."""
WINDOW: Final = 3600
"""Seconds over which the success rate is taken."""
SPREAD: Final = 0.1
"""Share of ``every`` by which the time between two checks varies, so that replicas do not ask in step."""
SMOOTH: Final = 0.2
"""Weight of the newest latency in the moving average."""


@dataclass(slots=True)
class Report:
    """What is known of one upstream. since, checked_at: wall seconds. latency: seconds to the head of the answer.

    reachable None: never checked. models: configured model -> offered, None when the list could not be read.
    """

    reachable: bool | None = None
    since: float | None = None
    checked_at: float | None = None
    status: int | None = None
    reason: str = ""
    latency: float | None = None
    latency_average: float | None = None
    models: dict[str, bool | None] | None = None


class Health:
    """One task for each upstream that has ``health:``. models: what the configuration asks of each upstream."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        clock: Clock,
        *,
        breakers: Breakers | None = None,
        credential: Credential | None = None,
        models: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self._upstreams = upstreams
        self._clock = clock
        self._breakers = breakers
        self._credential = credential
        self._models = models or {}
        self._tasks: list[asyncio.Task[None]] = []
        self._rates = {name: Recent(WINDOW) for name, one in upstreams.items() if one.config.health is not None}
        self.reports: dict[str, Report] = {name: Report() for name in upstreams}

    def __repr__(self) -> str:
        down = [name for name, report in self.reports.items() if report.reachable is False]
        return f"<Health of {len(self._rates)} upstreams, down: {', '.join(down) or 'none'}>"

    def start(self) -> None:
        """Begin to check; returns at once."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._watch(name), name=f"health-{name}") for name in self._rates]

    def take_over(self, before: Health) -> None:
        """Keep what is known of the upstreams that a reload left as they were."""
        for name, upstream in self._upstreams.items():
            if before._upstreams.get(name) is upstream:
                self.reports[name] = before.reports[name]
                if name in self._rates and name in before._rates:
                    self._rates[name] = before._rates[name]

    async def stop(self) -> None:
        """End all checks, running ones too."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def check(self, name: str) -> Report:
        """Check one upstream now. Never raises but on cancel."""
        upstream = self._upstreams[name]
        report = self.reports[name]
        loop = asyncio.get_running_loop()
        began = loop.time()
        ok, status, reason, offered = await self._ask(upstream)
        report.status = status
        report.checked_at = self._clock.now()
        if ok:
            report.latency = loop.time() - began
            known = report.latency_average
            report.latency_average = report.latency if known is None else known + SMOOTH * (report.latency - known)
        wanted = self._models.get(name)
        if wanted:
            report.models = {model: None if offered is None else model in offered for model in sorted(wanted)}
        if report.reachable is not ok:
            if report.reachable is not None or not ok:
                log.log(
                    logging.INFO if ok else logging.WARNING,
                    "upstream is reachable again" if ok else "upstream is not reachable",
                    extra={"upstream": name, "reason": reason, "status": status},
                )
            report.reachable = ok
            report.since = report.checked_at
        report.reason = reason
        if name in self._rates:
            self._rates[name].add(self._clock.monotonic(), 1, int(ok))
        if self._breakers is not None:
            self._breakers.checked(name, ok, f"health check: {reason}")
        return report

    async def _ask(self, upstream: Upstream) -> tuple[bool, int | None, str, frozenset[str] | None]:
        health = upstream.config.health
        path = health.path if health is not None else "/models"
        patience = health.timeout if health is not None else 5.0
        headers: list[tuple[bytes, bytes]] = [(b"Accept", b"application/json"), *upstream.headers]
        given = self._credential(upstream.name) if self._credential is not None else None
        if given is not None:
            headers.append(given)
        request = Outgoing(b"GET", (upstream.base_path + path).encode("ascii", "surrogateescape"), headers)
        bound = Timeouts(connect=patience, first_byte=patience, idle=patience, total=patience)
        try:
            answer = await upstream.pool.send(request, bound)
            status = answer.status
            if status >= 500:
                answer.abort()
                return False, status, f"status {status}", None
            if status >= 400:
                answer.abort()
                return True, status, f"status {status}", None
            raw = await answer.read(MAX_LIST)
            coding = next((value for key, value in answer.headers if key.lower() == b"content-encoding"), None)
            if coding is not None:
                raw = decode(raw, coding.decode("latin-1"), MAX_LIST)
        except TransportError as error:
            return False, None, error.reason, None
        return True, status, "", models_in(raw)

    async def _watch(self, name: str) -> None:
        health = self._upstreams[name].config.health
        assert health is not None
        while True:
            try:
                await self.check(name)
            except Exception:  # a check that breaks is a bug, and must not end the checks
                log.exception("health check failed", extra={"upstream": name})
            await self._clock.sleep(health.every * random.uniform(1.0 - SPREAD, 1.0 + SPREAD))

    def snapshot(self) -> list[dict[str, Any]]:
        """What ``GET /api/v1/upstreams`` shows; upstreams that are not checked say so with ``reachable: null``."""
        now = self._clock.monotonic()
        out = []
        for name, upstream in self._upstreams.items():
            report = self.reports[name]
            rate = self._rates[name].at(now) if name in self._rates else None
            health = upstream.config.health
            pool = upstream.pool
            out.append(
                {
                    "name": name,
                    "api": upstream.api,
                    "base_url": upstream.config.base_url,
                    "health": {"every": health.every, "path": health.path} if health is not None else None,
                    "reachable": report.reachable,
                    "since": report.since,
                    "checked_at": report.checked_at,
                    "status": report.status,
                    "reason": report.reason,
                    "latency": report.latency,
                    "latency_average": report.latency_average,
                    "success_rate": rate.some / rate.all if rate is not None and rate.all else None,
                    "models": report.models,
                    "requests": upstream.requests,
                    "failures": upstream.failures,
                    "connections": {"idle": pool.idle, "busy": pool.busy, "waiting": pool.waiting},
                }
            )
        return out


def models_in(raw: bytes) -> frozenset[str] | None:
    """The ids of a models list (``{"data": [{"id": ...}]}``); None for anything else."""
    try:
        tree = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    data = tree.get("data") if isinstance(tree, dict) else None
    if not isinstance(data, list):
        return None
    return frozenset(one["id"] for one in data if isinstance(one, dict) and isinstance(one.get("id"), str))


def configured_models(config: Config) -> dict[str, frozenset[str]]:
    """The models that the configuration itself sends to each upstream: routes, aliases, fallback targets."""
    found: dict[str, set[str]] = {name: set() for name in config.upstreams}
    for route in config.routes:
        if route.model is not None:
            alias = config.models.get(route.model)
            found[route.upstream].add(alias.model if alias is not None else route.model)
    for alias in config.models.values():
        # An alias without an upstream goes wherever its route goes; with one upstream there is no doubt.
        name = alias.upstream or (next(iter(found)) if len(found) == 1 else None)
        if name is not None:
            found[name].add(alias.model)
    for entries in config.chains.values():
        for entry in entries:
            for target in getattr(entry.options, "targets", ()):
                if getattr(target, "model", None) is not None and target.upstream in found:
                    found[target.upstream].add(target.model)
    return {name: frozenset(models) for name, models in found.items()}


def configured_credential(config: Config) -> Credential:
    """A health check's key: the first enabled key of the upstream's pool, as it stood when the configuration was read.
    Without a pool the check goes without a key: the clients' credentials are not ours to use."""

    def credential(name: str) -> tuple[bytes, bytes] | None:
        upstream = config.upstreams[name]
        pool = config.keys.get(upstream.keys) if upstream.keys is not None else None
        for key in pool.keys if pool is not None else ():
            if key.enabled and key.upstream in (None, name):
                auth = key.auth or upstream.key_auth
                header, prefix = (key.header, "") if key.header is not None else (auth.header, auth.prefix)
                return header.encode(), f"{prefix}{key.secret.get_secret_value()}".encode()
        return None

    return credential
