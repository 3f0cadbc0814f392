"""``prices:``: every kind of price can be written, part of one lies over the bundled list, mistakes are named."""

from __future__ import annotations

import pytest

BASE = """
upstreams: {demo: {api: demo}}
routes: [{upstream: demo, chain: main}]
chains: {main: []}
"""


def test_every_kind_tiers_and_services_are_taken(loaded) -> None:
    text = """
prices:
  m:
    input: 1
    output: 4
    cached_input: 0.1
    cache_write: 1.25
    cache_write_1h: 2
    reasoning: 4
    audio_input: 10
    audio_output: 20
    image_input: 5
    image_output: 40
    image: 0.04
    minute: 0.006
    search: 0.01
    request: 0.001
    tiers: [{above: 200000, input: 2, output: 6}]
    batch: 0.5
    flex: {input: 0.6}
    priority: 1.7
    fast: 6
"""
    price = loaded(BASE + text).config.prices["m"]
    assert (price.image, price.minute, price.cache_write_1h) == (0.04, 0.006, 2)
    assert price.tiers[0].above == 200_000
    assert price.batch == 0.5
    assert price.flex.input == 0.6


def test_a_part_of_a_price_is_enough(loaded) -> None:
    price = loaded(BASE + "prices: {gpt-4o: {batch: 0.4}}").config.prices["gpt-4o"]
    assert price.input is None


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("{}", "prices.m: a price needs at least one kind, such as input or output"),
        ("{tiers: [{above: 5}]}", "prices.m.tiers.0: a tier needs at least one price, such as input or output"),
        ("{tiers: [{input: 5}]}", "prices.m.tiers.0.above: is required"),
        (
            "{tiers: [{above: 5, input: 1}, {above: 5, input: 2}]}",
            "prices.m: two tiers start at the same number of input tokens",
        ),
        ("{batch: 20}", "prices.m.batch: must be at most 10"),
        ("{batch: half}", "prices.m.batch: must be a number, not a text"),
        ("{batch: {inptu: 1}}", "prices.m.batch.inptu"),
        ("{inptu: 1}", "prices.m.inptu"),
    ],
)
def test_a_mistake_is_named(mistakes, price: str, message: str) -> None:
    [found] = mistakes(f"{BASE}prices: {{m: {price}}}")
    assert message in found
