"""Trees of JSON read and written without loss, also where orjson refuses or rounds."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exact import copied, read, rounds, written

BIG = 123456789012345678901234567890
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
trees = st.recursive(
    leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4), max_leaves=9
)


@given(trees)
def test_whatever_is_written_is_read_as_it_was(tree: Any) -> None:
    """Integers of any size and halves of surrogate pairs included."""
    assert json.dumps(copied(tree)) == json.dumps(json.loads(json.dumps(tree)))


@given(trees)
def test_a_tree_without_oddities_is_written_as_orjson_writes_it(tree: Any) -> None:
    try:
        plain = orjson.dumps(tree)
    except TypeError:
        return
    assert written(tree) == plain


@pytest.mark.parametrize("data", [b'{"a": %d}' % BIG, b"[-%d]" % BIG, b'"id: %d"' % BIG, b"%d" % 2**64])
def test_bytes_in_which_an_integer_may_be_rounded_are_told(data: bytes) -> None:
    assert rounds(data)
    assert read(data) == json.loads(data)


@pytest.mark.parametrize(
    "data", [b'{"logprob": -0.00031501626130193472}', b"[1e22, 123456789012345678]", b'{"a": "b"}', b""]
)
def test_others_are_not(data: bytes) -> None:
    assert not rounds(data)


def test_what_servers_written_in_python_send_is_read() -> None:
    assert math.isnan(read(b'{"logprob": NaN}')["logprob"])
    assert read(b'"a\\ud83d"') == "a\ud83d"


@pytest.mark.parametrize("data", [b"", b"{", b"<html>", b"\xff", b"[" * 100_000, b"9" * 10_000])
def test_what_cannot_be_read_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(data)


def test_what_cannot_be_written_is_a_value_error() -> None:
    tree: list[Any] = []
    for _ in range(100_000):
        tree = [tree]
    with pytest.raises(ValueError, match="deep"):
        written(tree)
