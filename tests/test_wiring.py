"""What the core's parts are told of each other."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.config.model import Config
from proxy.services import Services
from proxy.wiring import offer_services


def ring(keys: list[dict[str, Any]], **more: Any) -> Any:
    config = Config.model_validate(
        {
            "keys": {"pool": {"strategy": ["cheapest"], "keys": keys}},
            "upstreams": {"openai": {"api": "openai", "base_url": "https://api.openai.com/v1", "keys": "pool"}},
            **more,
        }
    )
    services = Services(SystemClock(), config)
    offer_services(services)
    return services.get("keys").get("pool")


LISTED = {"id": "listed", "secret": "a"}
OWN = {"id": "own", "secret": "b", "prices": {"gpt-4o-mini": {"input": 0.01, "output": 0.01}}}
FLAT = {"id": "flat", "secret": "c", "cost_per_token": 0.003}


@pytest.mark.parametrize(
    ("keys", "model", "best"),
    [
        ([LISTED, OWN, FLAT], "gpt-4o-mini", "own"),  # 0.01 USD a million, listed 0.375, flat 3000
        ([OWN, FLAT, LISTED], "gpt-4o", "own"),  # no own price for it: the listed one, and the first of two equal ones
        ([FLAT, LISTED], "gpt-4o", "listed"),
        ([LISTED, FLAT], "a-model-without-a-price", "flat"),
        ([{**LISTED, "tier": "free"}, OWN], "gpt-4o-mini", "listed"),
    ],
)
def test_the_cheapest_key_is_found_by_its_own_prices_and_the_list(keys, model, best):
    lease = ring(keys).try_choose(None, model, 100, None)
    assert lease.key.id == best


def test_the_yamls_prices_count_for_the_cheapest_key():
    keys = [{**FLAT, "cost_per_token": 0.00002}, LISTED]
    prices = {"gpt-4o": {"input": 100, "output": 100}}
    assert ring(keys).try_choose(None, "gpt-4o", 100, None).key.id == "listed"
    assert ring(keys, prices=prices).try_choose(None, "gpt-4o", 100, None).key.id == "flat"
