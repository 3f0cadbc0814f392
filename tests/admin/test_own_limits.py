"""GET /v1/sidecar/limits: a caller hears how much is left for him, and of nobody else."""

from __future__ import annotations

import hashlib
from typing import Any


def key(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "sha256": hashlib.sha256(f"vk-{name}".encode()).hexdigest(), "principal": name, **more}


async def ask(admin: Any, method: str = "GET", **headers: str) -> tuple[int, Any]:
    url = admin.proxy.base_url + "/sidecar/limits"
    async with admin.client.request(method, url, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_a_caller_sees_his_limits_and_budgets(operator, whole, upstream):
    admin = await operator(whole())
    await admin.call({"x-sidecar-project": "web"})
    status, body = await ask(admin, **{"x-sidecar-project": "web"})
    assert (status, body["principal"], body["project"]) == (200, "anonymous", "web")
    rate = next(row for row in body["limits"] if row["unit"] == "requests a minute")
    assert (rate["limit"], rate["remaining"]) == (100, 99)
    tokens = next(row for row in body["budgets"] if row["unit"] == "tokens")
    assert (tokens["value"], tokens["spent"]) == ("web", 12)
    assert len(upstream.calls) == 1


async def test_who_has_used_up_his_limit_may_still_ask(operator, setting, upstream):
    admin = await operator(setting(upstream, {"rate_limit": {"rpm": 1}}))
    await admin.call({})
    for _ in range(3):
        status, body = await ask(admin)
        assert (status, body["limits"][0]["remaining"]) == (200, 0)


async def test_a_caller_must_be_let_in(operator, setting, upstream):
    chain = [{"authenticate": {"method": "keys", "keys": [key("ann"), key("bob")]}}, {"rate_limit": {"rpm": 9}}]
    admin = await operator(setting(upstream, *chain))
    assert (await ask(admin))[0] == 401
    status, body = await ask(admin, authorization="Bearer vk-ann")
    assert (status, body["principal"]) == (200, "ann")
    assert "bob" not in str(body)


async def test_a_policy_whose_when_does_not_hold_is_left_out(operator, setting, upstream):
    rule = {"rate_limit": {"rpm": 9, "when": {"project": "web"}}}
    admin = await operator(setting(upstream, rule))
    assert (await ask(admin))[1]["limits"] == []
    assert len((await ask(admin, **{"x-sidecar-project": "web"}))[1]["limits"]) == 1


async def test_only_get_is_answered(operator, setting, upstream):
    admin = await operator(setting(upstream))
    status, body = await ask(admin, "DELETE")
    assert (status, body["error"]["code"]) == (405, "method_not_allowed")
