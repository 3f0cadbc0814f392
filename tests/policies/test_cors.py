"""``cors`` only holds options; what they do is tested with ``proxy.browser``."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from proxy import browser
from proxy.policies.cors import Cors
from proxy.testing import policy_builder


def test_without_options_the_default_origins_count() -> None:
    assert policy_builder(Cors).options.origins is None


def test_the_core_is_told_what_the_options_say() -> None:
    cors = policy_builder(Cors, {"origins": "https://a.example", "expose": "x-request-id", "max_age": "1m"}).cors
    assert (cors.origins, cors.expose, cors.max_age) == (("https://a.example",), ("x-request-id",), 60)
    assert policy_builder(Cors).cors == browser.Cors()


def test_one_origin_may_stand_without_a_list() -> None:
    options = policy_builder(Cors, {"origins": "https://*.example.com", "max_age": "1h"}).options
    assert options.origins == ("https://*.example.com",)
    assert options.max_age == 3600


@pytest.mark.parametrize("origins", [["*"], ["null"], [], ["http://localhost:3000"], ["chrome-extension://abc"]])
def test_origins_that_browsers_send_are_accepted(origins: list[str]) -> None:
    assert policy_builder(Cors, {"origins": origins}).options.origins == tuple(origins)


@pytest.mark.parametrize("origin", ["example.com", "https://example.com/", "https://a.com/path", "https://", "a b://c"])
def test_what_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match=r"app\.example\.com"):
        policy_builder(Cors, {"origins": [origin]})


@pytest.mark.parametrize("options", [{"origins": ["*"], "credentials": True}, {"origin": ["*"]}, {"max_age": 600}])
def test_dangerous_and_unknown_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy_builder(Cors, options)
