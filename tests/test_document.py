"""A JSON body: bytes until read, then a tree that says exactly what the bytes said."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.openai_chat import openai_chat
from proxy.document import Document
from proxy.errors import ProxyError


def code(raw: bytes) -> str | None:
    """The error code of a request body; None when it is read."""
    try:
        Document(raw).strict()
    except ProxyError as error:
        return error.code
    return None


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.recursive(leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(keys, v, max_size=4), max_leaves=12)
objects = st.dictionaries(keys, values, max_size=5)


def same(left: Any, right: Any) -> bool:
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


@given(objects, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_every_object_is_read_as_it_is(tree, indent, ascii_only):
    raw = json.dumps(tree, indent=indent, ensure_ascii=ascii_only).encode()
    assert same(Document(raw).strict(), tree)
    assert Document(raw).encode() == raw


@given(objects, keys, values, values)
def test_a_duplicate_key_is_found_wherever_it_stands(tree, key, one, two):
    tree.pop(key, None)
    pair = f"{{{json.dumps(key)}: {json.dumps(one)}, {json.dumps(key)}: {json.dumps(two)}}}"
    for raw in (
        pair,
        json.dumps({**tree, "zz-inside": "@@"}).replace('"@@"', pair),
        json.dumps({"a": [[tree, "@@"]]}).replace('"@@"', pair),
    ):
        assert code(raw.encode()) == "invalid_json"


@given(st.integers(2**64, 2**300) | st.integers(-(2**300), -(2**63) - 1), objects)
def test_an_integer_beyond_64_bits_is_found_wherever_it_stands(number, tree):
    raw = json.dumps({"t": tree, "n": [{"m": number}]}).encode()
    assert code(raw) == "invalid_value"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"\\u0061":2}',
        b'{"a\\"":1,"a\\"":2}',
        b'{"\\\\":1,"\\\\":2}',
        b'{"":1,"":2}',
        b'{"a":"{\\"x\\":1,\\"x\\":2}","b":1,"b":1}',
        b'{"a":{"b":1},"a":{"b":1}}',
        b'{"a":[],"a":[]}',
    ],
)
def test_duplicates_in_disguise(raw):
    assert code(raw) == "invalid_json"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"\\"b\\":1,\\"b\\":2"}',
        b'{"a":{"k":1},"b":{"k":1}}',
        b'{"a":[{"k":1},{"k":1}]}',
        b'{"a\\\\":1,"a":2}',
        b'{"text":"18446744073709551616"}',
        b'{"f":18446744073709551616.0}',
        b'{"f":1e300,"g":1E+2,"h":-0.0,"i":-0}',
        b'{"n":18446744073709551615,"m":-9223372036854775808}',
        b'{"surrogates":"\\ud83d\\ude00","slash":"\\/"}',
    ],
)
def test_what_only_looks_wrong_is_read(raw):
    assert code(raw) is None


@pytest.mark.parametrize("raw", [b'{"n":1e400}', b'{"n":-1e400}', b'{"n":' + b"9" * 400 + b".0}"])
def test_a_float_beyond_all_bounds_is_no_infinity(raw):
    try:
        tree = Document(raw).strict()
    except ProxyError as error:
        assert error.status == 400
    else:
        assert math.isfinite(tree["n"])


@given(st.binary(max_size=40))
def test_any_bytes_are_an_object_or_a_clear_error(raw):
    assert code(raw) in (None, "invalid_json", "invalid_value")


@given(st.text(alphabet='{}[]":,\\ue1-0.9 \n', max_size=30).map(str.encode))
def test_almost_json_is_judged_as_the_exact_parser_does(raw):
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) != len(items):
            raise ValueError
        return dict(items)

    try:
        tree = json.loads(raw, object_pairs_hook=pairs)
        plain = isinstance(tree, dict)
        orjson.loads(raw)
    except (ValueError, RecursionError):
        plain = False
    assert (code(raw) is None) is plain or code(raw) == "invalid_value"


@pytest.mark.parametrize("kind", [b"[1]", b'"x"', b"1", b"true", b"null"])
def test_what_is_no_object_is_named(kind):
    with pytest.raises(ProxyError, match="must be a JSON object, not") as caught:
        Document(kind).strict()
    assert caught.value.code == "invalid_json"


def test_the_duplicate_is_named():
    with pytest.raises(ProxyError, match="'model'") as caught:
        Document(b'{"model":1,"model":2}').strict()
    assert caught.value.param == "model"


def test_an_edit_is_what_is_sent():
    document = Document(b'{ "a" : 1 }')
    document.strict()["a"] = 2
    assert document.encode() == b'{ "a" : 1 }'
    document.touch()
    # Encoded or not, the bytes received say something else: a second attempt must not send them.
    assert (document.edited, document.encode(), document.edited) == (True, b'{"a":2}', True)
    document.replace({"b": 1})
    assert document.encode() == b'{"b":1}'
    assert Document.of({"c": [1]}).encode() == b'{"c":[1]}'


def test_nothing_is_parsed_before_it_is_asked_for():
    document = Document(b"{bad")
    assert (document.was_read, document.encode()) == (False, b"{bad")
    with pytest.raises(ProxyError):
        document.strict()
    with pytest.raises(ProxyError):
        document.strict()


def test_an_answer_may_be_anything():
    assert Document(b"[1]").lenient() == [1]
    assert Document(b"<html>").lenient() is None
    assert Document(b'{"a":1,"a":2}').lenient() == {"a": 2}


def test_a_fork_shares_nothing():
    document = Document(b'{"a":{"b":1}}')
    document.strict()["a"]["b"] = 2
    document.touch()
    other = document.fork()
    other.strict()["a"]["b"] = 3
    other.touch()
    assert (document.encode(), other.encode()) == (b'{"a":{"b":2}}', b'{"a":{"b":3}}')


def test_a_million_digits_take_no_time():
    assert code(b'{"n":' + b"9" * 1_000_000 + b"}") in ("invalid_value", "invalid_json")


def test_what_bounds_the_answer_follows_every_edit():
    document = Document(b'{"model": "m", "max_tokens": 5}')
    assert document.bound(openai_chat).tokens == 5
    document.strict()["max_tokens"] = 7
    document.touch()
    assert document.bound(openai_chat).tokens == 7
    document.replace({"model": "m", "n": 2})
    assert (document.bound(openai_chat).tokens, document.bound(openai_chat).choices) == (None, 2)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"4111111111111111":1,"4111111111111111":2}',
        b'{"a":41111111111111114111111111}',
        b'{"a":-41111111111111114111}',
    ],
)
def test_an_error_shows_no_value(raw: bytes) -> None:
    with pytest.raises(ProxyError) as caught:
        Document(raw).strict()
    assert "4111" not in caught.value.message + (caught.value.param or "")


def test_an_error_names_the_field_that_stands_twice() -> None:
    with pytest.raises(ProxyError) as caught:
        Document(b'{"model":1,"model":2}').strict()
    assert caught.value.param == "model"
