"""Every YAML that ships is one that works: it loads, its policies can be built, and it stays as strict as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from proxy import cli
from proxy.load import load_config

ROOT = Path(__file__).resolve().parent.parent
PACKS = sorted((ROOT / "policies").glob("*.yaml"))
CONFIGS = [ROOT / "config.yaml", *sorted((ROOT / "examples").glob("*/config.yaml"))]
SAID = {
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "LEDGER_URL": "postgresql://sidecar@127.0.0.1/sidecar",
    "GATEWAY_KEY_SHOP": "1" * 64,
    "GATEWAY_KEY_RESEARCH": "2" * 64,
}


def _environment(*files: Path) -> dict[str, str]:
    names = {name for file in files for name in re.findall(r"\$\{(?:set:)?([A-Z_][A-Z0-9_]*)", file.read_text())}
    return {name: SAID.get(name, "a-value-for-the-test") for name in names if not name.endswith("_URL") or name in SAID}


def _included(pack: Path, folder: Path) -> Path:
    """A small configuration that uses every chain of a pack."""
    chains = yaml.safe_load(pack.read_text())["chains"]
    upstreams = yaml.safe_load(pack.read_text()).get("upstreams", {})
    upstream = next(iter(upstreams), "provider")
    config: dict[str, Any] = {
        "include": [str(pack)],
        "upstreams": {} if upstreams else {"provider": {"api": "openai", "base_url": "https://api.example.com/v1"}},
        "routes": [{"match": {"path": f"/v1/{name}/*"}, "upstream": upstream, "chain": name} for name in chains],
    }
    if upstreams:
        # The part alone, made to be spliced in, selects no key.
        config["routes"] = [route for route in config["routes"] if not route["chain"].endswith("-only")]
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.parametrize("pack", PACKS, ids=lambda file: file.name)
def test_a_pack_passes_check(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in _environment(pack).items():
        monkeypatch.setenv(name, value)
    assert cli.run(["check", "--config", str(_included(pack, tmp_path))]) == 0, capsys.readouterr().out
    assert "(warning)" not in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_configuration_passes_check(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(config.parent))
    for name, value in _environment(config, *PACKS).items():
        if name != "OPENAI_API_KEY":
            monkeypatch.setenv(name, value)
    assert cli.run(["check", "--config", str(config)]) == 0, capsys.readouterr().out


def test_the_shipped_configuration_uses_the_provider_when_there_is_a_key() -> None:
    with_key, _ = load_config(ROOT / "config.yaml", env={"OPENAI_API_KEY": "sk-something"})
    without, _ = load_config(ROOT / "config.yaml", env={})
    assert next(route.upstream for route in with_key.config.routes if route.enabled) == "openai"
    assert next(route.upstream for route in without.config.routes if route.enabled) == "demo"


@pytest.mark.parametrize("file", [*PACKS, *CONFIGS], ids=lambda file: str(file.relative_to(ROOT)))
def test_an_editor_that_follows_the_schema_finds_nothing_wrong(file: Path) -> None:
    schema = json.loads((ROOT / "docs" / "schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    # An editor reads the file as it stands, ${...} included; a date is a text to it.
    document = json.loads(json.dumps(yaml.safe_load(file.read_text()), default=str))
    assert [f"{list(error.path)}: {error.message[:200]}" for error in validator.iter_errors(document)] == []


@pytest.mark.parametrize("file", [ROOT / "config.yaml", *PACKS], ids=lambda file: file.name)
def test_the_editor_line_leads_to_the_schema(file: Path) -> None:
    found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", file.read_text())
    assert found is not None and (file.parent / found[1]).resolve() == ROOT / "docs" / "schema.json"


def test_the_strict_pack_masks_both_ways_and_keeps_nothing(tmp_path: Path) -> None:
    loaded, _ = load_config(_included(ROOT / "policies" / "strict-pii.yaml", tmp_path), env={})
    chain = loaded.config.chains["strict-pii"]
    pii = next(entry for entry in chain if entry.policy == "pii").options
    assert set(pii.direction) == {"request", "response"}  # type: ignore[attr-defined]
    assert pii.on_opaque == "block"  # type: ignore[attr-defined]
    assert "cache" not in {entry.policy for entry in chain}
