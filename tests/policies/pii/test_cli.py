"""``pii scan`` and ``pii mask``, run as the command would."""

import argparse
import io
import json
from pathlib import Path

import pytest

from proxy.cli import pii


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    pii.add_parser(parser.add_subparsers())
    args = parser.parse_args(["pii", *argv])
    return int(args.run(args))


def test_scan_gives_a_line_for_each_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "é ann@x.io"}\n\n{"text": "nothing"}\n')
    assert run("scan", "--jsonl", "--file", str(source)) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {"entities": [{"start": 2, "end": 10, "type": "EMAIL", "rank": "checksum"}]}
    assert lines == [found, {"entities": []}, {"entities": []}]


def test_scan_keeps_step_over_a_bad_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": 5}\nnope\n{"text": "ok"}\n')
    assert run("scan", "--jsonl", "--file", str(source)) == 1
    seen = capsys.readouterr()
    assert len(seen.out.splitlines()) == 3
    assert "line 1" in seen.err


def test_mask_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Stdin:
        buffer = io.BytesIO(b"ann@x.io and <EMAIL_1>\n")

    monkeypatch.setattr("sys.stdin", Stdin())
    assert run("mask") == 0
    assert capsys.readouterr().out == "<EMAIL_2> and <EMAIL_1>\n"


def test_an_unknown_type_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scan", "--jsonl", "--entities", "EMIAL") == 2
    assert "EMIAL" in capsys.readouterr().err


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mask", "--file", "/nowhere/x.txt") == 2
    assert "/nowhere/x.txt" in capsys.readouterr().err


def test_a_configuration_says_what_to_look_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "upstreams: {main: {api: demo}}\n"
        "chains: {only: [{pii: {entities: [TAG], action: redact, custom: [{type: TAG, pattern: 'T[0-9]'}]}}]}\n"
        "routes: [{match: {path: /v1/*}, upstream: main, chain: only}]\n"
    )
    source = tmp_path / "in.txt"
    source.write_text("T1 and ann@x.io")
    assert run("mask", "--config", str(config), "--file", str(source)) == 0
    assert capsys.readouterr().out == "[TAG] and ann@x.io"
    assert run("mask", "--config", str(config), "--chain", "other", "--file", str(source)) == 2
    assert "no pii policy" in capsys.readouterr().err
