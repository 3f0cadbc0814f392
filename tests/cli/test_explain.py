"""``explain`` says what a call would get, whatever its body is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def explained(folder: Path, request: bytes, *arguments: str, chain: str = "account", match: str = "{}") -> Any:
    """What ``explain --json -`` says of a request."""
    file = folder / "config.yaml"
    file.write_text(
        f"upstreams: {{demo: {{api: demo}}}}\nroutes: [{{match: {match}, upstream: demo, chain: main}}]\n"
        f"chains: {{main: [{chain}]}}\ndata: {folder}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "explain", "--config", str(file), "--json", *arguments, "-"],
        input=request,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe{}"])
@pytest.mark.parametrize(
    ("chain", "match"), [("account", "{}"), ("account, validate", "{}"), ("", "{model: m}"), ("pii", "{}")]
)
def test_a_body_that_is_no_json_is_refused_as_in_a_call(tmp_path: Path, body: bytes, chain: str, match: str) -> None:
    refused = explained(tmp_path, body, chain=chain, match=match)["refused"]
    assert (refused["status"], refused["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("body", [b"{", b""])
def test_a_plain_forward_sends_it_as_it_is(tmp_path: Path, body: bytes) -> None:
    assert explained(tmp_path, body, chain="")["sent"]["body"] == body.decode()


def test_dot_segments_are_refused_as_in_a_call(tmp_path: Path) -> None:
    refused = explained(tmp_path, b"{}", "--path", "/v1/chat/../files")["refused"]
    assert (refused["status"], refused["code"]) == (400, "invalid_value")
