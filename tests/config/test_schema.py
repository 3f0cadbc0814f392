from __future__ import annotations

from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from proxy.config.schema import schema


@pytest.fixture
def document(policies: dict[str, type[BaseModel]]) -> dict[str, Any]:
    return schema(policies.get, lambda: policies)


def test_it_is_a_schema(document: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(document)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "text",
    [
        "server: {port: 80, drain: 30s, max_body: 64MiB, max_upload: none}",
        "server: {port: '${PORT}', drain: '${D:-5s}', tls: {cert: a, key: b}}",
        "log: {level: '${L}', access: '${set:A}'}",
        "include: a.yaml",
        "include: [a.yaml]",
        "upstreams: {u: {api: openai, base_url: http://x, headers: {a: b}, timeouts: {total: none}}}",
        "routes: [{match: {model: gpt-*, not: {ip: 10.0.0.0/8}}, upstream: u, chain: c}]",
        "chains: {c: []}",
        "chains: {c: [account, use: d, rate_limit: {rpm: 5, mode: 'off', when: {tokens: '> 5'}}, 'm.n:Class']}",
        "chains: {c: [{account: }, rate_limit: {rpm: '${R}'}]}",
        "keys: {p: {strategy: [task], keys: [{id: a, secret: x, max_rpm: 5, task_types: [a]}]}}",
    ],
)
def test_it_allows_what_the_loader_allows(document: dict[str, Any], text: str) -> None:
    assert list(Draft202012Validator(document).iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "sever: {}",
        "server: {prot: 1}",
        "server: {drain: 30}",
        "server: {drain: 5 s}",
        "server: {port: eighty}",
        "log: {level: warn}",
        "chains: {c: [acount]}",
        "chains: {c: [rate_limit: {rmp: 5}]}",
        "chains: {c: [{account: {}, rate_limit: {}}]}",
        "chains: {c: [fallback: {}]}",
        "routes: [{upstream: u}]",
    ],
)
def test_it_refuses_what_the_loader_refuses(document: dict[str, Any], text: str) -> None:
    assert list(Draft202012Validator(document).iter_errors(yaml.safe_load(text))) != []


def test_it_describes_policies_and_their_options(document: dict[str, Any]) -> None:
    entry = document["properties"]["chains"]["additionalProperties"]["items"]["anyOf"][2]["properties"]
    assert entry["rate_limit"]["description"] == "Calls per minute."
    assert entry["rate_limit"]["anyOf"][0]["properties"]["rpm"]["description"] == "Calls in a minute."


def test_defaults_are_shown_as_they_are_written(document: dict[str, Any]) -> None:
    server = document["$defs"]["Server"]["properties"]
    assert (server["drain"]["default"], server["max_body"]["default"]) == ("30s", "64MiB")
    assert server["max_upload"]["default"] == "none"


def test_every_field_is_described(document: dict[str, Any]) -> None:
    ours = {name: shape for name, shape in document["$defs"].items() if name not in {"Target"}}
    bare = [
        f"{name}.{field}"
        for name, shape in ours.items()
        for field, value in shape.get("properties", {}).items()
        if "description" not in value
    ]
    assert bare == []
