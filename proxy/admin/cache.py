"""``/api/v1/cache``: how well each cache serves, and ``cache/clear``: forget all of it or a part."""

from __future__ import annotations

import logging
import string
from typing import TYPE_CHECKING, Any

import orjson

from proxy.admin.describe import Paths, operation
from proxy.admin.reply import answer, refused

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.app import App

log = logging.getLogger("llm_sidecar.admin")

_NAMES = ("model", "project", "key_prefix")
_SHORT = {"tag": "tags", "prefix": "key_prefix"}
"""Other words for the same. ``tag`` says one as the header does: ``name=value``."""

PATHS: Paths = {
    "/api/v1/cache": {
        "get": operation(
            "Every cache: hits, misses, entries, bytes.",
            fields={
                "chain": "string",
                "policy": "string",
                "scope": "string",
                "store": "string",
                "hits": "integer",
                "misses": "integer",
                "stale": "integer",
                "coalesced": "integer",
                "bypasses": "integer",
                "stored": "integer",
                "hit_ratio": "number",
                "entries": "integer",
                "bytes": "integer",
            },
            many=True,
        )
    },
    "/api/v1/cache/clear": {
        "post": operation(
            "Forget the entries for which all that is given holds; an empty object forgets every entry.",
            fields={"cleared": "integer"},
            body={
                "model": "string",
                "project": "string",
                "tag": "string",
                "tags": "object",
                "prefix": "string",
                "key_prefix": "string",
            },
            errors={
                400: "The selection cannot be read; nothing was forgotten.",
                503: "A part could not be reached: the message says which. It is cleared before anything is served "
                "from it again, as long as this process lives.",
            },
        )
    },
}


def add_routes(application: web.Application, app: App) -> None:
    """Hang the pages."""

    async def caches(request: web.Request) -> web.Response:
        return answer([{"chain": chain, **policy.stats()} for chain, policy in _caches(app)])

    async def clear(request: web.Request) -> web.Response:
        try:
            selection = _selection(await request.read())
        except ValueError as error:
            return refused(400, f"{error}; nothing was forgotten")
        count, left = await _clear(app, selection)
        log.warning("cache cleared by hand", extra={"entries": count, "not_cleared": left})
        if left:
            what = " and ".join(left)
            return refused(
                503, f"entries forgotten: {count}; {what} could not be cleared, and will be before it is used again"
            )
        return answer({"cleared": count})

    application.router.add_get("/api/v1/cache", caches)
    application.router.add_post("/api/v1/cache/clear", clear)


def _caches(app: App) -> list[tuple[str, Any]]:
    assert app.snapshot is not None
    chains = app.snapshot.chains.values()
    return [(chain.name, policy) for chain in chains for policy in chain.policies if policy.name == "cache"]


async def _clear(app: App, selection: dict[str, Any]) -> tuple[int, list[str]]:
    """How many entries went, and what could not be reached."""
    from proxy.policies.cache.stores import UnclearedError  # noqa: PLC0415 - only for who has a cache

    count = 0
    left: list[str] = []
    done: set[int] = set()
    for _, policy in _caches(app):
        if id(policy.shelf.store) in done:  # several chains share one store
            continue
        done.add(id(policy.shelf.store))
        try:
            count += await policy.clear(**selection)
        except UnclearedError as error:
            count += error.count
            left.append(error.where)
    return count, left


def _selection(body: bytes) -> dict[str, Any]:
    """What to forget. A word that is not known must not clear everything. Raises ValueError."""
    try:
        given = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        raise ValueError("the body is no JSON object") from None
    if not isinstance(given, dict):
        raise ValueError("the body is no JSON object")
    for short, name in _SHORT.items():
        if short in given and name in given:
            raise ValueError(f"{short} and {name} are the same: give one of them")
        if short in given:
            given[name] = given.pop(short) if name != "tags" else _one_tag(given.pop(short))
    unknown = sorted(set(given) - {*_NAMES, "tags"})
    if unknown:
        allowed = "model, project, tag or tags, prefix or key_prefix"
        raise ValueError(f"{unknown[0][:60]!r} is not known; allowed: {allowed}")
    for name in _NAMES:
        if name in given and not (isinstance(given[name], str) and given[name]):
            raise ValueError(f"{name} must be a text that is not empty")
    tags = given.get("tags")
    if "tags" in given and not (
        isinstance(tags, dict) and tags and all(isinstance(value, str) for value in tags.values())
    ):
        raise ValueError("tags must be an object of texts that is not empty")
    if not set(given.get("key_prefix", "")) <= set(string.hexdigits):
        raise ValueError("key_prefix must be hexadecimal digits, as the entry's name begins")
    return given


def _one_tag(said: Any) -> dict[str, str]:
    """``name=value`` as tags."""
    name, found, value = said.partition("=") if isinstance(said, str) else ("", "", "")
    if not (found and name):
        raise ValueError("tag must be a text such as name=value")
    return {name: value}
