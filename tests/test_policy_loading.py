"""A class of one's own that cannot be had: the mistake says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import ConfigError
from proxy.load import load_config

GOOD = "from proxy.policy import Policy\nclass Mine(Policy):\n    name = 'mine'\nclass Other: pass\n"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is wrong with a chain of one policy, where modules with certain texts can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(policy: str, **modules: str) -> str:
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        file = tmp_path / "config.yaml"
        file.write_text(
            f"upstreams: {{demo: {{api: demo}}}}\nroutes: [{{upstream: demo, chain: c}}]\nchains: {{c: ['{policy}']}}\n"
        )
        with pytest.raises(ConfigError) as caught:
            load_config(file, env={})
        (problem,) = caught.value.problems
        return problem.message

    return load


def test_a_module_that_is_not_there(said):
    for policy in ("loading_none:Mine", "loading_none.below:Mine"):
        assert said(policy) == (
            f"the policy {policy} cannot be loaded: there is no module {policy.partition(':')[0]}: install it, or name its "
            "folder in PYTHONPATH"
        )


def test_a_class_that_is_not_there(said):
    assert said("loading_a:Mein", loading_a=GOOD) == (
        "the policy loading_a:Mein cannot be loaded: the module loading_a has no Mein; it has Mine"
    )


def test_a_class_that_is_no_policy(said):
    assert "loading_b:Other is not a subclass of proxy.policy.Policy; it has Mine" in said(
        "loading_b:Other", loading_b=GOOD
    )


def test_an_import_within_that_fails(said):
    assert "the module loading_c imports loading_nowhere, which is not installed" in said(
        "loading_c:Mine", loading_c=f"import loading_nowhere\n{GOOD}"
    )
    assert "the module loading_d cannot be imported: cannot import name 'nothing' from 'json'" in said(
        "loading_d:Mine", loading_d=f"from json import nothing\n{GOOD}"
    )


def test_a_module_that_is_no_python(said):
    assert "cannot be loaded: SyntaxError: " in said("loading_e:Mine", loading_e="class Mine(\n")


def test_a_name_that_nobody_knows_is_still_an_unknown_policy(said):
    assert said("rate_limits").startswith('unknown policy "rate_limits"; did you mean "rate_limit"?')
