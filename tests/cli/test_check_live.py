"""check --live: a table of what each provider says to each key about each model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.__main__ import main
from proxy.load import load_config
from proxy.testing import FakeUpstream, reply
from proxy.testing.upstream import Call
from proxy.upstream.live import Finding, try_all

GOOD, BAD = "sk-good-secret", "sk-bad-secret"


async def provider(call: Call) -> None:
    """Lists one model, knows another one that it does not list, and one key."""
    if call.header("authorization") != f"Bearer {GOOD}" and call.header("x-api-key") != GOOD:
        await reply({"error": {"message": "no"}}, status=401)(call)
    elif call.path.endswith("/models"):
        await reply({"data": [{"id": "listed"}]})(call)
    elif call.path.endswith("/models/tuned"):
        await reply({"id": "tuned"})(call)
    else:
        await reply({"error": {"message": "the model does not exist"}}, status=404)(call)


def settings(url: str, *keys: str, models: tuple[str, ...] = ("listed",), **more: Any) -> dict[str, Any]:
    return {
        "upstreams": {"up": {"api": "openai", "base_url": url, "keys": "pool", **more}},
        "keys": {"pool": {"keys": [{"id": f"key{n}", "secret": secret} for n, secret in enumerate(keys)]}},
        "models": {f"alias-{model}": {"model": model} for model in models},
        "chains": {"c": ["select_key"]},
        "routes": [{"upstream": "up", "chain": "c"}],
    }


async def tried(tmp_path: Path, config: dict[str, Any]) -> list[Finding]:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(config))
    return await try_all(load_config(file, env={})[0].config)


async def test_each_key_and_model_is_tried(tmp_path):
    async with FakeUpstream(default=provider) as up:
        found = await tried(tmp_path, settings(up.url, GOOD, BAD, models=("listed", "missing", "tuned")))
    said = [(one.key, one.model, one.authorised, one.available) for one in found]
    assert said == [
        ("key0", "listed", True, True),
        ("key0", "missing", True, False),
        ("key0", "tuned", True, True),
        ("key1", "listed", False, None),
        ("key1", "missing", False, None),
        ("key1", "tuned", False, None),
    ]
    assert all(one.reachable and one.latency is not None for one in found)
    assert {call.method for call in up.calls} == {"GET"}


async def test_a_provider_that_is_not_there_is_unreachable(tmp_path):
    (one,) = await tried(tmp_path, settings("http://127.0.0.1:9/v1", GOOD))
    assert (one.reachable, one.authorised, one.bad) == (False, None, True)
    assert one.note.startswith("refused")


async def test_an_anthropic_upstream_is_asked_in_its_own_way(tmp_path):
    async with FakeUpstream(default=provider) as up:
        (one,) = await tried(tmp_path, settings(up.origin, GOOD, api="anthropic"))
        call = up.calls[0]
    assert (one.authorised, one.available) == (True, True)
    assert call.path == "/v1/models"
    assert call.header("anthropic-version") == "2023-06-01"


async def test_an_upstream_without_keys_is_not_called_wrong(tmp_path):
    async with FakeUpstream(default=provider) as up:
        config = settings(up.url, GOOD)
        del config["upstreams"]["up"]["keys"]
        (one,) = await tried(tmp_path, config)
    assert (one.key, one.reachable, one.authorised, one.bad) == (None, True, None, False)


@pytest.mark.parametrize(("secret", "code", "word"), [(GOOD, 0, "yes"), (BAD, 1, "NO")])
def test_the_command_prints_a_table_and_no_secret(tmp_path, capsys, secret, code, word):
    loop = asyncio.new_event_loop()
    up = FakeUpstream(default=provider)
    loop.run_until_complete(up.start())
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(settings(up.url, secret)))
    import threading

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        assert main(["check", "--live", "--config", str(file)]) == code
    finally:
        asyncio.run_coroutine_threadsafe(up.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["upstream", "key", "model", "reachable", "authorised", "available", "latency", "note"]
    assert row.split()[:5] == ["up", "key0", "listed", "yes", word]
    assert secret not in row
