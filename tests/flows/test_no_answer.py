"""Statuses that carry no answer (a redirect, no content, not modified) cost nothing."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.testing import FakeUpstream, reply

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello " * 500}]}
BUDGET: dict[str, Any] = {"budget": {"per": "all", "usd": 1, "window": "1h"}}
BREAKER: dict[str, Any] = {"circuit_breaker": {"fail_max": 1, "reset": "1h"}}


@pytest.mark.parametrize(
    ("status", "outcome"), [(204, "answered"), (301, "failed"), (302, "failed"), (304, "answered"), (307, "failed")]
)
@pytest.mark.parametrize(
    "chain", [["account", BUDGET], ["account", {"cache": {"ttl": "1h"}}, {"retry": {"attempts": 2}}, BUDGET]]
)
async def test_nothing_is_charged_and_only_a_redirect_is_a_failure(sidecar, setting, wire, status, outcome, chain):
    said = {"location": "https://elsewhere.example/"} if status in (301, 302, 307) else {}
    async with FakeUpstream(default=reply(status=status, body=b"", headers=said, content_type=None)) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", CHAT)
        answer = await client.answer()
        assert answer.status == status
        assert answer.header("x-sidecar-cost-usd") == "0"
        assert len(upstream.calls) == 1
        await client.get("/v1/sidecar/limits")
        (budget,) = (await client.answer()).json["budgets"]
        assert budget["spent"] == 0
    done = proxy.exchanges[0]
    assert (done.cost_nanos or 0, done.usage, done.outcome) == (0, None, outcome)


async def test_redirects_do_not_open_a_breaker(sidecar, setting, wire):
    async with FakeUpstream(default=reply(status=302, body=b"", headers={"location": "/x"})) as upstream:
        proxy = await sidecar(setting(upstream, BREAKER))
        client = await wire(proxy.port)
        for _ in range(3):
            await client.post("/v1/chat/completions", CHAT)
            assert (await client.answer()).status == 302
        assert len(upstream.calls) == 3
