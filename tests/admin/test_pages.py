"""What each page tells of a proxy that has served calls."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from proxy.admin.api import PAGES
from proxy.testing import reply

SECRET = "sk-secret-of-the-provider"


async def test_keys_page_shows_use_limits_and_state_by_id(operator, whole):
    admin = await operator(whole())
    await admin.call()
    (key,) = await admin.page("keys")
    assert (key["id"], key["pool"], key["state"]) == ("main_key", "pool", "ready")
    assert (key["requests"], key["success_rate"], key["rpm"], key["max_rpm"]) == (1, 1.0, 1, 50)


async def test_a_disabled_key_is_out_at_once_and_comes_back_when_enabled(operator, whole):
    admin = await operator(whole())
    status, key = await admin.post("keys/main_key/disable")
    assert (status, key["state"]) == (200, "disabled")
    assert await admin.call() == 503
    status, key = await admin.post("keys/main_key/enable")
    assert (status, key["state"]) == (200, "ready")
    assert await admin.call() == 200


async def test_an_unknown_key_is_404(operator, whole):
    admin = await operator(whole())
    status, body = await admin.post("keys/nobody/disable")
    assert status == 404
    assert "nobody" in body["error"]["message"]


async def test_a_key_without_a_secret_cannot_be_enabled(operator, setting, upstream):
    keys = {"pool": {"keys": [{"id": "none", "secret": "", "enabled": False}, {"id": "main", "secret": SECRET}]}}
    admin = await operator(setting(upstream, "select_key", up={"keys": "pool"}) | {"keys": keys})
    status, body = await admin.post("keys/none/enable")
    assert (status, "has no secret" in body["error"]["message"]) == (409, True)
    assert {key["id"]: key["state"] for key in await admin.page("keys")} == {"none": "disabled", "main": "ready"}
    assert (await admin.post("keys/none/disable"))[0] == 200


async def test_a_query_that_nobody_knows_is_400(operator, whole):
    admin = await operator(whole())
    status, body = await admin.get("/api/v1/costs", sinse="1h")
    assert (status, body["error"]["param"]) == (400, "sinse")
    assert 'did you mean "since"?' in body["error"]["message"]


async def test_limits_page_shows_what_is_in_use(operator, whole):
    admin = await operator(whole())
    await admin.call()
    rows = await admin.page("limits")
    rate = next(row for row in rows if row["unit"] == "requests a minute")
    assert (rate["chain"], rate["value"], rate["limit"], rate["per"]) == ("main", "anonymous", 100, ["principal"])
    assert 0 < rate["used"] <= 1
    shed = next(row for row in rows if row["policy"] == "shed_load")
    assert (shed["limit"], shed["used"]) == (10, 0)


async def test_budgets_page_shows_spent_and_remaining(operator, whole):
    admin = await operator(whole())
    await admin.call({"x-sidecar-project": "web"})
    rows = await admin.page("budgets")
    tokens = next(row for row in rows if row["unit"] == "tokens")
    assert (tokens["value"], tokens["limit"], tokens["spent"], tokens["remaining"]) == ("web", 100000, 12, 99988)
    dollars = next(row for row in rows if row["unit"] == "usd")
    assert 0 < dollars["spent"] < 0.01
    assert 0 < tokens["resets_in"] <= 86400


async def test_costs_page_sums_the_ledger(operator, whole):
    admin = await operator(whole())
    await admin.call({"x-sidecar-project": "web"})
    (row,) = await admin.page("costs", by="project,model", since="1h")
    assert (row["project"], row["model"], row["calls"], row["input_tokens"]) == ("web", "gpt-4o", 1, 9)
    (forecast,) = await admin.page("costs", forecast="1")
    assert "projected_usd" in forecast
    (change,) = await admin.page("costs", compare="1")
    assert change["calls"] == 1


@pytest.mark.parametrize("query", [{"by": "shoe"}, {"since": "yesterday"}, {"since": "1h", "until": "2h"}])
async def test_costs_page_says_what_it_cannot_read(operator, whole, query):
    admin = await operator(whole())
    status, body = await admin.get("/api/v1/costs", **query)
    assert status == 400
    assert body["error"]["message"]


async def test_costs_without_account_are_404(operator, setting, upstream):
    admin = await operator(setting(upstream))
    assert (await admin.get("/api/v1/costs"))[0] == 404


async def test_cache_page_counts_and_clear_forgets(operator, whole, upstream):
    admin = await operator(whole())
    await admin.call()
    await admin.call()
    (cache,) = await admin.page("cache")
    assert (cache["chain"], cache["hits"], cache["misses"], cache["entries"]) == ("main", 1, 1, 1)
    assert await admin.post("cache/clear", {"model": "another"}) == (200, {"cleared": 0})
    assert await admin.post("cache/clear", {"model": "gpt-4o"}) == (200, {"cleared": 1})
    await admin.call()
    assert len(upstream.calls) == 2


@pytest.mark.parametrize("selection", [{"tag": "team=a=b"}, {"tags": {"team": "a=b"}}])
async def test_a_tag_can_be_given_as_the_header_says_it(operator, whole, selection):
    admin = await operator(whole())
    await admin.call(headers={"x-sidecar-tags": "team=a=b"})
    await admin.call(headers={"x-sidecar-tags": "team=a"}, seed=1)
    assert await admin.post("cache/clear", selection) == (200, {"cleared": 1})
    assert (await admin.page("cache"))[0]["entries"] == 1


@pytest.mark.parametrize("word", ["prefix", "key_prefix"])
async def test_entries_can_be_forgotten_by_how_their_names_begin(operator, whole, word):
    admin = await operator(whole())
    for seed in range(8):
        await admin.call(seed=seed)
    cleared = [(await admin.post("cache/clear", {word: digit}))[1]["cleared"] for digit in "0123456789abcdef"]
    assert sum(cleared) == 8
    assert max(cleared) < 8


@pytest.mark.parametrize(
    "selection",
    [
        {"modle": "gpt-4o"},
        {"model": ""},
        {"model": None},
        {"project": None},
        {"tags": None},
        {"tag": None},
        {"prefix": None},
        {"key_prefix": None},
        {"tags": {}},
        {"tags": {"a": 1}},
        {"tag": "team"},
        {"tag": "=a"},
        {"tag": {"team": "a"}},
        {"tag": "team=a", "tags": {"team": "a"}},
        {"key_prefix": "xyz"},
        {"prefix": "xyz"},
        {"prefix": ""},
        {"prefix": "a", "key_prefix": "a"},
        [],
    ],
    ids=str,
)
async def test_a_selection_that_cannot_be_read_clears_nothing(operator, whole, selection):
    admin = await operator(whole())
    await admin.call()
    status, body = await admin.post("cache/clear", selection)
    assert status == 400
    assert "nothing was forgotten" in body["error"]["message"]
    assert (await admin.page("cache"))[0]["entries"] == 1


async def test_config_page_shows_no_secret(operator, whole):
    admin = await operator(whole())
    shown = await admin.page("config")
    assert (shown["generation"], shown["retiring"]) == (1, 0)
    assert shown["config"]["upstreams"]["up"]["api"] == "openai"
    assert SECRET not in str(shown)


async def test_alerts_page_shows_warnings_once_with_their_count(operator, whole, upstream):
    admin = await operator(whole())
    upstream.default = reply({}, status=500)
    for number in range(2):
        await admin.call(user=str(number))
    rows = await admin.page("alerts")
    assert any(row["text"] == "circuit breaker open" and row["about"]["upstream"] == "up" for row in rows)
    await admin.post("cache/clear", {})
    await admin.post("cache/clear", {})
    rows = await admin.page("alerts", limit="1")
    assert [(row["text"], row["count"]) for row in rows] == [("cache cleared by hand", 2)]


async def test_a_reload_that_is_refused_answers_409_with_every_mistake(operator, whole):
    admin = await operator(whole())
    status, body = await admin.post("reload")
    assert (status, body["ok"]) == (409, False)
    assert body["problems"]
    assert body["error"]["message"]


async def test_a_count_that_is_none_is_refused(operator, whole):
    admin = await operator(whole())
    status, body = await admin.get("/api/v1/exchanges", limit="many")
    assert (status, body["error"]["param"]) == (400, "limit")


async def test_every_page_is_described_and_answers_as_described(operator, whole):
    admin = await operator(whole())
    await admin.call()
    document = await admin.page("openapi.json")
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in admin.app.admin._runner.app.router.routes()
        if route.method != "HEAD"
    }
    described = {(method, path) for path, item in document["paths"].items() for method in item}
    assert routes - {("get", "/")} == described - {("get", "/")}
    for path, item in document["paths"].items():
        if "get" not in item or path == "/metrics":
            continue
        status, body = await admin.get(path)
        assert status == 200
        schema: dict[str, Any] = item["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(body, schema)
        named = schema.get("items", schema).get("properties")
        for row in body if isinstance(body, list) else [body]:
            if named is not None and path != "/api/v1/cache":
                assert set(row) <= set(named), path


def test_no_two_pages_share_a_path():
    paths = [path for page in PAGES for path in page.PATHS]
    assert len(paths) == len(set(paths))
