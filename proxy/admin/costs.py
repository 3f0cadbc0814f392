"""``/api/v1/costs``: what was spent, from the ledger, in the forms of ``llm-sidecar costs``."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from proxy.admin.describe import Paths, operation
from proxy.admin.reply import BadQueryError, answer, refused
from proxy.config.problem import suggest

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.accounting.ledger.base import Ledger
    from proxy.app import App

_PATIENCE = 10.0
_FRESH = 1.5
"""Seconds that a question waits for the newest calls to reach the ledger."""

PATHS: Paths = {
    "/api/v1/costs": {
        "get": operation(
            "Sums of calls, tokens and cost by any dimensions.",
            many=True,
            query=(
                ("since", "From when: a duration back from now (7d, the default), a date, or an ISO moment."),
                ("until", "Until when; now by default."),
                ("by", "Dimensions, separated by commas: model, project, principal, key, upstream, tag:NAME, day ..."),
                ("time_zone", "For days and dates, such as Europe/Berlin; UTC by default."),
                ("details", "1: percentiles of the cost of a call, too."),
                ("compare", "1: what changed against the period of the same length before."),
                ("forecast", "1: trend, and projection to the end of the month."),
            ),
            errors={400: "A value cannot be read.", 404: "No chain has `account`.", 503: "The ledger does not answer."},
        )
    }
}

_QUERY = ("since", "until", "by", "time_zone", "details", "compare", "forecast", "worker")
"""What the page understands. worker: which of several is asked, see ``proxy.workers.whole``."""


def add_routes(application: web.Application, app: App) -> None:
    """Hang the page."""

    async def costs(request: web.Request) -> web.Response:
        for name in request.query:
            if name not in _QUERY:
                raise BadQueryError(name[:60], f"is not known{suggest(name, _QUERY)}; allowed: {', '.join(_QUERY)}")
        assert app.snapshot is not None
        books = app.snapshot.services.made().get("accounting")
        store = None if books is None else books.store
        if store is None:
            return refused(404, "nothing is accounted: no chain has the policy `account` or `budget`")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FRESH):
                await store.writer.caught_up()
        try:
            async with asyncio.timeout(_PATIENCE):
                return answer(await _ask(store.ledger, dict(request.query)))
        except ValueError as error:
            return refused(400, str(error))
        except TimeoutError:
            return refused(503, f"the ledger did not answer within {_PATIENCE:g} s")
        except Exception as error:  # whatever the database's driver raises
            return refused(503, f"the ledger cannot be read: {type(error).__name__}")

    application.router.add_get("/api/v1/costs", costs)


async def _ask(ledger: Ledger, query: dict[str, str]) -> list[dict[str, Any]]:
    from proxy.accounting import reports  # noqa: PLC0415 - only for who asks
    from proxy.accounting.moment import moment  # noqa: PLC0415
    from proxy.accounting.windows import zone  # noqa: PLC0415

    now = time.time()
    local = zone(query.get("time_zone") or "UTC")
    if _wanted(query, "forecast"):
        projection = await reports.project_month(ledger, now, local)
        line = await reports.trend(ledger, now, time_zone=local)
        return [{**projection._asdict(), **{f"trend_{name}": value for name, value in line.items()}}]
    since = moment(query.get("since") or "7d", local, now)
    until = moment(query["until"], local, now) if query.get("until") else now
    if since >= until:
        raise ValueError("since is not before until")
    by = [name.strip() for name in query.get("by", "").split(",") if name.strip()]
    if _wanted(query, "compare"):
        return await reports.changes(ledger, since, until, by)
    shares = (0.5, 0.9, 0.99) if _wanted(query, "details") else ()
    return await reports.summarize(ledger, since, until, by, time_zone=local, percentiles=shares)


def _wanted(query: dict[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("1", "true", "yes")
