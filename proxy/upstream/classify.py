"""What a try came to: an upstream's status and error code, or a transport error, as a FailureClass.

Pure: values in, values out. Codes beat statuses where providers disagree about the status: a spent account is
402 here, 429 there and 400 elsewhere, and only the code tells it from a request that is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError
from proxy.upstream.transport import errors as transport

if TYPE_CHECKING:
    from proxy.exchange import FailureClass

# Error codes and types as providers write them, compared in lower case with `-` and blanks as `_`.
_CODES: Final[dict[str, FailureClass]] = {
    # the input does not fit: another model may have more room
    "context_length_exceeded": "context_too_long",
    "context_window_exceeded": "context_too_long",
    "context_too_long": "context_too_long",
    "exceed_context_size_error": "context_too_long",
    "input_too_long": "context_too_long",
    "max_context_length_exceeded": "context_too_long",
    "model_context_window_exceeded": "context_too_long",
    "prompt_too_long": "context_too_long",
    "request_too_large": "context_too_long",
    "string_above_max_length": "context_too_long",
    "tokens_exceed_limit": "context_too_long",
    # the provider's filter refused it: another provider may not
    "content_blocked": "content_refused",
    "content_filter": "content_refused",
    "content_filtered": "content_refused",
    "content_policy_violation": "content_refused",
    "data_inspection_failed": "content_refused",
    "image_content_policy_violation": "content_refused",
    "invalid_prompt": "content_refused",
    "moderation_blocked": "content_refused",
    "responsibleaipolicyviolation": "content_refused",
    "safety_violation": "content_refused",
    # the account is spent: another key may not be
    "billing_error": "quota",
    "billing_hard_limit_reached": "quota",
    "billing_not_active": "quota",
    "billing_quota_exceeded": "quota",
    "credit_balance_too_low": "quota",
    "exceeded_current_quota_error": "quota",
    "insufficient_balance": "quota",
    "insufficient_credits": "quota",
    "insufficient_quota": "quota",
    "insufficient_user_quota": "quota",
    "payment_required": "quota",
}

# What an error event inside a 200 answer may say, beyond `_CODES`. The status is spent, so types count too.
_EVENT_CODES: Final[dict[str, FailureClass]] = {
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "resource_exhausted": "rate_limited",
    "too_many_requests": "rate_limited",
    "authentication_error": "auth",
    "invalid_api_key": "auth",
    "permission_error": "auth",
    "api_error": "server_error",
    "internal_error": "server_error",
    "internal_server_error": "server_error",
    "overloaded_error": "server_error",
    "server_error": "server_error",
    "server_overloaded": "server_error",
    "service_unavailable": "server_error",
    "timeout_error": "server_error",
    "vector_store_timeout": "server_error",
    "invalid_request_error": "client_error",
}


def _normal(code: str) -> str:
    return code.strip().lower().replace("-", "_").replace(" ", "_")


def classify(status: int, code: str | None = None) -> FailureClass | None:
    """The failure that an answer's head (and its body's error code, when one was read) amounts to.

    status: 100 to 599 as received. code: what ``Dialect.upstream_error`` found. None: no failure (1xx, 2xx, 3xx).
    """
    if status < 400:
        return None
    if status >= 500:
        # A code in a 5xx body is the provider's own trouble in other words, except for a spent account.
        return "quota" if code is not None and _CODES.get(_normal(code)) == "quota" else "server_error"
    if status == 429:
        return "quota" if code is not None and _CODES.get(_normal(code)) == "quota" else "rate_limited"
    if code is not None:
        known = _CODES.get(_normal(code))
        if known is not None:
            return known
    match status:
        case 401 | 403:
            return "auth"
        case 402:
            return "quota"
        case 408 | 409:
            return "conflict"
        case 413:
            # One provider answers 413 to a request above its tokens a minute, the others to one above a size.
            return "context_too_long"
    return "client_error"


def classify_event(code: str | None) -> FailureClass:
    """The failure that an error event after a 200 head amounts to; a code that nobody knows is ``invalid_response``."""
    if code is None:
        return "invalid_response"
    normal = _normal(code)
    return _CODES.get(normal) or _EVENT_CODES.get(normal) or "invalid_response"


# What the client reads, in front of the transport's reason label; {} is the upstream's name in the configuration. The
# operator's sentence, which names hosts and addresses, is for the log line only.
_TRANSPORT: Final[dict[type[transport.TransportError], tuple[FailureClass, str, str]]] = {
    transport.TransportError: ("unreachable", "upstream_unreachable", "The connection to the upstream{} failed"),
    transport.InvalidRequest: ("client_error", "invalid_request", "The request cannot be sent on"),
    transport.PoolClosed: ("unreachable", "upstream_unreachable", "The connections to the upstream{} were closed"),
    transport.PoolFull: ("overloaded", "overloaded", "All connections to the upstream{} are busy"),
    transport.PoolTimeout: ("overloaded", "overloaded", "All connections to the upstream{} stayed busy"),
    transport.ConnectFailed: ("unreachable", "upstream_unreachable", "The upstream{} could not be reached"),
    transport.ConnectTimeout: ("timeout", "upstream_timeout", "The upstream{} could not be reached in time"),
    transport.FirstByteTimeout: ("timeout", "upstream_timeout", "The upstream{} did not answer in time"),
    transport.IdleTimeout: (
        "stalled",
        "upstream_timeout",
        "The upstream{} stopped sending in the middle of its answer",
    ),
    transport.TotalTimeout: ("timeout", "upstream_timeout", "The upstream{} did not finish its answer in time"),
    transport.InvalidResponse: (
        "invalid_response",
        "upstream_invalid_response",
        "The answer of the upstream{} is not HTTP that can be trusted",
    ),
    transport.ConnectionLost: (
        "unreachable",
        "upstream_unreachable",
        "The upstream{} closed the connection before it answered",
    ),
    transport.Truncated: ("truncated", "upstream_invalid_response", "The answer of the upstream{} broke off"),
    transport.BodyTooLarge: (
        "invalid_response",
        "upstream_invalid_response",
        "The answer of the upstream{} is too large",
    ),
    transport.DecodeFailed: (
        "invalid_response",
        "upstream_invalid_response",
        "The answer of the upstream{} cannot be decoded",
    ),
}

POOL_RETRY_AFTER: Final = 1.0
"""Seconds after which a full pool is worth another try: calls end all the time, nobody knows when."""


def from_exception(error: transport.TransportError, upstream: str = "") -> tuple[FailureClass, ProxyError]:
    """The failure that a transport error amounts to, and the answer for the client if nobody helps. upstream: its name
    in the configuration."""
    for kind in type(error).__mro__:
        found = _TRANSPORT.get(kind)
        if found is not None:
            failure, code, message = found
            if kind is transport.TotalTimeout and error.phase == "waiting":
                failure = "overloaded"  # it never came to be sent: nothing to hold against the upstream
            retry_after = POOL_RETRY_AFTER if code == "overloaded" else None
            message = message.format(upstream and f" {upstream}")
            return failure, ProxyError(code, f"{message} ({error.reason}).", retry_after=retry_after)
    raise AssertionError(f"{type(error).__name__} is no transport error") from error
