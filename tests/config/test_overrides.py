from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.config import Loaded

Load = Callable[..., Loaded]
BASE = """
upstreams: {demo: {api: demo}, my-azure: {api: openai, base_url: http://x/v1}}
keys: {p: {keys: [{id: first, secret: a}, {id: second, secret: b}]}}
chains: {a: [account, rate_limit: {rpm: 5}]}
routes: [{upstream: demo, chain: a}]
models: {gpt-4.1: {model: x}}
server: {port: 1}
"""


def test_flags_win_over_variables_and_variables_over_files(loaded: Load) -> None:
    env = {"LLM_SIDECAR__SERVER__PORT": "2", "LLM_SIDECAR__SERVER__WORKERS": "3"}
    server = loaded(BASE, "server.port=4", env=env).config.server
    assert (server.port, server.workers) == (4, 3)


def test_a_variable_finds_keys_in_any_case_and_with_dashes(loaded: Load) -> None:
    env = {"llm_sidecar__Upstreams__MY_AZURE__base_url": "http://y/v1", "LLM_SIDECAR__MODELS__GPT_4_1__MODEL": "z"}
    config = loaded(BASE, env=env).config
    assert config.upstreams["my-azure"].base_url == "http://y/v1"
    assert config.models["gpt-4.1"].model == "z"


@pytest.mark.parametrize("flag", ["routes.0.model=m", "routes[0].model=m", 'routes.0."model"=m'])
def test_an_entry_of_a_list_goes_by_its_number(loaded: Load, flag: str) -> None:
    assert loaded(BASE, flag).config.routes[0].model == "m"


def test_an_entry_of_a_list_goes_by_its_name(loaded: Load) -> None:
    config = loaded(BASE, "chains.a.rate_limit.rpm=7", "keys.p.keys.second.max_rpm=8").config
    assert config.chains["a"][1].options.model_dump()["rpm"] == 7
    assert config.keys["p"].keys[1].max_rpm == 8


def test_a_policy_without_options_gets_some(loaded: Load) -> None:
    assert loaded(BASE, "chains.a.account.mode=off").config.chains["a"][0].mode == "off"


def test_one_past_the_end_appends(loaded: Load) -> None:
    config = loaded(BASE, "chains.a.2=account", "routes.1={upstream: demo, chain: a, match: {path: /x}}").config
    assert len(config.chains["a"]) == 3
    assert len(config.routes) == 2


def test_a_segment_with_a_dot_stands_in_quotes(loaded: Load) -> None:
    assert loaded(BASE, 'models."gpt-4.1".model=y').config.models["gpt-4.1"].model == "y"


@pytest.mark.parametrize("value", ["5", "true", "[a b", "[a, b]", "{a: b}", "abc #def", "a: b", "*x", "$$ ${A}"])
def test_a_text_is_taken_as_it_is(loaded: Load, value: str) -> None:
    assert loaded(BASE, env={"LLM_SIDECAR__ADMIN__TOKEN": value}).config.admin.token.get_secret_value() == value  # type: ignore[union-attr]


def test_lists_and_quotes_are_yaml(loaded: Load) -> None:
    server = loaded(BASE, "server.hosts=[a, b]", 'server.host="c"').config.server
    assert (server.hosts, server.host) == (("a", "b"), "c")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("server.port", "--set server.port: needs a value: --set server.port=9000"),
        ("server.port=x", "--set server.port: server.port: must be a whole number, not a text"),
        (
            "server.prot=1",
            '--set server.prot: server.prot: unknown key "prot"; did you mean "port"?; allowed: backlog, ',
        ),
        ("=1", "--set : names no path: write it like server.port, or LLM_SIDECAR__SERVER__PORT"),
        ("a..b=1", "--set a..b: names no path: write it like server.port, or LLM_SIDECAR__SERVER__PORT"),
        ("server.port.x=1", "--set server.port.x: server.port is a single value: nothing stands below it"),
        ("routes.5.chain=a", "--set routes.5.chain: routes has no entry 5: allowed are 0 to 1, where 1 appends"),
        (
            "chains.a.rate_limt.rpm=1",
            "--set chains.a.rate_limt.rpm: chains.a has no entry rate_limt: allowed are 0 to 2, where 2 appends, "
            'or a name; did you mean "rate_limit"?',
        ),
        ("include=x", "--set include: include can only be set in a file"),
        ("server.host=\udcff", "--set server.host: is not UTF-8 text"),
    ],
)
def test_a_mistake_names_the_flag(mistakes: Callable[..., list[str]], flag: str, message: str) -> None:
    assert mistakes(BASE, flag)[0].startswith(message)


def test_a_mistake_names_the_variable_and_not_its_value(mistakes: Callable[..., list[str]]) -> None:
    env = {"LLM_SIDECAR__LOG__LEVEL": "topsecret", "LLM_SIDECAR__SERVER__DRAIN": "topsecret", "LLM_SIDECAR____X": "1"}
    assert mistakes(BASE, env=env) == [
        "LLM_SIDECAR____X: names no path: write it like server.port, or LLM_SIDECAR__SERVER__PORT",
        "LLM_SIDECAR__SERVER__DRAIN: server.drain: must be a duration: a number with a unit, such as 250ms, 5s, 10m, "
        "1h or 7d, not what LLM_SIDECAR__SERVER__DRAIN brought in",
        "LLM_SIDECAR__LOG__LEVEL: log.level: must be one of debug, info, warning, error, not what "
        "LLM_SIDECAR__LOG__LEVEL brought in",
    ]


def test_a_variable_that_may_mean_two_keys_is_told(mistakes: Callable[..., list[str]]) -> None:
    text = "models: {a-b: {model: x}, a.b: {model: y}}"
    assert mistakes(text, env={"LLM_SIDECAR__MODELS__A_B__MODEL": "z"}) == [
        "LLM_SIDECAR__MODELS__A_B__MODEL: A_B may mean a-b or a.b: use --set, which tells them apart"
    ]
