"""Statuses, codes and transport errors become failure classes."""

from __future__ import annotations

import inspect

import pytest

from proxy.upstream.classify import classify, classify_event, from_exception
from proxy.upstream.transport import errors


@pytest.mark.parametrize("status", [100, 200, 204, 206, 301, 304, 399])
def test_no_failure_below_400(status: int) -> None:
    assert classify(status, "insufficient_quota") is None


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, None, "client_error"),
        (400, "invalid_value", "client_error"),
        (400, "context_length_exceeded", "context_too_long"),
        (400, "Prompt-Too-Long", "context_too_long"),
        (413, None, "context_too_long"),
        (413, "rate_limit_exceeded", "context_too_long"),
        (400, "content_filter", "content_refused"),
        (400, "ResponsibleAIPolicyViolation", "content_refused"),
        (403, "content_policy_violation", "content_refused"),
        (400, "billing_hard_limit_reached", "quota"),
        (401, "invalid_api_key", "auth"),
        (403, None, "auth"),
        (402, None, "quota"),
        (404, "model_not_found", "client_error"),
        (408, None, "conflict"),
        (409, None, "conflict"),
        (422, None, "client_error"),
        (429, None, "rate_limited"),
        (429, "rate_limit_exceeded", "rate_limited"),
        (429, "context_length_exceeded", "rate_limited"),
        (429, "insufficient_quota", "quota"),
        (500, None, "server_error"),
        (500, "context_length_exceeded", "server_error"),
        (503, "insufficient_quota", "quota"),
        (529, "overloaded_error", "server_error"),
    ],
)
def test_status_and_code(status: int, code: str | None, expected: str) -> None:
    assert classify(status, code) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (None, "invalid_response"),
        ("nobody knows", "invalid_response"),
        ("overloaded_error", "server_error"),
        ("rate_limit_exceeded", "rate_limited"),
        ("context_length_exceeded", "context_too_long"),
        ("content_filter", "content_refused"),
        ("insufficient_quota", "quota"),
    ],
)
def test_error_event_after_a_good_head(code: str | None, expected: str) -> None:
    assert classify_event(code) == expected


@pytest.mark.parametrize(
    ("error", "failure", "code"),
    [
        (errors.ConnectFailed("10.0.0.7 refused", reason="refused"), "unreachable", "upstream_unreachable"),
        (errors.ConnectTimeout("x"), "timeout", "upstream_timeout"),
        (errors.FirstByteTimeout("x"), "timeout", "upstream_timeout"),
        (errors.IdleTimeout("x"), "stalled", "upstream_timeout"),
        (errors.TotalTimeout("x"), "timeout", "upstream_timeout"),
        (errors.ConnectionLost("x", sent=True, silent=True), "unreachable", "upstream_unreachable"),
        (errors.InvalidResponse("x"), "invalid_response", "upstream_invalid_response"),
        (errors.Truncated("x"), "truncated", "upstream_invalid_response"),
        (errors.PoolFull("x"), "overloaded", "overloaded"),
        (errors.PoolTimeout("x"), "overloaded", "overloaded"),
        (errors.TotalTimeout("x", phase="waiting"), "overloaded", "upstream_timeout"),
    ],
)
def test_transport_errors(error: errors.TransportError, failure: str, code: str) -> None:
    found, answer = from_exception(error)
    assert (found, answer.code) == (failure, code)


def test_every_transport_error_has_an_answer_of_its_own_that_names_no_host() -> None:
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, errors.TransportError):
            extra = {"sent": True, "silent": False} if kind is errors.ConnectionLost else {}
            _, answer = from_exception(kind("secret.host.example:443", **extra))
            assert "secret.host" not in answer.message
            assert kind.reason in answer.message


def test_a_new_kind_of_error_is_judged_as_its_parent() -> None:
    class Odd(errors.ConnectFailed):
        reason = "odd"

    assert from_exception(Odd("x"))[0] == "unreachable"


def test_a_full_pool_says_when_to_come_back() -> None:
    assert from_exception(errors.PoolFull("x"))[1].retry_after == 1.0
