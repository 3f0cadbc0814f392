"""Which Host and which Origin are ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.browser import Cors, Hosts, Origins, host_name, is_loopback
from proxy.errors import ProxyError
from proxy.testing import exchange_builder


@pytest.mark.parametrize(
    ("authority", "name"),
    [("A.example:80", "a.example"), ("[::1]:80", "[::1]"), (" x ", "x"), ("x.:1", "x"), ("", ""), ("[::1", "[::1]")],
)
def test_a_name_without_its_port(authority, name):
    assert host_name(authority) == name


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback(host, loopback):
    assert is_loopback(host) is loopback


@given(st.text(max_size=30))
def test_no_name_but_ours_passes_a_loopback_listener(authority):
    try:
        Hosts("127.0.0.1", ()).check(authority)
    except ProxyError as error:
        assert error.code == "origin_refused"
    else:
        assert host_name(authority) in ("localhost", "127.0.0.1", "[::1]", "::1")


def test_many_spellings_are_not_remembered_without_bound():
    hosts = Hosts("127.0.0.1", ())
    for port in range(1000):
        hosts.check(f"localhost:{port}")
    assert len(hosts._known) <= 64


@pytest.mark.parametrize(
    ("cors", "loopback", "origin", "allowed"),
    [
        (None, True, "http://localhost:5173", True),
        (None, True, "https://127.0.0.1", True),
        (None, True, "http://localhost:5173.evil.example", False),
        (None, True, "http://localhostile.example", False),
        (None, True, "null", False),
        (None, False, "http://localhost:5173", False),
        (Cors(origins=("https://*.example.com",)), False, "https://a.example.com", True),
        (Cors(origins=("https://*.example.com",)), False, "https://example.com", False),
        (Cors(origins=("https://*.example.com",)), True, "http://localhost", False),
        (Cors(origins=("*",)), False, "https://any.example", True),
        (Cors(origins=()), True, "http://localhost", False),
    ],
)
def test_which_pages_may_call(cors, loopback, origin, allowed):
    exchange = exchange_builder(headers={"origin": origin})
    if allowed:
        assert Origins(cors, loopback=loopback).check(exchange) is None
    else:
        with pytest.raises(ProxyError, match=r"cors\.origins"):
            Origins(cors, loopback=loopback).check(exchange)


def test_a_program_is_no_page():
    assert Origins(Cors(origins=()), loopback=False).check(exchange_builder()) is None
