from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import SecretStr, ValidationError

from proxy.config import Loaded, Place

Load = Callable[..., Loaded]
BASE = "upstreams: {demo: {api: demo}}\nchains: {a: []}\nroutes: [{upstream: demo, chain: a}]\n"


def test_what_is_left_out_has_its_default(loaded: Load) -> None:
    config = loaded(BASE).config
    assert (config.server.host, config.server.port, config.admin.port) == ("127.0.0.1", 8080, 8081)
    assert config.server.drain == 30.0
    assert config.server.max_body == 64 * 1024**2
    assert config.server.max_upload is None
    assert config.upstreams["demo"].timeouts.first_byte == 600.0
    assert config.upstreams["demo"].timeouts.total is None


def test_a_section_whose_lines_are_commented_out_has_its_defaults(loaded: Load) -> None:
    assert loaded(BASE + "server:\n  # port: 1\nlog:\n").config.server.port == 8080


def test_a_value_from_outside_takes_the_type_of_its_field(loaded: Load) -> None:
    text = BASE + 'server: {port: "${PORT}", drain: "${DRAIN:-5s}", host: "${HOST}"}\nlog: {access: "${set:NO}"}'
    config = loaded(text, env={"PORT": "9000", "HOST": "1"}).config
    assert (config.server.port, config.server.drain, config.server.host) == (9000, 5.0, "1")
    assert config.log.access is False


def test_zero_needs_no_unit_also_from_outside(loaded: Load) -> None:
    assert loaded(BASE + 'server: {drain: "${D}"}', env={"D": "0"}).config.server.drain == 0.0


def test_a_configuration_is_frozen(loaded: Load) -> None:
    config = loaded(BASE).config
    with pytest.raises(ValidationError, match="frozen"):
        config.server.port = 1  # type: ignore[misc]


def test_an_entry_of_a_chain_has_typed_options_and_the_common_ones(loaded: Load) -> None:
    options = "{rpm: 5, when: {model: gpt-*, tokens: '> 10'}, mode: off, name: x, on_error: open}"
    text = f"chains:\n  a:\n    - rate_limit: {options}\n"
    entry = loaded(text).config.chains["a"][0]
    assert entry.options.model_dump() == {"rpm": 5, "on_limit": "reject", "max_wait": 0.0}
    assert (entry.policy, entry.mode, entry.name, entry.on_error) == ("rate_limit", "off", "x", "open")
    assert entry.when is not None
    assert (entry.when.model, entry.when.tokens) == (("gpt-*",), (11, None))
    assert str(entry.place).endswith("config.yaml:3:7")
    assert entry.path == ("chains", "a", 0, "rate_limit")


def test_use_puts_the_entries_of_another_chain_in_place(loaded: Load) -> None:
    chains = loaded("chains: {a: [account, use: b, rate_limit], b: [signed: {}, use: c], c: [account]}").config.chains
    assert [entry.policy for entry in chains["a"]] == ["account", "signed", "account", "rate_limit"]
    assert chains["a"][1].path == ("chains", "b", 0, "signed")


def test_an_outsiders_policy_goes_by_module_and_class(loaded: Load) -> None:
    assert loaded("chains: {a: ['mine:Limit': {rpm: 3}]}").config.chains["a"][0].policy == "mine:Limit"


def test_an_outsiders_model_cannot_let_unknown_options_pass(mistakes: Callable[..., list[str]]) -> None:
    assert mistakes("chains: {a: ['mine:Lenient': {levle: 3}]}") == [
        'config.yaml:1:31: chains.a.0.mine:Lenient.levle: unknown key "levle"; did you mean "level"?; '
        "allowed: level, mode, name, on_error, when"
    ]


DESIGN = """
server:  {host: 127.0.0.1, port: 8080, workers: 1, drain: 30s}
admin:   {host: 127.0.0.1, port: 8081}                      # token: ${ADMIN_TOKEN} is required off loopback
data:    ~/.local/share/llm-sidecar                         # journal, ledger, queues
state:   memory                                             # or redis://...
ledger:  sqlite:///var/lib/llm-sidecar/ledger.db
upstreams:
  openai:    {api: openai,    base_url: https://api.openai.com/v1}
  nvidia:    {api: openai,    base_url: https://integrate.api.nvidia.com/v1, keys: nvidia}
  anthropic: {api: anthropic, base_url: https://api.anthropic.com}
  demo:      {api: demo}
keys:
  nvidia:
    strategy: [task, priority, least_loaded]                # applied in order, ties go to the next
    keys:
      - {id: medical_text_primary, secret: "${NVIDIA_API_KEY_MEDICAL_TEXT}", max_rpm: 1000, max_tpm: 50000,
         priority: 3, task_types: [medical_text_analysis, diagnostic_report_generation], cost_per_token: 0.0001}
chains: {default: [account]}
routes:
  - {match: {model: "claude-*"}, upstream: anthropic, chain: default}
  - {match: {path: /v1/*},       upstream: openai,    chain: default}
"""


def test_the_example_of_the_design_loads(loaded: Load) -> None:
    got = loaded(DESIGN, env={"NVIDIA_API_KEY_MEDICAL_TEXT": "nvapi-1"})
    assert got.warnings == ()
    assert got.config.data.name == "llm-sidecar"
    assert "~" not in str(got.config.data)
    assert got.config.keys["nvidia"].keys[0].task_types == ("medical_text_analysis", "diagnostic_report_generation")
    assert got.config.upstreams["anthropic"].key_auth.header == "x-api-key"
    assert got.config.upstreams["openai"].key_auth.prefix == "Bearer "


