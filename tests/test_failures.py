"""The words under ``on:``."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from proxy.errors import ProxyError
from proxy.failures import Cause, Causes
from proxy.policy import Verdict, Veto

WORD = TypeAdapter(Cause)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("timeout", "timeout"),
        ("rate limited", "rate_limited"),
        ("context-too-long", "context_too_long"),
        ("Circuit Open", "circuit_open"),
        ("no key", "no_key_available"),
        ("connect", "unreachable"),
        ("5xx", "5xx"),
        ("503", "503"),
        (429, "429"),
    ],
)
def test_words_have_one_normal_form(written: object, read: str) -> None:
    assert WORD.validate_python(written) == read


@pytest.mark.parametrize("wrong", ["200", "6xx", 700, True, None, "whatever", ["timeout"]])
def test_other_words_are_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        WORD.validate_python(wrong)


def test_a_near_miss_is_named() -> None:
    with pytest.raises(ValidationError, match="did you mean timeout"):
        WORD.validate_python("timeot")


@pytest.mark.parametrize(
    ("words", "verdict", "expected"),
    [
        (("timeout",), Verdict("timeout"), "timeout"),
        (("timeout",), Verdict("stalled"), None),
        (("5xx",), Verdict("server_error", status=503), "503"),
        (("5xx",), Verdict("unreachable"), None),
        (("404",), Verdict("client_error", status=404), "404"),
        (("server_error",), Verdict(None, status=200), None),
    ],
)
def test_failures_match(words: tuple[str, ...], verdict: Verdict, expected: str | None) -> None:
    assert Causes(words).match(verdict) == expected


@pytest.mark.parametrize(
    ("words", "scope", "code", "expected"),
    [
        (("circuit_open",), "target", "circuit_open", "circuit_open"),
        (("no_key_available",), "target", "no_key_available", "no_key_available"),
        (("rate_limited",), "target", "rate_limit_exceeded", "rate_limited"),
        (("rate_limited",), "call", "rate_limit_exceeded", None),
        (("server_error",), "target", "circuit_open", None),
    ],
)
def test_vetoes_match_by_code(words: tuple[str, ...], scope: str, code: str, expected: str | None) -> None:
    veto = Veto(scope, ProxyError(code, "no"))  # type: ignore[arg-type]
    assert Causes(words).match(Verdict(None, veto=veto, error=veto.error)) == expected
