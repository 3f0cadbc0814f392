"""A policy that cannot work as it is configured is told where it stands, by check and by serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TEXT = """\
data: {data}
admin: {{enabled: false}}
upstreams: {{demo: {{api: demo}}}}
routes: [{{upstream: demo, chain: c}}]
chains:
  c:
    - cache: {{store: redis, redis: "redis://127.0.0.1:1/0", encrypt: always}}
"""


@pytest.mark.parametrize(("command", "code"), [("check", 1), ("serve", 2)])
def test_encryption_without_a_master_key_is_refused_before_anything_is_served(tmp_path: Path, command, code):
    file = tmp_path / "config.yaml"
    file.write_text(TEXT.format(data=tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "proxy", command, "--config", str(file)],
        capture_output=True, text=True, timeout=20, check=False, env={"PATH": "/usr/bin"},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == code
    assert (
        f"{file}:7:7: chains.c.0.cache: cache: encrypt: always needs a master key: set LLM_SIDECAR_MASTER_KEY" in said
    )
    assert "Traceback" not in said
