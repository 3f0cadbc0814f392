"""Imports point one way, as design.md says, and no module waits for itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in (ROOT / "proxy").rglob("*.py")}


def is_typing(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


OWN_SOCKETS = {"proxy.policies.authenticate.key_set", "proxy.policies.cache.redis"}
"""Clients of a key server and of the cache's own Redis: they stand apart from the policy's class."""


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports of the package when it is loaded."""
    found: set[str] = set()
    body = [node for node in ast.parse(FILES[module].read_text()).body if not is_typing(node)]
    for node in body:
        inner = ast.walk(node) if isinstance(node, (ast.If, ast.Try)) else [node]
        for one in inner:
            if isinstance(one, ast.Import):
                found |= {alias.name for alias in one.names}
            elif isinstance(one, ast.ImportFrom) and one.module:
                # `from package import module` loads that module; what the package's own file holds is another matter.
                for alias in one.names:
                    inside = f"{one.module}.{alias.name}"
                    found.add(inside if inside in FILES else one.module)
    return frozenset(name for name in found if name in FILES and name != module)


@cache
def everything(module: str) -> frozenset[str]:
    """What is loaded with a module."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        for name in imports(todo.pop()):
            if name not in seen:
                seen.add(name)
                todo.append(name)
    return frozenset(seen)


@pytest.mark.parametrize("module", sorted(FILES))
def test_no_module_waits_for_itself(module):
    assert module not in everything(module), f"{module} imports itself by way of others"


@pytest.mark.parametrize("module", sorted(name for name in FILES if name.startswith("proxy.policies.")))
def test_a_policy_imports_no_other_policy_and_owns_no_socket(module):
    own = ".".join(module.split(".")[:3])
    others = {name for name in everything(module) if name.startswith("proxy.policies.") and not name.startswith(own)}
    assert not others
    flow = {
        "proxy.lifecycle",
        "proxy.listener",
        "proxy.app",
        "proxy.snapshot",
        "proxy.upstream.attempts",
        "proxy.admin",
    }
    assert not flow & everything(module)
    if module in OWN_SOCKETS:
        return
    tree = ast.parse(FILES[module].read_text())
    loaded = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    loaded |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not loaded & {"socket", "aiohttp", "httptools", "redis", "redis.asyncio", "asyncpg", "sqlite3"}


def test_no_step_imports_the_flow():
    importers = {name for name in FILES if "proxy.lifecycle" in imports(name)}
    assert importers <= {"proxy.app"}


@pytest.mark.parametrize("module", ["proxy.exchange", "proxy.errors", "proxy.document", "proxy.policy", "proxy.chain"])
def test_the_core_knows_no_feature(module):
    assert not [name for name in everything(module) if name.startswith(("proxy.policies", "proxy.admin", "proxy.cli"))]
    assert not {"proxy.snapshot", "proxy.app", "proxy.listener"} & everything(module)


def test_dialects_know_neither_upstreams_nor_policies():
    for module in FILES:
        if module.startswith("proxy.dialects"):
            away = ("proxy.policies", "proxy.upstream", "proxy.listener", "proxy.lifecycle", "proxy.snapshot")
            assert not [name for name in everything(module) if name.startswith(away)]


def test_no_drawer_for_odds_and_ends():
    bad = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    assert not [name for name in FILES if bad & set(name.split("."))]


def test_serving_loads_nothing_heavy():
    heavy = ["phonenumbers", "genai_prices", "redis", "asyncpg", "cryptography", "joserfc", "opentelemetry.sdk"]
    code = f"import sys, proxy.app, proxy.cli.serve\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout.strip() == "[]"
