"""The chart rendered by the real helm: valid Kubernetes, no root, a drain that fits, and a configuration that works.

Part of `make chart-test`, not of `make test`: building helm takes minutes the first time.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy.load import load_config

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "helm"
KUBERNETES = ("1.29", "1.33")

_spec = importlib.util.spec_from_file_location("helm_binary", Path(__file__).parent / "helm_binary.py")
assert _spec is not None and _spec.loader is not None
_built = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_built)

SIDECAR: dict[str, Any] = {
    "mode": "sidecar",
    "app": {
        "image": "shop:1",
        "ports": [{"name": "http", "containerPort": 3000}],
        "env": [{"name": "A", "value": "b"}],
    },
}
CASES: dict[str, dict[str, Any]] = {
    "gateway": {},
    "sidecar": SIDECAR,
    "gateway-full": {
        "replicas": 3,
        "drain": 120,
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "envFromSecrets": ["provider-keys"],
        "secretFiles": "key-files",
        "imagePullSecrets": [{"name": "registry"}],
        "admin": {"existingSecret": "my-token"},
        "data": {"claim": "ledger"},
        "networkPolicy": {
            "enabled": True,
            "callers": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}],
            "admins": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "egress": [{"ports": [{"port": 6379, "protocol": "TCP"}]}],
        },
        "podLabels": {"tier": "edge"},
        "podAnnotations": {"a/b": "c"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "serviceAccount": {"create": False, "name": "mine"},
    },
    "sidecar-closed": SIDECAR | {"networkPolicy": {"enabled": True}, "preStop": 0, "replicas": 1},
}


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(_built.binary()), *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


def render(values: dict[str, Any], folder: Path, *more: str, kubernetes: str = "1.33") -> list[dict[str, Any]]:
    """The manifests for these values. Raises AssertionError with helm's own words."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = helm("template", "test", str(CHART), "--kube-version", f"{kubernetes}.0", "-f", str(file), *more)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [document for document in manifests if document["kind"] == kind]
    return found


def proxy_of(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The proxy's container."""
    pod = one(manifests, "Deployment")["spec"]["template"]["spec"]
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    (found,) = [container for container in containers if container["name"] == "llm-sidecar"]
    return found


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "a-secret-value") for entry in container["env"]}


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")  # of the validator's own dependencies
def test_what_is_rendered_is_valid_for_kubernetes(case: str, kubernetes: str, tmp_path: Path) -> None:
    for manifest in render(CASES[case], tmp_path, kubernetes=kubernetes):
        kubernetes_validate.validate(manifest, kubernetes, strict=True)


