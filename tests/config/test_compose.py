from __future__ import annotations

from typing import Any

import pytest

from proxy.config.compose import compose
from proxy.config.problem import Problem


def read(text: str) -> tuple[Any, list[str]]:
    found: list[Problem] = []
    node = compose(text, "f", found.append, found.append)
    return (None if node is None else node.plain()), [str(problem) for problem in found]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("off", "off"),
        ("yes", "yes"),
        ("True", "True"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("-5", -5),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("1e999", "1e999"),
        ("9" * 60, "9" * 60),
        ("~", None),
        ("null", None),
        ('"5"', "5"),
        ("!!str 5", "5"),
    ],
)
def test_a_scalar_has_its_type_of_yaml_1_2(text: str, value: object) -> None:
    got, found = read(f"a: {text}")
    assert got == {"a": value}
    assert type(got["a"]) is type(value)
    assert found == []


def test_keys_are_texts() -> None:
    assert read("{1: a, true: b, ~: c}")[0] == {"1": "a", "true": "b", "~": "c"}


def test_a_merge_key_fills_what_is_not_there() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 9}"
    assert read(text)[0]["c"] == {"x": 9, "y": 2, "z": 4}


def test_an_alias_is_a_copy() -> None:
    found: list[Problem] = []
    node: Any = compose("a: &a {x: 1}\nb: *a", "f", found.append, found.append)
    assert node.items["a"] is not node.items["b"]
    assert node.plain() == {"a": {"x": 1}, "b": {"x": 1}}


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", 'f:3:1: the key "a" is here twice; the first stands in line 1'),
        ("x:\n  a: 1\n  a: 3", 'f:3:3: x: the key "a" is here twice; the first stands in line 2'),
        ("a: *b", "f:1:4: *b names nothing: there is no &b above it"),
        ("a: &a [*a]", "f:1:8: *a stands inside what it names: that would never end"),
        ("? [a]\n: b", "f:1:3: a key must be a text, not a list or a map"),
        ("? {a: b}\n: b", "f:1:3: a key must be a text, not a list or a map"),
        ('"": b', "f:1:1: a key must not be empty"),
        ("a: !x b", "f:1:4: a: the tag !x is not used here: write the value alone"),
        (
            "a: !!python/object:os.system {}",
            "f:1:4: a: the tag tag:yaml.org,2002:python/object:os.system is not used here",
        ),
        ("<<: 5", "f:1:5: << takes a map, an alias of one, or a list of them"),
        ("a: 1\n---\nb: 2", "f:2:1: a second document (---): one file holds one"),
        (
            "a: [1, 2",
            "f:2:1: not valid YAML: did not find expected ',' or ']' "
            "(while parsing a flow sequence that began in line 1)",
        ),
        ("a: 'x", "not valid YAML: found unexpected end of stream (while scanning a quoted scalar)"),
        ("a:\n\t- b", "f:2:1: not valid YAML: "),
        ("a: b\n  c: d", "f:2:4: not valid YAML: mapping values are not allowed in this context"),
        ("a: \x00", "f:1:4: not valid YAML: control characters are not allowed"),
        ("[" * 100_000, "f:1:49: nested more than 48 levels deep"),
        ("- " * 100_000, "nested more than 48 levels deep"),
        (LAUGHS, "more than 100,000 values, aliases counted: too large for a configuration"),
        ("a" * (4 * 1024**2 + 1), "f: larger than 4 MiB: too large for a configuration"),
    ],
)
def test_each_mistake_is_told_with_its_place(text: str, message: str) -> None:
    assert message in read(text)[1][0]


def test_a_tab_is_named() -> None:
    assert read("a:\n\t- b")[1][0].endswith(": indent with spaces, not tabs")
