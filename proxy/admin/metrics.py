"""``/metrics``: what was counted of calls, and how the parts stand at this moment, as Prometheus text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxy import __version__
from proxy.admin.describe import Paths, operation
from proxy.telemetry.metrics import Family, Sample

if TYPE_CHECKING:
    from proxy.app import App

PATHS: Paths = {
    "/metrics": {
        "get": operation("Prometheus text, version 0.0.4.", media={"text/plain": "Metrics."}, open_to_all=True)
    }
}
MOST_BREAKERS = 500


def add_routes(application: web.Application, app: App) -> None:
    """Hang the page."""

    async def metrics(request: web.Request) -> web.Response:
        from proxy.telemetry import prometheus  # noqa: PLC0415 - only where somebody scrapes

        text = prometheus.text([*app.metrics.families(), *_standing(app)])
        return web.Response(body=text.encode(), headers={"content-type": prometheus.CONTENT_TYPE})

    application.router.add_get("/metrics", metrics)


def _standing(app: App) -> list[Family]:
    """Gauges: read from the parts when asked, so that no call pays for them."""
    assert app.snapshot is not None
    made = app.snapshot.services.made()
    flying = sum(len(snapshot.in_flight) for snapshot in app.snapshots)
    held = sum(snapshot.buffered for snapshot in app.snapshots)
    found = [
        _one("llm_sidecar_info", "The program that runs.", 1, version=__version__),
        _one("llm_sidecar_config_generation", "Number of the configuration in use.", app.reloader.generation),
        _one("llm_sidecar_calls_in_flight", "Calls that have begun and not ended.", flying),
        _one("llm_sidecar_held_bytes", "Bytes of request bodies in memory.", held),
        _one("llm_sidecar_retiring_snapshots", "Old configurations whose last calls run.", len(app.reloader.retiring)),
    ]
    if app.listener is not None:
        connections = len(app.listener.connections)
        found.append(_one("llm_sidecar_client_connections", "Open client connections.", connections))
    if app.logs is not None:
        dropped = app.logs.writer.dropped
        found.append(_one("llm_sidecar_log_lines_dropped", "Log lines that their receiver did not take.", dropped))
    found.append(
        Family(
            "llm_sidecar_upstream_connections",
            "gauge",
            "Connections to each upstream, and calls that wait for one.",
            [
                Sample({"upstream": name, "state": state}, getattr(upstream.pool, state))
                for name, upstream in app.snapshot.upstreams.items()
                for state in ("idle", "busy", "waiting")
            ],
        )
    )
    found += _keys(made.get("keys"))
    found += _breakers(made.get("breakers"))
    found += _health(made.get("health"))
    found += _accounting(made.get("accounting"))
    return found


def _one(name: str, text: str, value: float, **labels: str) -> Family:
    return Family(name, "gauge", text, [Sample(labels, value)])


def _keys(rings: Any) -> list[Family]:
    keys = [] if rings is None else rings.snapshot()
    return [
        Family(
            "llm_sidecar_key_state",
            "gauge",
            "1 for the state that a key is in.",
            [Sample({"pool": key["pool"], "key": key["id"], "state": key["state"]}, 1) for key in keys],
        ),
        Family(
            "llm_sidecar_key_requests_total",
            "counter",
            "Requests sent with each key.",
            [Sample({"pool": key["pool"], "key": key["id"]}, key["requests"]) for key in keys],
        ),
        Family(
            "llm_sidecar_key_in_flight",
            "gauge",
            "Requests in flight with each key.",
            [Sample({"pool": key["pool"], "key": key["id"]}, key["in_flight"]) for key in keys],
        ),
    ]


def _breakers(table: Any) -> list[Family]:
    rows = [] if table is None else table.snapshot()[:MOST_BREAKERS]
    states = {"closed": 0, "half-open": 1, "open": 2}
    return [
        Family(
            "llm_sidecar_breaker_state",
            "gauge",
            "0 closed, 1 half-open, 2 open.",
            [
                Sample({"breaker": row["name"], "upstream": row["upstream"]}, states.get(row["state"], 2))
                for row in rows
            ],
        )
    ]


def _health(health: Any) -> list[Family]:
    rows = [] if health is None else health.snapshot()
    return [
        Family(
            "llm_sidecar_upstream_reachable",
            "gauge",
            "1 when the last background check found the upstream.",
            [Sample({"upstream": row["name"]}, int(row["reachable"])) for row in rows if row["reachable"] is not None],
        )
    ]


def _accounting(books: Any) -> list[Family]:
    store = None if books is None else books.store
    if store is None:
        return []
    journal, writer = store.journal, store.writer
    return [
        _one("llm_sidecar_journal_ok", "1 when the journal can be written.", int(journal.state == "ok")),
        _one("llm_sidecar_journal_held_records", "Records that wait for room on the disk.", journal.held),
        Family(
            "llm_sidecar_journal_lost_records_total",
            "counter",
            "Records lost because there was no room for too long.",
            [Sample({}, journal.lost)],
        ),
        _one("llm_sidecar_ledger_up", "1 when the ledger can be written.", int(writer.state == "up")),
        _one("llm_sidecar_ledger_behind_bytes", "Bytes of the journal that are not in the ledger yet.", writer.behind),
    ]
