"""``pii``: what it says of a configuration that cannot be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def pii(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", "pii", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_missing_configuration_is_told_in_a_line(tmp_path: Path) -> None:
    missing = tmp_path / "nofile"
    done = pii("mask", "--config", str(missing), given="x")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{missing}: this file cannot be read")
