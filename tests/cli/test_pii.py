"""``pii``: what it says of a configuration that cannot be read, and its lines."""

from __future__ import annotations

import json
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


def test_an_empty_line_has_no_entities() -> None:
    done = pii("scan", "--jsonl", given='{"text": "a@b-mail.net"}\n\n{"text": "nothing"}\n')
    assert done.returncode == 0
    assert [len(json.loads(line)["entities"]) for line in done.stdout.splitlines()] == [1, 0, 0]
