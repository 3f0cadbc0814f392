"""``/api/v1/limits`` and ``/api/v1/budgets``: how much is used of what may be used, by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.admin.describe import Paths, operation
from proxy.admin.reply import answer, number
from proxy.quotas import budget_rows

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.app import App

MOST = 10_000
_LIMIT = (("limit", "How many rows at most; 1000 by default."),)

PATHS: Paths = {
    "/api/v1/limits": {
        "get": operation(
            "Every rate limit of which something is in use, by its value; and how full each shed_load is.",
            fields={
                "chain": "string",
                "policy": "string",
                "per": "array",
                "value": "string",
                "unit": "string",
                "limit": "number",
                "burst": "number",
                "used": "number",
                "remaining": "number",
                "reset": "number?",
            },
            many=True,
            query=_LIMIT,
        )
    },
    "/api/v1/budgets": {
        "get": operation(
            "Every budget by its value in the window that runs: limit, spent, reserved by calls in flight. "
            "Workers' figures are added up unless they count together (shared).",
            fields={
                "chain": "string",
                "budget": "string",
                "per": "array",
                "value": "string",
                "window": "string",
                "unit": "string",
                "limit": "number",
                "spent": "number",
                "reserved": "number",
                "remaining": "number",
                "share": "number",
                "shared": "boolean",
                "resets_in": "number?",
            },
            many=True,
            query=_LIMIT,
        )
    },
}


def add_routes(application: web.Application, app: App) -> None:
    """Hang the pages."""

    async def limits(request: web.Request) -> web.Response:
        most = number(request, "limit", 1000, MOST)
        rows: list[dict[str, Any]] = []
        for chain, policy in _policies(app, "rate_limit"):
            rows += [{"chain": chain, **row} for row in policy.snapshot()]
        for chain, policy in _policies(app, "shed_load"):
            limit, used = policy.limit, policy.in_flight
            row = {"policy": policy.label, "per": ["all"], "value": "all", "unit": "calls in flight", "limit": limit}
            row |= {"burst": limit, "used": used, "remaining": max(0, limit - used), "reset": None}
            rows.append({"chain": chain, **row})
        return answer(rows[:most])

    async def budgets(request: web.Request) -> web.Response:
        most = number(request, "limit", 1000, MOST)
        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        for chain, policy in _policies(app, "budget"):
            # The same budget in two chains is one budget.
            if policy.budget.name in seen:
                known = {(row["budget"], row["value"], row["unit"]) for row in rows}
                fresh = budget_rows(policy, most)
                rows += [
                    {"chain": chain, **row} for row in fresh if (row["budget"], row["value"], row["unit"]) not in known
                ]
                continue
            seen.add(policy.budget.name)
            rows += [{"chain": chain, **row} for row in budget_rows(policy, most)]
        rows.sort(key=lambda row: -row["share"])
        return answer(rows[:most])

    application.router.add_get("/api/v1/limits", limits)
    application.router.add_get("/api/v1/budgets", budgets)


def _policies(app: App, name: str) -> list[tuple[str, Any]]:
    """(chain, policy) of every entry of this kind."""
    assert app.snapshot is not None
    chains = app.snapshot.chains.values()
    return [(chain.name, policy) for chain in chains for policy in chain.policies if policy.name == name]
