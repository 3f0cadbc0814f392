"""Who may look, and how the process says that it is well."""

from __future__ import annotations

import aiohttp
import pytest


async def status(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as answer:
        return answer.status


@pytest.mark.parametrize("path", ["/api/v1/keys", "/api/v1/openapi.json", "/api/v1/exchanges"])
async def test_a_token_is_asked_for_where_one_is_set(operator, setting, upstream, path):
    admin = await operator(setting(upstream, admin={"token": "let-me-in"}))
    url = admin.proxy.admin_url + path
    assert await status(url) == 401
    assert await status(url, authorization="Bearer wrong") == 401
    assert await status(url, authorization="Bearer let-me-in") == 200


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("bearer let-me-in", 200),
        ("BEARER  let-me-in", 200),
        ("let-me-in", 401),
        ("Basic let-me-in", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
    ],
)
async def test_the_scheme_is_bearer_in_any_case(operator, setting, upstream, said, code):
    admin = await operator(setting(upstream, admin={"token": "let-me-in"}))
    assert await status(f"{admin.proxy.admin_url}/api/v1/keys", authorization=said) == code


async def test_a_wrong_method_is_405_with_the_right_ones(operator, setting, upstream):
    admin = await operator(setting(upstream))
    async with admin.client.delete(f"{admin.proxy.admin_url}/api/v1/keys") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_health_and_metrics_need_no_token(operator, setting, upstream, path):
    admin = await operator(setting(upstream, admin={"token": "let-me-in"}))
    assert await status(admin.proxy.admin_url + path) == 200


async def test_other_web_pages_are_refused(operator, setting, upstream):
    admin = await operator(setting(upstream))
    url = admin.proxy.admin_url + "/api/v1/keys"
    assert await status(url, origin="https://evil.example") == 403
    assert await status(url, host="evil.example") == 403


async def test_readyz_says_so_while_draining(operator, setting, upstream):
    admin = await operator(setting(upstream))
    assert (await admin.get("/readyz"))[0] == 200
    await admin.app.drain()
    code, body = await admin.get("/readyz")
    assert (code, body["reasons"]) == (503, ["draining"])
