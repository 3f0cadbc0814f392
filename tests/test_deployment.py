"""Azure's classic paths name the model, whoever asks for it."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.deployment import deployment, redirected
from proxy.testing import FakeUpstream, chat_answer, reply

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
PATH = "/openai/deployments/our-gpt/chat/completions?api-version=2024-10-21"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/openai/deployments/our-gpt/chat/completions", "our-gpt"),
        ("/openai/deployments/e%20f/embeddings", "e f"),
        ("/open%61i/%64eployments/d/completions", "d"),
        ("/openai/deployments/a%2Fb/completions", "a/b"),
        ("/openai/deployments/d", None),
        ("/openai/deployments/d/", None),
        ("/openai/deployments", None),
        ("/openai/v1/chat/completions", None),
        ("/v1/deployments/d/x", None),
    ],
)
def test_which_paths_name_a_deployment(path: str, name: str | None) -> None:
    assert deployment(path) == name


def test_a_path_is_redirected_to_another_deployment_and_others_are_not() -> None:
    assert redirected("/openai/deployments/a/chat/completions", "b c") == "/openai/deployments/b%20c/chat/completions"
    assert redirected("/v1/chat/completions", "b") == "/v1/chat/completions"


def config(upstream: FakeUpstream, *chain: Any, **more: Any) -> dict[str, Any]:
    return {
        "upstreams": {"azure": {"api": "openai", "base_url": upstream.origin + "/openai/v1"}},
        "routes": [{"upstream": "azure", "chain": "main"}],
        "chains": {"main": list(chain)},
        **more,
    }


async def ask(proxy: Any, wire: Any, path: str = PATH, body: dict[str, Any] = BODY, *headers: str) -> Any:
    client = await wire(proxy.port)
    await client.post(path, body, *headers)
    return await client.answer()


@pytest.mark.parametrize(
    ("operation", "body"),
    [("chat/completions", BODY), ("completions", {"prompt": "Hello"}), ("embeddings", {"input": "Hello"})],
)
async def test_validate_needs_no_model_in_the_body(sidecar, upstream, wire, operation, body):
    proxy = await sidecar(config(upstream, "validate"))
    answer = await ask(proxy, wire, f"/openai/deployments/our-gpt/{operation}", body)
    assert answer.status == 200, answer.body
    assert upstream.calls[0].json == body


async def test_the_call_is_in_the_books_by_the_name_in_the_path(sidecar, wire):
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
    async with FakeUpstream(default=reply(chat_answer("x") | {"usage": usage})) as upstream:
        proxy = await sidecar(config(upstream, "account", prices={"our-gpt": {"input": 3, "output": 5}}))
        answer = await ask(proxy, wire, body=BODY | {"model": "gpt-4o"})
    assert answer.header("x-sidecar-cost-usd") == "3"
    assert proxy.exchanges[0].model_asked == "our-gpt"


async def test_a_key_for_certain_models_is_held_to_the_name_in_the_path(sidecar, upstream, wire):
    from hashlib import sha256

    key = {"id": "k", "sha256": sha256(b"secret").hexdigest(), "principal": "ann", "models": ["allowed*"]}
    proxy = await sidecar(config(upstream, {"authenticate": {"method": "keys", "keys": [key]}}))
    said = BODY | {"model": "allowed"}
    answer = await ask(proxy, wire, PATH, said, "api-key: secret")
    assert (answer.status, answer.error["code"]) == (403, "model_not_allowed")
    answer = await ask(proxy, wire, PATH.replace("our-gpt", "allowed-gpt"), BODY, "api-key: secret")
    assert answer.status == 200


async def test_routes_match_it(sidecar, upstream, wire):
    proxy = await sidecar(
        config(upstream) | {"routes": [{"match": {"model": "our-*"}, "upstream": "azure", "chain": "main"}]}
    )
    assert (await ask(proxy, wire)).status == 200
    assert (await ask(proxy, wire, PATH.replace("our-gpt", "other"), BODY | {"model": "our-gpt"})).status == 404


async def test_an_alias_leads_to_another_deployment(sidecar, upstream, wire):
    proxy = await sidecar(config(upstream, models={"our-gpt": {"model": "newer"}}))
    assert (await ask(proxy, wire)).status == 200
    assert upstream.calls[0].target == PATH.replace("our-gpt", "newer")


async def test_deployments_share_no_answer_of_a_cache(sidecar, upstream, wire):
    proxy = await sidecar(config(upstream, {"cache": {"ttl": "1h"}}))
    for _ in range(2):
        for name in ("one", "two"):
            assert (await ask(proxy, wire, PATH.replace("our-gpt", name))).status == 200
    assert len(upstream.calls) == 2
    assert [exchange.model_asked for exchange in proxy.exchanges] == ["one", "two"] * 2
