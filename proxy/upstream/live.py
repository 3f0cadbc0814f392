"""``check --live``: each key and each configured model tried against its provider, with questions that cost nothing.

For each key one GET of the models list; for each configured model that the list does not name, one GET of the model
itself. No completion is asked for, so no token is paid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from proxy.upstream.endpoint import Upstream
from proxy.upstream.health import MAX_LIST, configured_models, models_in
from proxy.upstream.transport import Outgoing, Timeouts, TransportError
from proxy.upstream.transport.decode import decode

if TYPE_CHECKING:
    from proxy.config.keys import Key
    from proxy.config.model import Config

__all__ = ["Finding", "try_all"]

PATIENCE: Final = 15.0
AT_ONCE: Final = 8
_VERSION: Final = (b"anthropic-version", b"2023-06-01")


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one key and one model. None: not known. latency: seconds to the head of the models list.

    key None: the upstream has no key of its own. model None: the configuration names no model for this upstream.
    """

    upstream: str
    key: str | None
    model: str | None
    reachable: bool
    authorised: bool | None
    available: bool | None
    latency: float | None
    note: str = ""

    @property
    def bad(self) -> bool:
        """Whether calls would fail."""
        return not self.reachable or self.authorised is False or self.available is False


@dataclass(frozen=True, slots=True)
class _Said:
    status: int
    raw: bytes
    latency: float


async def try_all(config: Config, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Every upstream that is not built in, in the order of the configuration. progress: (done, of how many)."""
    models = configured_models(config)
    pairs: list[tuple[Upstream, Key | None]] = []
    for name, settings in config.upstreams.items():
        if settings.api == "demo":
            continue
        upstream = Upstream(name, settings, settings.base_url or "")
        pool = config.keys.get(settings.keys) if settings.keys is not None else None
        keys = [key for key in (pool.keys if pool else ()) if key.enabled and key.upstream in (None, name)]
        pairs += [(upstream, key) for key in keys] or [(upstream, None)]
    places = asyncio.Semaphore(AT_ONCE)
    done = 0

    async def one(upstream: Upstream, key: Key | None) -> list[Finding]:
        nonlocal done
        async with places:
            found = await _try(upstream, key, sorted(models[upstream.name]))
        done += 1
        if progress is not None:
            progress(done, len(pairs))
        return found

    try:
        return [row for rows in await asyncio.gather(*(one(*pair) for pair in pairs)) for row in rows]
    finally:
        for upstream in {pair[0].name: pair[0] for pair in pairs}.values():
            await upstream.pool.close()


async def _try(upstream: Upstream, key: Key | None, models: list[str]) -> list[Finding]:
    name = None if key is None else key.id
    wanted: list[str | None] = [*models] or [None]
    try:
        said = await _get(upstream, key, "/models")
    except TransportError as error:
        note = f"{error.reason}: {error}"
        return [Finding(upstream.name, name, model, False, None, None, None, note) for model in wanted]
    authorised = _authorised(said.status, key)
    note = "" if said.status == 200 else f"status {said.status}"
    if key is None and said.status in (401, 403):
        note = "no key of its own: the client's credential is needed"
    listed = models_in(said.raw) if said.status == 200 else None
    if not models or authorised is not True:
        return [Finding(upstream.name, name, one, True, authorised, None, said.latency, note) for one in wanted]
    rows = []
    for model in models:
        available: bool | None = listed is not None and model in listed
        if not available:
            available = await _has(upstream, key, model)
        rows.append(Finding(upstream.name, name, model, True, authorised, available, said.latency, note))
    return rows


def _authorised(status: int, key: Key | None) -> bool | None:
    """What a status says of a key; None where it says nothing (no key, the provider's own trouble)."""
    if status in (401, 403):
        return None if key is None else False
    # 404 and 405 come from providers without a models list; they have let the key in.
    return None if status == 429 or status >= 500 else True


async def _has(upstream: Upstream, key: Key | None, model: str) -> bool | None:
    try:
        said = await _get(upstream, key, f"/models/{quote(model, safe='/:@')}")
    except TransportError:
        return None
    if said.status == 200:
        return True
    # A provider without such a page says 404, too; only one that speaks of the model counts.
    return False if said.status == 404 and b"model" in said.raw.lower() else None


async def _get(upstream: Upstream, key: Key | None, path: str) -> _Said:
    """Raises TransportError."""
    headers = [(b"Accept", b"application/json"), *upstream.headers]
    prefix = upstream.base_path
    if upstream.api == "anthropic":
        prefix += "/v1"
        if all(name.lower() != _VERSION[0] for name, _ in headers):
            headers.append(_VERSION)
    if key is not None:
        auth = key.auth or upstream.config.key_auth
        header, before = (key.header, "") if key.header is not None else (auth.header, auth.prefix)
        headers.append((header.encode(), f"{before}{key.secret.get_secret_value()}".encode()))
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in upstream.config.query.items())
    target = prefix + path + (f"?{query}" if query else "")
    bound = Timeouts(connect=PATIENCE, first_byte=PATIENCE, idle=PATIENCE, total=PATIENCE)
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await upstream.pool.send(Outgoing(b"GET", target.encode("ascii", "surrogateescape"), headers), bound)
    latency = loop.time() - began
    raw = await answer.read(MAX_LIST)
    coding = next((value for name, value in answer.headers if name.lower() == b"content-encoding"), None)
    return _Said(answer.status, raw if coding is None else decode(raw, coding.decode("latin-1"), MAX_LIST), latency)
