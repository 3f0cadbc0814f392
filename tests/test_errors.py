"""Every error: one status, one type for each client, whose fault, and what to do next."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from proxy.chain import refuse
from proxy.dialects import DIALECTS
from proxy.errors import TABLE, ProxyError
from proxy.testing import exchange_builder

# As design.md's table has them.
DESIGNED = {
    "invalid_json": (400, False), "invalid_value": (400, False), "missing_required_parameter": (400, False),
    "invalid_api_key": (401, False), "policy_refused": (403, False), "pii_refused": (403, False),
    "model_not_allowed": (403, False), "origin_refused": (403, False), "unknown_route": (404, False),
    "model_not_found": (404, False), "request_too_large": (413, False),
    "insufficient_quota": (429, False), "rate_limit_exceeded": (429, None), "upstream_unreachable": (502, None),
    "upstream_invalid_response": (502, None), "upstream_timeout": (504, None), "circuit_open": (503, None),
    "no_key_available": (503, None), "overloaded": (503, None), "draining": (503, None),
}  # fmt: skip


@pytest.mark.parametrize("code", list(DESIGNED))
def test_status_and_retry_are_as_designed(code):
    assert (TABLE[code].status, TABLE[code].retry) == DESIGNED[code]


@pytest.mark.parametrize("code", list(TABLE))
def test_each_says_what_to_do_next(code):
    kind = TABLE[code]
    assert kind.next_step
    assert kind.fault in ("client", "sidecar", "upstream", "limit")
    assert kind.severity in ("info", "warning", "error")


@pytest.mark.parametrize("dialect", list(DIALECTS.values()), ids=list(DIALECTS))
@pytest.mark.parametrize("code", list(TABLE))
def test_each_has_the_clients_shape(dialect, code):
    error = ProxyError(code, 'What "happened".', param="a.b")
    body = orjson.loads(dialect.error(error))
    if dialect.name == "anthropic_messages":
        assert (body["type"], body["error"]["type"]) == ("error", TABLE[code].anthropic)
        assert 'What "happened".' in body["error"]["message"]
    else:
        said = {"message": 'What "happened".', "type": TABLE[code].type, "param": "a.b", "code": code}
        assert body == {"error": said}


def test_every_code_that_is_raised_stands_in_the_table():
    used = set()
    for file in Path("proxy").rglob("*.py"):
        used |= set(re.findall(r'ProxyError\(\s*"([a-z_]+)"', file.read_text()))
    assert used
    assert used <= set(TABLE)


def test_an_error_becomes_an_answer():
    exchange = exchange_builder()
    error = ProxyError("rate_limit_exceeded", "Slow.", retry_after=1.2, policy="door", headers=((b"x-a", b"1"),))
    answer = refuse(exchange, error)
    assert (answer.status, answer.origin, answer.error) == (429, "policy", error)
    assert exchange.error is error
    assert [answer.header(name) for name in (b"retry-after", b"x-sidecar-policy", b"x-a")] == [b"2", b"door", b"1"]
    assert answer.header(b"x-should-retry") is None
    assert refuse(exchange, ProxyError("overloaded", "x", retry_after=0.01)).header(b"retry-after") == b"1"
    assert refuse(exchange, ProxyError("upstream_timeout", "x")).origin == "sidecar"


def test_bytes_that_are_no_text_do_not_reach_json():
    error = ProxyError("unknown_route", "No route for /\udcff.")
    assert orjson.loads(exchange_builder().dialect.error(error))["error"]["message"] == "No route for /?."


def test_an_unknown_code_is_found_when_it_is_raised():
    with pytest.raises(KeyError):
        ProxyError("made_up", "x")
