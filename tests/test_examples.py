"""Every folder of examples/ is run or checked."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.load import load_config

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def test_every_example_is_listed_and_has_a_page() -> None:
    folders = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir() and any(folder.glob("*.md")))
    listed = re.findall(r"^\| \[([\w-]+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == folders


async def test_the_sdk_example_prints_what_its_page_shows(sidecar: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = EXAMPLES / "openai-sdk"
    config = (folder / "config.yaml").read_text().replace("../../policies", str(ROOT / "policies"))
    proxy = await sidecar(config)
    monkeypatch.setenv("OPENAI_BASE_URL", proxy.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "not-needed-here")
    spec = importlib.util.spec_from_file_location("sdk_example", folder / "chat.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said: list[str] = []
    await asyncio.to_thread(module.main, said.append)
    assert f"```text\n{''.join(said)}```" in (folder / "README.md").read_text()


def test_the_custom_policys_own_tests_pass() -> None:
    # The outer run's own variables would make the inner one take itself for a part of it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "custom-policy")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_a_copy_of_the_custom_policys_folder_passes_elsewhere(tmp_path: Path) -> None:
    copy = shutil.copytree(EXAMPLES / "custom-policy", tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=copy, capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_pods_configuration_loads_as_its_container_would_load_it(tmp_path: Path) -> None:
    config_map, secret, pod = yaml.safe_load_all((EXAMPLES / "kubernetes-sidecar" / "pod.yaml").read_text())
    (tmp_path / "openai").write_text(secret["stringData"]["openai"] + "\n")
    text = config_map["data"]["config.yaml"].replace("/run/secrets/llm/", f"{tmp_path}/")
    (tmp_path / "config.yaml").write_text(text)
    (container,) = pod["spec"]["initContainers"]
    environment = {entry["name"]: entry.get("value", "a-secret") for entry in container["env"]}
    loaded, warnings = load_config(tmp_path / "config.yaml", env=environment)
    assert warnings == []
    assert loaded.config.server.host == "127.0.0.1"
    assert loaded.config.server.drain < pod["spec"]["terminationGracePeriodSeconds"]
    probed = {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probed == {port["name"] for port in container["ports"]}


def test_compose_gives_the_gateway_every_variable_that_its_configuration_asks_for() -> None:
    folder = EXAMPLES / "shared-gateway"
    gateway = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["gateway"]
    files = (folder / "config.yaml", ROOT / "policies" / "shared-gateway.yaml")
    lines = [line for file in files for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    asked = set(re.findall(r"\$\{(\w+)\}", "\n".join(lines)))
    assert asked == set(gateway["environment"])


def test_nginx_takes_the_gateways_configuration(tmp_path: Path) -> None:
    text = (
        (EXAMPLES / "shared-gateway" / "nginx.conf").read_text().replace("listen 80;", f"listen unix:{tmp_path}/entry;")
    )
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {text} }}"
    )
    done = subprocess.run(
        ["/usr/sbin/nginx", "-t", "-q", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
