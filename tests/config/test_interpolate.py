from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import secrets
from proxy.config.interpolate import Context, InterpolationError, interpolate

ENV = {"A": "one", "EMPTY": "", "DOLLAR": "${A} $$", "OPENAI_API_KEY": "sk-secret"}


def text(value: str) -> str:
    return interpolate(value, Context(ENV)).text


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("${A}", "one"),
        ("x-${A}-${A}", "x-one-one"),
        ("${B:-two}", "two"),
        ("${EMPTY:-two}", "two"),
        ("${EMPTY}", ""),
        ("${B:-}", ""),
        ("${B:-${A}!}", "one!"),
        ("${B:-a:-b}", "a:-b"),
        ("${set:A}", "true"),
        ("${set:B}", "false"),
        ("${set:EMPTY}", "false"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("5$ and $x", "5$ and $x"),
        ("${DOLLAR}", "${A} $$"),
    ],
)
def test_references_are_followed(value: str, result: str) -> None:
    assert text(value) == result


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "${OPENAI_APIKEY}",
            "the environment variable OPENAI_APIKEY is not set: set it, or give a default with "
            '${OPENAI_APIKEY:-default}; did you mean "OPENAI_API_KEY"?',
        ),
        ("${A", "${ without its closing }; write $$ for a dollar sign"),
        (
            "${a b}",
            "${a b} is no reference: allowed are ${NAME}, ${NAME:-default}, ${encrypted:...}, ${file:...}, "
            "${set:...}, ${unset:...} and $$ for a dollar sign",
        ),
        (
            "${fil:/x}",
            '${fil:...}: there is no function fil; allowed: encrypted, file, set, unset; did you mean "file"?',
        ),
        ("${set:a b}", "${set:NAME} needs the name of an environment variable"),
        ("${file:}", "${file:...} needs a path"),
        ("${file:/nowhere/x}", "${file:...}: /nowhere/x cannot be read: No such file or directory"),
        ("${file:/tmp}", "${file:...}: /tmp is not a file"),
        ("${file:/dev/zero}", "${file:...}: /dev/zero is not a file"),
        (
            "${encrypted:abc}",
            "${encrypted:...}: needs a master key: set LLM_SIDECAR_MASTER_KEY, or LLM_SIDECAR_MASTER_KEY_FILE to a "
            "file of mode 0600",
        ),
        ("${B:-" * 9 + "}" * 9, "references stand more than 8 deep in one another"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told(value: str, message: str) -> None:
    with pytest.raises(InterpolationError) as caught:
        text(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(("value", "outside"), [("${A}", True), ("${B:-x}", False), ("${set:A}", False), ("$$", False)])
def test_it_is_known_what_came_from_outside(value: str, outside: bool) -> None:
    assert interpolate(value, Context(ENV)).outside is outside


def test_a_file_is_relative_to_the_folder_and_loses_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("secret\n")
    context = Context({}, folder=tmp_path)
    assert interpolate("${file:s}", context).text == "secret"
    assert list(context.files) == [tmp_path / "s"]


def test_an_encrypted_value_opens_with_an_older_key() -> None:
    old, new = secrets.generate_master_key(), secrets.generate_master_key()
    token = secrets.encrypt("sk-1", (old,))
    assert interpolate(f"${{encrypted:{token}}}", Context({"LLM_SIDECAR_MASTER_KEY": f"{new},{old}"})).text == "sk-1"


def test_rotation_makes_a_token_of_the_newest_key() -> None:
    old, new = secrets.generate_master_key(), secrets.generate_master_key()
    token = secrets.rotate(secrets.encrypt("sk-1", (old,)), (new, old))
    assert secrets.decrypt(token, (new,)) == "sk-1"


def test_a_token_of_another_key_is_refused_without_showing_anything() -> None:
    token = secrets.encrypt("sk-1", (secrets.generate_master_key(),))
    with pytest.raises(secrets.SecretError) as caught:
        secrets.decrypt(token, (secrets.generate_master_key(),))
    assert str(caught.value) == (
        "the encrypted value opens with none of the master keys: it is damaged or made with another key"
    )


def test_a_malformed_master_key_is_refused() -> None:
    with pytest.raises(secrets.SecretError, match="a master key is malformed: it must be 32 bytes in base64"):
        secrets.encrypt("x", ("short",))


def test_a_master_key_file_must_be_private(tmp_path: Path) -> None:
    key = secrets.generate_master_key()
    path = tmp_path / "master"
    path.write_text(key + "\n")
    env = {"LLM_SIDECAR_MASTER_KEY_FILE": str(path)}
    path.chmod(0o640)
    with pytest.raises(secrets.SecretError) as caught:
        secrets.master_keys(env)
    assert str(caught.value) == f"{path} has mode 0640; a master key file must have 0600: chmod 600 {path}"
    path.chmod(0o600)
    assert secrets.master_keys(env) == (key,)


def test_a_pipe_as_master_key_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(secrets.SecretError, match="is not a file"):
        secrets.master_keys({"LLM_SIDECAR_MASTER_KEY_FILE": str(tmp_path / "pipe")})


@given(st.text(alphabet="${}:-AB az/\x00", max_size=40) | st.text())
def test_no_text_makes_it_raise_anything_else(value: str) -> None:
    with contextlib.suppress(InterpolationError):
        interpolate(value, Context(ENV))


def test_unset_is_the_opposite_of_set() -> None:
    assert [text("${unset:A}"), text("${unset:EMPTY}"), text("${unset:GONE}")] == ["false", "true", "true"]
