"""Whatever stands in the file, the flags or the environment: a configuration or a `ConfigError`, nothing else."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config import ConfigError, Model, load

WORDS = [
    "include",
    "server",
    "admin",
    "host",
    "port",
    "tls",
    "hosts",
    "drain",
    "max_body",
    "upstreams",
    "api",
    "openai",
    "demo",
    "base_url",
    "http://[",
    "keys",
    "strategy",
    "id",
    "secret",
    "routes",
    "match",
    "not",
    "headers",
    "ip",
    "tokens",
    "upstream",
    "chain",
    "chains",
    "use",
    "when",
    "mode",
    "name",
    "p",
    "state",
    "redis://[::",
    "ledger",
    "sqlite://",
    "data",
    "models",
    "prices",
    "log",
    "${A}",
    "${",
    "${B:-x}",
    "${file:x}",
    "${file:/dev/null}",
    "$$",
    "0",
    "5s",
    "none",
    "config.yaml",
    "*.yaml",
    "~nobody/x",
    "\x00",
    "\ud800",
    "timeouts",
    "proxy",
    "auth",
    "weight",
    "input",
    "1e400",
]
SCALARS = st.sampled_from(WORDS) | st.integers() | st.booleans() | st.none() | st.text(max_size=5) | st.floats()
TREES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.sampled_from(WORDS), below, max_size=5),
    max_leaves=25,
)
MARKS = [": ", ":", "\n", "\n  ", "- ", "[", "]", "{", "}", "&a ", "*a", "<<: ", "? ", "!x ", "'", '"', "---\n", "#"]
MARKS += ["\t", ",", "|"]
TOKENS = st.lists(st.sampled_from([*WORDS, *MARKS]), max_size=40).map("".join)
RELAXED = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=150)


class Policy(Model):
    """One option."""

    rpm: int = 1


def attempt(text: str, overrides: list[str], env: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            load(
                path,
                overrides=overrides,
                env=env,
                resolve=lambda name: Policy if name == "p" else None,
                names=lambda: ["p"],
            )
        except ConfigError as error:
            assert error.problems
            assert all(str(problem) for problem in error.problems)


@RELAXED
@given(st.text() | TOKENS)
def test_no_text_raises_anything_else(text: str) -> None:
    attempt(text, [], {"A": "1"})


@RELAXED
@given(st.dictionaries(st.sampled_from(WORDS), TREES, max_size=8))
def test_no_tree_raises_anything_else(tree: Any) -> None:
    attempt(json.dumps(tree), [], {"A": "[1"})


@RELAXED
@given(
    st.dictionaries(st.sampled_from(WORDS), TREES, max_size=4),
    st.lists(st.text(max_size=30) | TOKENS | st.tuples(TOKENS, TOKENS).map("=".join), max_size=3),
    st.lists(st.tuples(st.lists(st.sampled_from(WORDS), max_size=4).map("__".join), TOKENS), max_size=3),
)
def test_no_override_raises_anything_else(tree: Any, flags: list[str], variables: list[tuple[str, str]]) -> None:
    attempt(json.dumps(tree), flags, {f"LLM_SIDECAR__{name}": value for name, value in variables})
