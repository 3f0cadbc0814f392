"""What a process that cannot start as configured says, and how it ends: one line that says what to do, exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def serve(folder: Path, *settings: str, server: str = "port: 0") -> tuple[int, list[str]]:
    """Exit code and stderr's lines of a ``serve`` that must not start."""
    file = folder / "config.yaml"
    file.write_text(
        f"server: {{{server}}}\nadmin: {{enabled: false}}\nupstreams: {{demo: {{api: demo}}}}\ndata: {folder}\n"
        "routes: [{upstream: demo, chain: c}]\nchains: {c: [account]}\n"
    )
    arguments = [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--config", str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def test_a_data_folder_that_cannot_be_made_is_told_in_a_line(tmp_path: Path) -> None:
    assert serve(tmp_path, "data=/proc/x") == (
        2,
        [
            "data /proc/x: the journal cannot be kept there (No such file or directory: /proc/x): "
            "name a folder that this process may make and write to"
        ],
    )


def test_a_data_folder_that_is_a_file_is_told_in_a_line(tmp_path: Path) -> None:
    place = tmp_path / "taken"
    place.touch()
    code, (line,) = serve(tmp_path, f"data={place}")
    assert code == 2
    assert line.startswith(f"data {place}: the journal cannot be kept there (Not a directory")


def test_workers_that_cannot_keep_a_journal_end_the_whole(tmp_path: Path) -> None:
    code, lines = serve(tmp_path, "data=/proc/x", "server.workers=2")
    assert code == 2
    assert lines[-1].startswith("data /proc/x: the journal cannot be kept there")
    assert "Traceback" not in "\n".join(lines)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unix_socket_in_a_missing_folder_is_told_in_a_line(tmp_path: Path, workers: int) -> None:
    place = tmp_path / "missing" / "socket"
    code, (line,) = serve(tmp_path, server=f"unix: {place}, workers: {workers}")
    assert code == 2
    assert line.startswith(f"server.unix {place}: cannot listen there (No such file or directory)")
