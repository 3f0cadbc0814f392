"""The access log's line says what its record says, however it is put together."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.accounting.usage import Usage
from proxy.errors import ProxyError
from proxy.exchange import Answer, Attempt, Principal, Target
from proxy.telemetry import access
from proxy.telemetry.access import access_line, access_record
from proxy.testing import exchange_builder


def said(exchange):
    line = access_line(exchange)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    return json.loads(line)


TEXTS = st.text(max_size=30)
MAYBE = st.none() | TEXTS


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_line_is_the_record(data):
    draw = data.draw
    exchange = exchange_builder({"model": draw(TEXTS), "messages": []}, path="/v1/" + draw(TEXTS))
    exchange.route_name, exchange.chain_name, exchange.project = draw(TEXTS), draw(TEXTS), draw(MAYBE)
    exchange.principal = Principal(draw(TEXTS))
    exchange.outcome = draw(st.sampled_from([None, "answered", "cancelled"]))
    exchange.cache_status = draw(st.sampled_from([None, "hit", "miss"]))
    exchange.ended_at = draw(st.none() | st.floats(0, 1e6).map(lambda took: exchange.started_at + took))
    if draw(st.booleans()):
        exchange.answer = Answer(draw(st.integers(100, 599)), [], origin="upstream", raw=b"")
    if draw(st.booleans()):
        served = exchange.served_by = Attempt(1, 1, Target("up"), draw(TEXTS), 0.0)
        exchange.attempts = [served] * draw(st.integers(1, 3))
        served.key = draw(st.none() | TEXTS.map(lambda name: SimpleNamespace(id=name)))
        served.first_byte_at = draw(st.none() | st.floats(-10, 1e5).map(lambda after: exchange.started_at + after))
    if draw(st.booleans()):
        exchange.usage = Usage(input=draw(st.integers(0, 10**9)), output=7, estimated=draw(st.booleans()))
    if draw(st.booleans()):
        _ = exchange.model_asked
    if draw(st.integers(0, 9)) == 0:
        exchange.error = ProxyError("upstream_timeout", draw(TEXTS), policy=draw(MAYBE))
    if draw(st.integers(0, 9)) == 0:
        exchange.note("pii", draw(TEXTS))
    for _ in range(2):  # made, and put together
        assert said(exchange) == access_record(exchange)
        assert list(said(exchange)) == list(access_record(exchange))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access, "_parts", {})
    for number in range(3000):
        assert said(exchange_builder({}, path=f"/v1/{number}"))["path"] == f"/v1/{number}"
    said(exchange_builder({}, path="/v1/" + "x" * 5000))
    assert len(access._parts) <= 512
    assert all(len(part) <= 1024 for part in access._parts.values())