@pytest.mark.filterwarnings("ignore")  # of the validator's own dependencies
def test_the_pod_of_the_examples_is_valid_for_kubernetes() -> None:
    for manifest in yaml.safe_load_all((ROOT / "examples" / "kubernetes-sidecar" / "pod.yaml").read_text()):
        kubernetes_validate.validate(manifest, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("case", CASES)
def test_the_linter_has_nothing_against_it(case: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(CASES[case]))
    done = helm("lint", "--strict", str(CHART), "--kube-version", "1.33.0", "-f", str(tmp_path / "values.yaml"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", CASES)
def test_the_proxy_has_no_root_no_capabilities_and_no_writable_root(case: str, tmp_path: Path) -> None:
    manifests = render(CASES[case], tmp_path)
    security = proxy_of(manifests)["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] > 0 and security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"] and security["capabilities"] == {"drop": ["ALL"]}
    assert one(manifests, "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("case", CASES)
def test_a_pod_lives_longer_than_its_drain(case: str, tmp_path: Path) -> None:
    manifests = render(CASES[case], tmp_path)
    drain = int(environment_of(proxy_of(manifests))["LLM_SIDECAR__SERVER__DRAIN"].removesuffix("s"))
    pause = CASES[case].get("preStop", 5)
    assert one(manifests, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain + pause


@pytest.mark.parametrize("case", CASES)
def test_the_configuration_inside_loads_as_the_container_would_load_it(case: str, tmp_path: Path) -> None:
    manifests = render(CASES[case], tmp_path)
    (tmp_path / "config.yaml").write_text(one(manifests, "ConfigMap")["data"]["config.yaml"])
    loaded, warnings = load_config(tmp_path / "config.yaml", env=environment_of(proxy_of(manifests)))
    assert warnings == []
    inside = {"sidecar": "127.0.0.1", "gateway": "0.0.0.0"}[case.partition("-")[0]]
    assert (loaded.config.server.host, loaded.config.admin.port) == (inside, 8081)


def test_probes_and_service_name_ports_that_the_container_has(tmp_path: Path) -> None:
    manifests = render({}, tmp_path)
    container = proxy_of(manifests)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"admin"}
    assert [port["targetPort"] for port in one(manifests, "Service")["spec"]["ports"]] == ["calls"]
    assert ports == {"calls": 8080, "admin": 8081}


def test_a_sidecar_starts_before_the_application_and_is_set_as_its_base_url(tmp_path: Path) -> None:
    manifests = render(SIDECAR, tmp_path)
    pod = one(manifests, "Deployment")["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["restartPolicy"] == "Always"
    assert {"name": "OPENAI_BASE_URL", "value": "http://127.0.0.1:8080/v1"} in pod["containers"][0]["env"]
    assert not [document for document in manifests if document["kind"] == "Service"]


def test_a_new_configuration_is_a_new_pod(tmp_path: Path) -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = one(render(values, tmp_path), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) != checksum({"config": {"log": {"level": "debug"}}})


def test_a_configuration_file_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("# a comment\nkeys: {openai: {keys: [{id: one, secret: x, max_tpm: 1000000}]}}\n")
    manifests = render({}, tmp_path, "--set-file", f"config={file}")
    assert one(manifests, "ConfigMap")["data"]["config.yaml"].strip() == file.read_text().strip()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mode": "daemon"}, "mode"),
        ({"replcas": 3}, "replcas"),
        ({"drain": "30s"}, "drain"),
        ({"config": {"admin": {"port": 1}}}, "admin"),
        ({"config": {"server": {"host": "127.0.0.1"}}}, "server"),
        ({"mode": "sidecar"}, "app.image"),
    ],
    ids=str,
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    done = helm("template", "x", str(CHART), "--kube-version", "1.33.0", "-f", str(tmp_path / "values.yaml"))
    assert done.returncode != 0
    assert said in done.stderr


def test_the_schema_describes_every_value_that_has_a_default() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) <= set(schema["properties"])
    readme = (CHART / "README.md").read_text()
    assert [name for name in ("mode", "config", "drain", "networkPolicy", "app") if f"`{name}" not in readme] == []


@pytest.mark.parametrize("case", CASES)
def test_the_notes_say_where_to_call_and_what_is_not_shared(case: str, tmp_path: Path) -> None:
    # `helm template` prints no notes and `helm install` wants a cluster: render them as a file of a copy.
    chart = shutil.copytree(CHART, tmp_path / "chart")
    (chart / "templates" / "NOTES.txt").rename(chart / "notes.txt")
    (chart / "templates" / "said.yaml").write_text(
        'said: |{{ tpl (.Files.Get "notes.txt") . | nindent 2 }}\nkind: Notes\n'
    )
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(CASES[case]))
    done = helm("template", "x", str(chart), "--kube-version", "1.33.0", "-f", str(tmp_path / "values.yaml"))
    assert done.returncode == 0, done.stderr
    said = one([document for document in yaml.safe_load_all(done.stdout) if document], "Notes")["said"]
    if case.startswith("gateway"):
        assert "OPENAI_BASE_URL=http://x-llm-sidecar.default.svc:80/v1" in said
        assert "set config.state to redis://" in said
    assert ("ends with its pod" in said) is (case != "gateway-full")


def test_the_gateway_lets_nobody_spend_a_key_of_its_own_by_default(tmp_path: Path) -> None:
    config = yaml.safe_load(one(render({}, tmp_path), "ConfigMap")["data"]["config.yaml"])
    assert {"authenticate": {"method": "passthrough"}} in config["chains"]["main"]
    assert "keys" not in config
