"""Rules that say which calls."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.match import Match, When
from proxy.match import any_glob, compile_match, compile_when, glob, needs_model, networks, why_not
from proxy.testing import exchange_builder


@pytest.mark.parametrize(
    ("pattern", "text", "holds"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-*", "gpt-", True),
        ("*", "", True),
        ("*mini", "gpt-4o-mini", True),
        ("/v1/*", "/v1/a/b", True),
        ("/v1/*/x", "/v1/a/b/x", True),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "acb", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("a?c", "abc", False),
        ("**", "x\ny", True),
    ],
)
def test_glob(pattern, text, holds):
    assert bool(glob(pattern)(text)) is holds


@given(st.text("ab*/", max_size=8), st.text("ab/", max_size=12))
def test_glob_is_what_its_regular_expression_says(pattern, text):
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None
    assert bool(glob(pattern)(text)) is expected


def test_many_stars_take_no_time():
    start = time.perf_counter()
    assert not glob("a*" * 8 + "z")("a" * 300)
    assert time.perf_counter() - start < 2


@given(st.lists(st.text("ab*", max_size=4), min_size=1, max_size=4), st.text("ab", max_size=6))
def test_any_of_several(patterns, text):
    assert bool(any_glob(patterns)(text)) is any(glob(pattern)(text) for pattern in patterns)


@pytest.mark.parametrize(
    ("nets", "address", "holds"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.5"], "10.0.0.5", True),
        (["::1"], "::1", True),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["10.0.0.0/8"], "", False),
        (["10.0.0.0/8"], "nonsense", False),
        (["*"], "anything", True),
    ],
)
def test_networks(nets, address, holds):
    assert networks(nets)(address) is holds


def match(**keys: Any) -> Match:
    return Match.model_validate(keys)


def test_all_keys_hold_and_any_value_of_a_list():
    exchange = exchange_builder()
    rule = compile_match(match(path=["/v1/x", "/v1/chat/*"], method="post"))
    assert rule is not None
    assert rule(exchange)
    rule = compile_match(match(path="/v1/chat/*", method=["GET", "PUT"]))
    assert rule is not None
    assert not rule(exchange)


def test_an_empty_match_matches_all():
    assert compile_match(match()) is None
    assert compile_when(When.model_validate({}))(exchange_builder())


def test_not_turns_around():
    exchange = exchange_builder()
    for keys, holds in (({"method": "GET"}, True), ({"method": "POST"}, False)):
        rule = compile_match(match(**{"not": keys}))
        assert rule is not None
        assert rule(exchange) is holds


def test_what_is_not_there_matches_nothing_and_its_not_everything():
    exchange = exchange_builder()
    rule, turned = compile_match(match(project="*")), compile_match(match(**{"not": {"project": "*"}}))
    assert rule is not None
    assert turned is not None
    assert (rule(exchange), turned(exchange)) == (False, True)


def test_the_body_is_only_needed_for_the_model():
    assert not needs_model(match(path="/v1/*", headers={"x": "y"}))
    assert needs_model(match(model="gpt*"))
    assert needs_model(match(**{"not": {"model": "gpt*"}}))


def test_the_first_condition_that_fails_is_named():
    exchange = exchange_builder()
    assert why_not(match(method="POST", path="/v2/*"), exchange) == "path: /v2/*"
    assert why_not(match(method="POST"), exchange) is None