def test_lists_reach_models_that_prepare_their_input(loaded: Load) -> None:
    entry = loaded("chains: {a: [signed: {codes: [1, 2]}]}").config.chains["a"][0]
    assert entry.options.model_dump(include={"codes"}) == {"codes": (1, 2)}


def test_chains_that_double_each_other_are_bounded(mistakes: Callable[..., list[str]]) -> None:
    chains = "c0: [account, account], " + ", ".join(f"c{n}: [use: c{n - 1}, use: c{n - 1}]" for n in range(1, 40))
    assert "chains.c39: more than 500 policies, those of use: counted" in mistakes(f"chains: {{{chains}}}")[-1]


def test_a_place_is_found_for_what_is_written_and_for_what_is_not(loaded: Load) -> None:
    got = loaded(BASE)
    file = got.tree.place.file
    assert got.place(("routes", 0, "chain")) == Place(file, 3, 27)
    assert got.place(("routes", 0, "model")) == Place(file, 3, 10)
    assert got.place(("server", "port")) == Place(file, 1, 1)
    assert str(got.problem(("routes", 0), "is odd")) == f"{file}:3:10: routes.0: is odd"


def test_a_disabled_key_may_have_no_secret(loaded: Load) -> None:
    text = "keys: {p: {keys: [{id: a, secret: '${K:-}', enabled: '${set:K}'}]}}"
    assert loaded(text).config.keys["p"].keys[0].enabled is False
    assert loaded(text, env={"K": "x"}).config.keys["p"].keys[0].secret == SecretStr("x")


def test_no_form_of_a_configuration_shows_a_secret(loaded: Load) -> None:
    text = (
        "upstreams: {u: {api: openai, base_url: https://x/v1, headers: {x-a: topsecret1}, proxy: 'http://a:topsecret2@p'}}\n"
        "keys: {p: {keys: [{id: a, secret: topsecret3}]}}\nstate: redis://:topsecret4@host\n"
        "ledger: postgresql://u:topsecret5@h/d\nadmin: {token: topsecret6}\n"
        "chains: {c: [signed: {secret: topsecret7, word: '${W}'}], d: [use: c]}"
    )
    got = loaded(text, env={"W": "zzz"})
    assert "topsecret" not in repr(got.config)
    assert "topsecret" not in str(got.config)
    shown = got.shown()
    assert "topsecret" not in str(shown)
    assert shown["chains"]["d"][0]["signed"]["word"] == "${W}"
    assert shown["state"] == "redis://:***@host"


@pytest.mark.parametrize(
    ("written", "shown"),
    [("${W}", "${W}"), ("topsecret${W}", "**********"), ("${N:-topsecret}", "**********"), ("topsecret", "**********")],
)
def test_a_secret_is_shown_as_its_reference_alone(loaded: Load, written: str, shown: str) -> None:
    got = loaded(f"admin: {{token: '{written}'}}", env={"W": "topsecret"})
    assert got.shown()["admin"]["token"] == shown


def test_secret_files_are_among_the_sources(from_files: Load) -> None:
    text = "keys: {p: {keys: [{id: a, secret: '${file:s.txt}'}]}}"
    got = from_files({"config.yaml": text, "s.txt": "abc\n"})
    assert [path.name for path in got.sources] == ["config.yaml", "s.txt"]
    assert got.config.keys["p"].keys[0].secret.get_secret_value() == "abc"


def route(match: str, more: str = "") -> str:
    return f"  - {{match: {match}, upstream: demo, chain: a{more}}}\n"


@pytest.mark.parametrize(
    ("first", "second", "shadowed"),
    [
        ("{}", "{path: /x}", True),
        ("{path: /v1/*}", "{path: /v1/chat}", True),
        ("{path: '*'}", "{path: /v1/chat, model: x}", True),
        ("{path: /v1/*, model: a}", "{path: /v1/chat}", False),
        ("{path: /v1/*}", "{}", False),
        ("{path: [/a, /b*]}", "{path: [/a, /bc]}", True),
        ("{path: [/a, /b*]}", "{path: [/a, /c]}", False),
        ("{not: {model: x}}", "{path: /x}", False),
        ("{method: post}", "{method: POST}", True),
        ("{headers: {X-A: '*'}}", "{headers: {x-a: b}}", True),
        ("{tags: {a: b*}}", "{tags: {a: bc}}", True),
        ("{model: a*b*c}", "{model: axbxc}", True),
        ("{model: ab*ba}", "{model: aba}", False),
    ],
)
def test_a_route_that_no_call_reaches_is_warned_of(loaded: Load, first: str, second: str, shadowed: bool) -> None:
    got = loaded("upstreams: {demo: {api: demo}}\nchains: {a: []}\nroutes:\n" + route(first) + route(second))
    told = [str(warning).replace(got.tree.place.file, "f") for warning in got.warnings]
    message = "f:5:5: routes.1: no call reaches this route: all that it matches is taken by route 0 in f:4:5"
    assert told == ([message] if shadowed else [])


def test_a_disabled_route_shadows_nothing(loaded: Load) -> None:
    text = "upstreams: {demo: {api: demo}}\nchains: {a: []}\nroutes:\n" + route("{}", ", enabled: false") + route("{}")
    assert loaded(text).warnings == ()


def test_a_configuration_without_routes_is_warned_of(loaded: Load) -> None:
    assert [warning.message for warning in loaded("").warnings] == ["no route is enabled: every call will get 404"]
