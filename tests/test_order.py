"""Rule 9: orders that leak or cannot work are refused when the configuration is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.config import ConfigError
from proxy.load import load_config

AUTH: dict[str, Any] = {"authenticate": {"method": "keys", "keys": [{"id": "a", "sha256": "0" * 64}]}}
PII: dict[str, Any] = {"pii": {"entities": ["EMAIL"], "action": "mask"}}
CACHE: dict[str, Any] = {"cache": {"ttl": "1h"}}


def load(tmp_path: Path, *chain: Any, up: dict[str, Any] | None = None, **more: Any) -> Any:
    file = tmp_path / "config.yaml"
    config = {
        "data": str(tmp_path),
        "upstreams": {"up": {"api": "openai", "base_url": "http://127.0.0.1:9/v1", **(up or {})}},
        "routes": [{"upstream": "up", "chain": "main"}],
        "chains": {"main": list(chain)},
        **more,
    }
    file.write_text(json.dumps(config))
    return load_config(file, overrides=[], env={})


def refused(tmp_path: Path, *chain: Any, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *chain, **more)
    return "\n".join(str(problem) for problem in caught.value.problems)


@pytest.mark.parametrize("above", [PII, AUTH])
def test_a_cache_above_what_protects_is_refused(tmp_path, above):
    text = refused(tmp_path, CACHE, above)
    assert f"cache stands above {next(iter(above))}" in text
    assert "move cache below" in text
    load(tmp_path, above, CACHE)


@pytest.mark.parametrize(
    "policy",
    [
        {"rate_limit": {"per": "principal", "rpm": 5}},
        {"rate_limit": {"per": ["model", "project"], "rpm": 5}},
        {"budget": {"per": "project", "usd": 5, "window": "day"}},
        {"cache": {"ttl": "1h", "scope": "principal"}},
        {"cache": {"ttl": "1h"}},
    ],
)
def test_counting_by_caller_above_authenticate_is_refused(tmp_path, policy):
    assert "authenticate" in refused(tmp_path, policy, AUTH)
    load(tmp_path, AUTH, policy)


def test_counting_by_something_else_may_stand_above(tmp_path):
    load(tmp_path, {"rate_limit": {"per": "ip", "rpm": 5}}, AUTH)


def test_two_caches_are_refused(tmp_path):
    assert "one cache" in refused(tmp_path, CACHE, CACHE)


def test_a_policy_that_is_off_does_not_count(tmp_path):
    load(tmp_path, {"cache": {"ttl": "1h", "mode": "off"}}, AUTH, CACHE)


@pytest.mark.parametrize("policy", ["select_key", {"retry": {"attempts": 2}}, "circuit_breaker"])
def test_what_acts_on_attempts_above_a_cache_is_refused(tmp_path, policy):
    assert "below cache" in refused(tmp_path, policy, CACHE)


def test_an_upstream_with_keys_needs_one_that_chooses(tmp_path):
    pool = {"keys": {"pool": {"keys": [{"id": "k", "secret": "sk-x"}]}}}
    text = refused(tmp_path, AUTH, up={"keys": "pool"}, **pool)
    assert "select_key" in text
    assert "routes" in text
    load(tmp_path, AUTH, "select_key", up={"keys": "pool"}, **pool)
    load(tmp_path, {"authenticate": {"method": "passthrough"}}, up={"keys": "pool"}, **pool)


@pytest.mark.parametrize("options", [{"mode": "observe"}, {"when": {"model": "gpt*"}}])
def test_masking_that_may_not_happen_above_a_cache_is_warned_of(tmp_path, options):
    _, warnings = load(tmp_path, {"pii": PII["pii"] | options}, CACHE)
    assert any("bypass" in str(warning) for warning in warnings)


@pytest.mark.parametrize("policy", [AUTH, "account", "select_key"])
def test_some_policies_refuse_to_observe(tmp_path, policy):
    name, options = next(iter(policy.items())) if isinstance(policy, dict) else (policy, {})
    assert "observe" in refused(tmp_path, {name: options | {"mode": "observe"}})


def test_all_mistakes_are_told_at_once_with_their_places(tmp_path):
    text = refused(tmp_path, CACHE, AUTH, PII, CACHE)
    assert text.count("config.yaml:") >= 3


# --- all mistakes at once ---------------------------------------------------------------------------------

WRONG: dict[str, Any] = {"log": {"level": "loud"}}
LEAKS: list[Any] = [CACHE, PII]


@pytest.mark.parametrize(
    "more",
    [
        WRONG,
        {"chains": {"main": LEAKS, "other": ["no_such_policy"]}},
        {"chains": {"main": [*LEAKS, {"retry": {"attempts": "many"}}]}},
        {"routes": [{"upstream": "no_such", "chain": "main"}]},
    ],
)
def test_an_order_that_leaks_is_told_beside_any_other_mistake(tmp_path, more):
    lines = refused(tmp_path, *LEAKS, **more).splitlines()
    assert len(lines) == 2
    assert sum("cache stands above pii" in line for line in lines) == 1


def test_what_cannot_observe_is_told_beside_any_other_mistake(tmp_path):
    text = refused(tmp_path, {"account": {"mode": "observe"}}, **WRONG)
    assert "account cannot only observe" in text
    assert "log.level" in text


@pytest.mark.parametrize("more", [{}, {"routes": [{"upstream": "no_such", "chain": "main"}]}])
def test_what_only_a_policy_can_tell_is_told_beside_other_mistakes_with_its_place(tmp_path, more):
    sealed = {"cache": {"store": "redis", "redis": "redis://127.0.0.1:1/0", "encrypt": "always"}}
    lines = refused(tmp_path, "account", sealed, PII, **more).splitlines()
    assert sum(": chains.main.1.cache: cache: encrypt: always needs a master key" in line for line in lines) == 1
    assert any("cache stands above pii" in line for line in lines)


def test_what_could_not_be_read_is_not_missed_as_well(tmp_path):
    keys = {"pool": {"keys": [{"id": "k", "secret": "sk-x"}]}}
    broken = [{"authenticate": {"method": "kees"}}, {"select_key": {"max_wait": "soon"}}]
    lines = refused(tmp_path, *broken, server={"host": "0.0.0.0"}, keys=keys, up={"keys": "pool"}).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "chains.main.0.authenticate.method",
        "chains.main.1.select_key.max_wait",
    ]


def test_a_chain_that_is_not_there_is_one_mistake(tmp_path):
    keys = {"pool": {"keys": [{"id": "k", "secret": "sk-x"}]}}
    routes = [{"upstream": "up", "chain": "mian"}]
    text = refused(tmp_path, server={"host": "0.0.0.0"}, keys=keys, up={"keys": "pool"}, routes=routes)
    assert len(text.splitlines()) == 1
    assert 'there is no chain "mian"' in text


def test_what_the_environment_does_not_say_is_one_mistake(tmp_path):
    lines = refused(tmp_path, "validate", server={"host": "${NOT_SET}"}).splitlines()
    assert len(lines) == 1
    assert "NOT_SET is not set" in lines[0]
