"""Counts and estimates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.usage import PACKED, Usage, estimate_tokens, estimate_tokens_from_size

COUNTS = st.fixed_dictionaries({name: st.integers(0, 10**9) for name in PACKED})


@given(COUNTS)
def test_packing_loses_nothing(counts):
    usage = Usage(**counts)
    assert Usage.unpack(usage.pack()) == usage


@given(COUNTS, COUNTS)
def test_addition_adds_every_count(first, second):
    both = Usage(**first) + Usage(**second, estimated=True)
    assert all(getattr(both, name) == first[name] + second[name] for name in PACKED)
    assert both.estimated


def test_new_usage_is_empty_and_false():
    assert not Usage()
    assert Usage(output=1)
    assert Usage(input=3, output=4).total == 7


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a", 1), ("hello world!", 3), ("привет мир", 5), ("你好世界", 4), ("😀😀", 4), ("a" * 4000, 1000)],
)
def test_estimate_by_script(text, tokens):
    assert estimate_tokens(text) == tokens


@given(st.text(max_size=3000))
def test_estimate_lies_within_its_bounds(text):
    tokens = estimate_tokens(text)
    assert len(text) / 4 <= tokens <= 2 * len(text) or not text


def test_a_long_mixed_text_is_judged_by_its_sample():
    text = "слово " * 10_000
    assert estimate_tokens(text) == pytest.approx((5 * 0.5 + 0.25) * 10_000, rel=0.01)


def test_lone_surrogates_are_no_error():
    assert estimate_tokens("\ud800abc") > 0


def test_size_estimate_rounds_up():
    assert [estimate_tokens_from_size(size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert estimate_tokens(b"12345") == 2
