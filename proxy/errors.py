"""Every error this proxy makes: whose fault, which code and status, and whether a retry may help.

One family, raised near the cause, turned into the client's wire shape in one place
(``Dialect.error``). The codes are the public contract; ``TABLE`` is their only list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Fault = Literal["client", "sidecar", "upstream", "limit"]
Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What is fixed about an error code.

    status: HTTP status of an answer that carries it.
    type: the ``type`` an OpenAI client sees; ``anthropic``: the one an Anthropic client sees.
    fault: who has to act. retry: the ``x-should-retry`` header, None to send none.
    next_step: what the operator or caller should do, for the log line.
    """

    status: int
    type: str
    anthropic: str
    fault: Fault
    severity: Severity
    retry: bool | None
    next_step: str


_INVALID = ("invalid_request_error", "invalid_request_error")

TABLE: Final[dict[str, Kind]] = {
    "invalid_json": Kind(400, *_INVALID, "client", "info", False, "send one JSON object without duplicate keys"),
    "invalid_value": Kind(400, *_INVALID, "client", "info", False, "correct the field that param names"),
    "missing_required_parameter": Kind(400, *_INVALID, "client", "info", False, "add the field that param names"),
    "invalid_request": Kind(400, *_INVALID, "client", "info", False, "send a well-formed HTTP request"),
    "invalid_api_key": Kind(
        401, "authentication_error", "authentication_error", "client", "warning", False, "use a key known to this proxy"
    ),
    "policy_refused": Kind(
        403, "permission_error", "permission_error", "client", "warning", False, "see which policy refused and why"
    ),
    "pii_refused": Kind(
        403, "permission_error", "permission_error", "client", "warning", False, "remove the personal data named"
    ),
    "model_not_allowed": Kind(
        403, "permission_error", "permission_error", "client", "warning", False, "ask for a model this key may use"
    ),
    "origin_refused": Kind(
        403,
        "permission_error",
        "permission_error",
        "client",
        "warning",
        False,
        "list the origin under cors.origins, or the host name under server.hosts",
    ),
    "unknown_route": Kind(404, "invalid_request_error", "not_found_error", "client", "info", False, "add a route"),
    "model_not_found": Kind(
        404, "invalid_request_error", "not_found_error", "client", "info", False, "see /v1/models for what is served"
    ),
    "method_not_allowed": Kind(405, *_INVALID, "client", "info", False, "use a method this path allows"),
    "request_timeout": Kind(408, *_INVALID, "client", "info", None, "send the whole request in time"),
    "request_too_large": Kind(
        413, "invalid_request_error", "request_too_large", "client", "info", False, "send less or raise server limits"
    ),
    "insufficient_quota": Kind(
        429, "insufficient_quota", "rate_limit_error", "limit", "warning", False, "raise the budget or wait for reset"
    ),
    "rate_limit_exceeded": Kind(
        429, "rate_limit_error", "rate_limit_error", "limit", "info", None, "wait as Retry-After says"
    ),
    "upstream_unreachable": Kind(
        502, "api_error", "api_error", "upstream", "error", None, "check the upstream's base_url and network"
    ),
    "upstream_invalid_response": Kind(
        502, "api_error", "api_error", "upstream", "error", None, "look at what the upstream answers"
    ),
    "upstream_timeout": Kind(
        504, "api_error", "timeout_error", "upstream", "error", None, "raise the upstream's timeouts or check it"
    ),
    "circuit_open": Kind(
        503, "api_error", "overloaded_error", "upstream", "warning", None, "wait for the breaker's next probe"
    ),
    "no_key_available": Kind(
        503, "api_error", "overloaded_error", "limit", "warning", None, "add keys or wait as Retry-After says"
    ),
    "not_cached": Kind(504, "api_error", "api_error", "client", "info", False, "send the call without only-if-cached"),
    "overloaded": Kind(
        503, "api_error", "overloaded_error", "sidecar", "warning", None, "retry later or raise the limits"
    ),
    "draining": Kind(503, "api_error", "overloaded_error", "sidecar", "info", None, "retry against another replica"),
    "policy_failed": Kind(
        500, "api_error", "api_error", "sidecar", "error", False, "read the log line of the policy that failed"
    ),
    "internal_error": Kind(500, "api_error", "api_error", "sidecar", "error", None, "report the log line"),
}


class ProxyError(Exception):
    """An answer that this proxy makes instead of the upstream's.

    code: a key of ``TABLE``. message: for the caller; never holds a secret or a masked value.
    param: the request field at fault, dotted. retry_after: seconds. policy: who refused.
    headers: more headers for the answer, as (name, value) bytes. status: where one code has two (413 and 431).
    """

    __slots__ = ("_status", "code", "headers", "message", "param", "policy", "retry_after", "should_retry")

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        policy: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        status: int | None = None,
    ) -> None:
        super().__init__(code, message)
        self._status = status
        self.code = code
        # What quotes a header or a path may hold bytes that are no text, and those have no place in JSON.
        self.message = message if message.isascii() else message.encode("utf-8", "replace").decode()
        self.param = param
        self.retry_after = retry_after
        self.policy = policy
        self.headers = headers
        self.should_retry = TABLE[code].retry

    @property
    def kind(self) -> Kind:
        """Status, types, fault and advice of this error's code."""
        return TABLE[self.code]

    @property
    def status(self) -> int:
        """HTTP status of the answer."""
        return self._status or TABLE[self.code].status

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
