"""llm-sidecar keys: what is printed works in a configuration, and no secret is where it should not be."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from proxy.__main__ import main
from proxy.config.secrets import FILE_VARIABLE, KEY_VARIABLE, decrypt, encrypt, generate_master_key

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `keys ...`; returns exit code, stdout, stderr."""

    def go(*arguments: str, stdin: str = "", master: str | None = None) -> tuple[int, str, str]:
        monkeypatch.delenv(FILE_VARIABLE, raising=False)
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        if master is not None:
            monkeypatch.setenv(KEY_VARIABLE, master)
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = main(["keys", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return go


def test_a_generated_master_key_encrypts_what_it_decrypts(run: Run) -> None:
    code, out, _ = run("generate")
    key = out.strip()
    code, out, _ = run("encrypt", stdin="sk-secret\n", master=key)
    assert code == 0
    token = re.fullmatch(r"\$\{encrypted:(.+)\}\n", out)
    assert decrypt(token[1], (key,)) == "sk-secret"


def test_a_master_key_file_is_private_and_never_overwritten(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "master"
    assert run("generate", "--out", str(file))[:2] == (0, "")
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    code, _, err = run("generate", "--out", str(file))
    assert (code, file.read_text()) == (2, before)
    assert "exists" in err


def test_a_virtual_key_comes_with_the_line_that_lets_it_in(run: Run) -> None:
    code, out, _ = run("generate", "virtual", "--id", "app", "--project", 'the "web"')
    key, line = out.splitlines()
    (entry,) = yaml.safe_load(line)
    assert code == 0
    assert entry == {"id": "app", "sha256": hashlib.sha256(key.encode()).hexdigest(), "project": 'the "web"'}


def test_a_bad_id_is_refused(run: Run) -> None:
    assert run("generate", "virtual", "--id", "not good")[0] == 2


def test_two_generated_keys_differ(run: Run) -> None:
    assert run("generate", "virtual")[1] != run("generate", "virtual")[1]


def test_encrypting_needs_a_master_key_and_a_secret(run: Run) -> None:
    code, out, err = run("encrypt", stdin="sk-secret")
    assert (code, out) == (2, "")
    assert KEY_VARIABLE in err
    assert run("encrypt", stdin="", master=generate_master_key())[0] == 2


def test_rotating_changes_every_token_and_nothing_else(run: Run, tmp_path: Path) -> None:
    old, new = generate_master_key(), generate_master_key()
    one, two = encrypt("first", (old,)), encrypt("second", (old,))
    file = tmp_path / "config.yaml"
    file.write_bytes(f'# kept\r\na: "${{encrypted:{one}}}"   # too\r\nb: x${{encrypted:{two}}}y\n'.encode())
    file.chmod(0o640)
    code, out, _ = run("rotate", str(file), master=f"{new},{old}")
    assert (code, "2 secrets" in out) == (0, True)
    text = file.read_bytes().decode()
    tokens = re.findall(r"\$\{encrypted:([^}]+)\}", text)
    assert [decrypt(token, (new,)) for token in tokens] == ["first", "second"]
    assert text.startswith('# kept\r\na: "')
    assert text.endswith("}y\n")
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_token_that_does_not_open_leaves_its_file_as_it_was(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    text = f"a: 1\nb: ${{encrypted:{encrypt('x', (generate_master_key(),))}}}\n"
    file.write_text(text)
    code, _, err = run("rotate", str(file), master=generate_master_key())
    assert (code, file.read_text()) == (1, text)
    assert "line 2" in err


def test_a_dry_run_changes_nothing(run: Run, tmp_path: Path) -> None:
    key = generate_master_key()
    file = tmp_path / "config.yaml"
    text = f"a: ${{encrypted:{encrypt('x', (key,))}}}\n"
    file.write_text(text)
    code, out, _ = run("rotate", "--dry-run", str(file), master=key)
    assert (code, file.read_text()) == (0, text)
    assert "1 secret to encrypt anew" in out


def test_a_file_that_is_not_there_is_said(run: Run) -> None:
    code, _, err = run("rotate", "/nowhere/config.yaml", master=generate_master_key())
    assert code == 2
    assert "/nowhere/config.yaml" in err


def test_listing_shows_where_secrets_come_from_and_never_what_they_are(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "sk-very-secret")
    file = tmp_path / "config.yaml"
    digest = hashlib.sha256(b"vk").hexdigest()
    file.write_text(
        f"""
upstreams: {{up: {{api: openai, base_url: "http://127.0.0.1:9/v1", keys: pool}}}}
keys:
  pool:
    keys:
      - {{id: one, secret: "${{THE_KEY}}", max_rpm: 10}}
      - {{id: two, secret: sk-written-here, enabled: "${{set:NOT_SET}}"}}
chains: {{c: [{{authenticate: {{method: keys, keys: [{{id: app, sha256: "{digest}"}}]}}}}, select_key]}}
routes: [{{upstream: up, chain: c}}]
"""
    )
    code, out, _ = run("list", "--config", str(file))
    assert code == 0
    assert re.search(r"pool +one +paid +enabled +10 rpm +\$\{THE_KEY\}", out)
    assert re.search(r"pool +two +paid +disabled", out)
    assert re.search(r"c +app +app", out)
    assert "sk-very-secret" not in out
    assert "sk-written-here" not in out
    assert digest not in out
