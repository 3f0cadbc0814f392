"""The opening handshake: values in, values and refusals out."""

from __future__ import annotations

import pytest

from proxy.errors import ProxyError
from proxy.testing import exchange_builder
from proxy.websocket import handshake
from tests.websocket_peers import ACCEPT, KEY

ASKS = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13", "sec-websocket-key": KEY}


def exchange(path: str = "/v1/realtime?model=m", **headers: str):
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return exchange_builder(None, dialect="generic", method="GET", path=path, headers={**ASKS, **given})


def test_the_example_of_the_rfc():
    assert handshake.accept_of(KEY.encode()) == ACCEPT.encode()
    assert len({handshake.new_key() for _ in range(100)}) == 100


def test_what_belongs_to_this_hop_leaves_the_request():
    call = exchange(sec_websocket_protocol="realtime, x", sec_websocket_extensions="permessage-deflate")
    handshake.prepare(call)
    assert call.request.upgrade is not None
    assert call.request.upgrade.protocols == ("realtime", "x")
    assert call.request.upgrade.fixes_model
    assert call.model_asked == call.model_known == "m"
    assert not any(name.lower().startswith(b"sec-websocket") for name, _ in call.request.raw_headers)
    assert not any(name.lower().startswith("sec-websocket") for name in call.request.headers)


@pytest.mark.parametrize("own", [{}, {"api_key": "mine"}, {"x_api_key": "mine"}, {"authorization": "Bearer mine"}])
def test_a_key_among_the_subprotocols_stands_for_a_header_that_is_not_there(own):
    call = exchange(sec_websocket_protocol="realtime, openai-insecure-api-key.sk-1", **own)
    handshake.prepare(call)
    assert call.request.upgrade is not None
    assert call.request.upgrade.protocols == ("realtime",)
    expected = own.get("authorization") if own else "Bearer sk-1"
    assert call.request.header("authorization") == expected
    assert ("sk-1" in str(call.request.raw_headers)) is not bool(own)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec_websocket_version": "12"}, 426),
        ({"sec_websocket_key": "x" * 24}, 400),
        ({"sec_websocket_protocol": "a b"}, 400),
        ({"transfer_encoding": "chunked"}, 400),
    ],
)
def test_refusals(headers, status):
    with pytest.raises(ProxyError) as refused:
        handshake.prepare(exchange(**headers))
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("query", "add", "expected"),
    [
        ("model=a", True, "model=n%2F%C3%A9"),
        ("x=1&mod%65l=a&y", True, "x=1&model=n%2F%C3%A9&y"),
        ("", True, "model=n%2F%C3%A9"),
        ("x=%2F", True, "x=%2F&model=n%2F%C3%A9"),
        ("x=1", False, "x=1"),
    ],
)
def test_another_model_in_the_query(query, add, expected):
    assert handshake.with_model(query, "n/é", add=add) == expected


@pytest.mark.parametrize(
    ("path", "names"),
    [("/v1/realtime", True), ("/openai/v1/realtime/", True), ("/v1/responses", False), ("/v1/realtime/calls", False)],
)
def test_whose_model_stands_in_the_query(path, names):
    assert handshake.names_model(path) is names
