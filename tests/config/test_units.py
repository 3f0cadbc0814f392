from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from proxy.config.units import (
    DurationOrNone,
    SizeOrNone,
    parse_duration,
    parse_ratio,
    parse_size,
    show_duration,
    show_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5s", 5.0), ("10m", 600.0), ("1h", 3600.0), ("7d", 604800.0), ("1h30m", 5400.0), (0, 0.0)],
)
def test_a_duration_is_read_as_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 * 1024**2), ("1MB", 1000**2), ("512KiB", 512 * 1024), ("1.5 GiB", 1536 * 1024**2), (0, 0)],
)
def test_a_size_is_read_as_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("value", [30, 1.5, True, None, "30", "5 s", "-5s", "5S", "", "9999999w", [], {}, "٣s"])
def test_what_is_no_duration_is_refused_with_the_right_form(value: object) -> None:
    with pytest.raises(PydanticCustomError, match="such as 250ms, 5s, 10m, 1h or 7d, not "):
        parse_duration(value)


@pytest.mark.parametrize("value", [30, True, "30", "5mb", "5M", "-1MB", "99999999TiB", []])
def test_what_is_no_size_is_refused_with_the_right_form(value: object) -> None:
    with pytest.raises(PydanticCustomError, match="such as 512KiB, 64MiB or 1MB, not "):
        parse_size(value)


def test_the_bare_number_is_named() -> None:
    with pytest.raises(PydanticCustomError, match=r"not the bare number 30$"):
        parse_duration(30)


@pytest.mark.parametrize(("value", "ratio"), [("20%", 0.2), (0.2, 0.2), (1, 1.0), ("100 %", 1.0)])
def test_a_ratio_is_a_share_or_a_percentage(value: object, ratio: float) -> None:
    assert parse_ratio(value) == ratio


@pytest.mark.parametrize("value", [2, -0.1, "120%", "0.2", True])
def test_what_is_no_ratio_is_refused(value: object) -> None:
    with pytest.raises(PydanticCustomError, match="a number from 0 to 1"):
        parse_ratio(value)


def test_none_is_no_bound_where_that_is_allowed() -> None:
    assert TypeAdapter(DurationOrNone).validate_python("none") is None
    assert TypeAdapter(SizeOrNone).validate_python("none") is None
    with pytest.raises(ValidationError, match="must be a size or none"):
        TypeAdapter(SizeOrNone).validate_python(5)


@given(st.integers(min_value=0, max_value=10**9))
def test_a_shown_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(show_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(min_value=0, max_value=10**14))
def test_a_shown_size_reads_back(size: int) -> None:
    assert parse_size(show_size(size)) == size


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans())
def test_no_value_makes_a_parser_raise_anything_else(value: object) -> None:
    for parse in (parse_duration, parse_size, parse_ratio):
        with contextlib.suppress(PydanticCustomError):
            assert parse(value) >= 0
