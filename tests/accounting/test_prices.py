"""Prices against sums worked out by hand from the bundled list (genai-prices 0.2.3), in nano-dollars.

The hand sums: tokens times USD per million, which is nano-dollars per thousandth of a token. 1,000 tokens at 2.50 are
2,500,000 nano-dollars. When the list moves on, a price here may change: then work the sum out anew.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.books import Books
from proxy.accounting.money import NANO, nano_from_usd, round_millionths, usd, usd_bytes, usd_text
from proxy.accounting.prices import PriceBook, PriceError
from proxy.accounting.rates import KINDS, Rates, Unpriced
from proxy.accounting.usage import PACKED, Usage
from proxy.config.model import Config

NOON = 1_795_262_400.0  # 2026-11-21 12:00 UTC
OPENAI, ANTHROPIC = "https://api.openai.com/v1", "https://api.anthropic.com"


def book(overrides=None, **options):
    options.setdefault("clock", lambda: NOON)
    return PriceBook(overrides, **options)


BY_HAND = [
    # plain: 1000 x 2.50 + 500 x 10
    ("gpt-4o", OPENAI, "standard", {"input": 1000, "output": 500}, 7_500_000),
    # cached: 976 x 2.50 + 1024 x 1.25 + 100 x 10
    ("gpt-4o", OPENAI, "standard", {"input": 2000, "cached_input": 1024, "output": 100}, 4_720_000),
    ("gpt-4o", OPENAI, "batch", {"input": 1000, "output": 500}, 3_750_000),
    ("gpt-4o", OPENAI, "priority", {"input": 1000, "output": 500}, 12_750_000),
    ("gpt-4o", "https://mine.openai.azure.com", "standard", {"input": 1000, "output": 500}, 7_500_000),
    ("gpt-4o-mini", "", "standard", {"input": 7, "output": 3}, 2_850),
    ("gpt-4.1-nano", "", "standard", {"input": 1, "cached_input": 1}, 25),
    # reasoning is part of the output and costs the same: 500 x 2 + 2000 x 8
    ("o3", OPENAI, "standard", {"input": 500, "output": 2000, "reasoning": 1500}, 17_000_000),
    ("o3", OPENAI, "flex", {"input": 500, "output": 2000, "reasoning": 1500}, 8_500_000),
    ("gpt-5", OPENAI, "standard", {"input": 10_000, "cached_input": 10_000, "output": 1}, 1_260_000),
    # 3 x 62.5 = 187.5, half up
    ("gpt-5", OPENAI, "flex", {"input": 3, "cached_input": 3}, 188),
    ("gpt-5", OPENAI, "flex", {"input": 2, "cached_input": 2}, 125),
    # images as tokens: 40 x 5 + 60 x 10 + 4160 x 40
    ("gpt-image-1", OPENAI, "standard", {"input": 100, "image_input": 60, "output": 4160}, 167_200_000),
    ("gpt-image-1", OPENAI, "batch", {"output": 1000}, 20_000_000),
    # 0.36 an hour is 0.006 a minute
    ("whisper-1", OPENAI, "standard", {"audio_ms": 90_000}, 9_000_000),
    ("whisper-1", OPENAI, "standard", {"audio_ms": 1_000}, 100_000),
    # 50 x 2.50 + 250 x 6 + 80 x 10
    ("gpt-4o-transcribe", OPENAI, "standard", {"input": 300, "audio_input": 250, "output": 80}, 2_425_000),
    # 100 x 4 + 800 x 32 + 100 x 0.40 + 100 x 16 + 400 x 64
    (
        "gpt-realtime",
        OPENAI,
        "standard",
        {"input": 1000, "audio_input": 800, "cached_input": 100, "output": 500, "audio_output": 400},
        53_240_000,
    ),
    # 1000 x 3 + 8000 x 0.30 + 3000 x 3.75 + 700 x 15
    (
        "claude-sonnet-4-5",
        ANTHROPIC,
        "standard",
        {"input": 12_000, "cached_input": 8000, "cache_write": 3000, "output": 700},
        27_150_000,
    ),
    # kept for an hour: 2000 x 3.75 + 1000 x 6
    (
        "claude-sonnet-4-5",
        ANTHROPIC,
        "standard",
        {"input": 3000, "cache_write": 3000, "cache_write_1h": 1000},
        13_500_000,
    ),
    # the tier begins above 200,000 and then holds for every token
    ("claude-sonnet-4-5", ANTHROPIC, "standard", {"input": 200_000}, 600_000_000),
    ("claude-sonnet-4-5", ANTHROPIC, "standard", {"input": 200_001, "output": 10}, 1_200_231_000),
    ("claude-sonnet-4-5", ANTHROPIC, "batch", {"input": 1000, "output": 1000}, 9_000_000),
    # 1000 x 1 + 200 x 5 + two searches at 10 a thousand
    ("claude-haiku-4-5", ANTHROPIC, "standard", {"input": 1000, "output": 200, "searches": 2}, 22_000_000),
    ("claude-opus-4-5", ANTHROPIC, "batch", {"input": 8, "cache_write": 8}, 25_000),
    # 200,000 x 2.50 + 50,000 x 0.25 + 1000 x 15
    ("gemini-2.5-pro", "", "standard", {"input": 250_000, "cached_input": 50_000, "output": 1000}, 527_500_000),
    ("gemini-2.5-flash", "", "standard", {"input": 1000, "audio_input": 600, "output": 10}, 745_000),
    ("gemini-2.5-flash-image", "", "standard", {"input": 10, "output": 1290, "image_output": 1290}, 38_703_000),
    # by day: 600 x 0.27 + 400 x 0.07 + 100 x 1.10
    ("deepseek-chat", "", "standard", {"input": 1000, "cached_input": 400, "output": 100}, 300_000),
    ("mistral-large-latest", "https://api.mistral.ai/v1", "standard", {"input": 1000, "output": 1000}, 8_000_000),
    ("whisper-large-v3", "https://api.groq.com/openai/v1", "standard", {"audio_ms": 60_000}, 1_850_000),
    # a price for the request itself: 100 x 3 + 100 x 15 + 0.014
    ("sonar-pro", "https://api.perplexity.ai", "standard", {"input": 100, "output": 100}, 15_800_000),
    # reasoning with a price of its own: 10 x 2 + 100 x 8 + 900 x 3
    (
        "sonar-deep-research",
        "https://api.perplexity.ai",
        "standard",
        {"input": 10, "output": 1000, "reasoning": 900},
        3_520_000,
    ),
    ("voxtral-mini-latest", "https://api.mistral.ai/v1", "standard", {"audio_ms": 30_000}, 1_500_000),
    ("text-embedding-3-small", "", "standard", {"input": 1000}, 20_000),
]


@pytest.fixture(scope="module")
def bundled():
    return book()


@pytest.mark.parametrize(("model", "base_url", "service", "counts", "nano"), BY_HAND)
def test_price_by_hand(bundled, model, base_url, service, counts, nano):
    price = bundled.price(model, base_url, "", service)
    assert price.priced
    assert price.cost(Usage(**counts)) == nano


def test_a_price_changes_with_the_time_of_day():
    now = [NOON]
    prices = PriceBook(clock=lambda: now[0])
    usage = Usage(input=1000)
    by_day = prices.price("deepseek-chat").cost(usage)
    now[0] = NOON + 8 * 3600
    assert (by_day, prices.price("deepseek-chat").cost(usage)) == (270_000, 135_000)
    now[0] = NOON + 13 * 3600
    assert prices.price("deepseek-chat").cost(usage) == 270_000


def test_an_unknown_model_is_unpriced_and_said_once():
    said = []
    prices = book(on_unpriced=said.append)
    first = prices.price("my-own-model")
    assert isinstance(first, Unpriced)
    assert not first.priced
    prices.price("my-own-model")
    assert [unpriced.name for unpriced in said] == ["my-own-model"]
    assert "prices:" in first.reason
    assert prices.explain("my-own-model")["priced"] is False


def test_an_own_model_stands_alone():
    prices = book({"mine": {"input": 0.2, "output": "0.8"}})
    assert prices.price("mine").cost(Usage(input=1000, output=1000)) == 1_000_000
    assert prices.price("mine").source == "prices.mine"


def test_a_partial_override_lies_over_the_bundled_price():
    price = book({"gpt-4o": {"input": 2}}).price("gpt-4o", OPENAI)
    assert price.cost(Usage(input=1000, output=1000, cached_input=500)) == 1_000_000 + 625_000 + 10_000_000
    assert "genai-prices" in price.source


def test_names_with_a_star_come_after_exact_ones():
    prices = book({"local-*": {"input": 0, "output": 0}, "local-big": {"input": 1, "output": 1}})
    assert prices.price("local-big").cost(Usage(input=1)) == 1_000
    small = prices.price("local-small")
    assert small.priced
    assert small.cost(Usage(input=1)) == 0


def test_own_tiers_and_service_classes():
    prices = book(
        {
            "long": {
                "input": 1,
                "output": 4,
                "tiers": [{"above": 100, "input": 2}, {"above": 1000, "input": 3, "output": 6}],
                "batch": 0.5,
                "flex": {"input": 0.7},
            }
        }
    )
    cost = [prices.price("long").cost(Usage(input=count, output=10)) for count in (100, 101, 1001)]
    assert cost == [140_000, 242_000, 3_063_000]
    assert prices.price("long", service="batch").cost(Usage(input=1001, output=10)) == 1_531_500
    assert prices.price("long", service="flex").cost(Usage(input=10, output=10)) == 47_000


def test_pictures_minutes_and_requests():
    prices = book({"draw": {"image": 0.04, "request": 0.001}, "hear": {"minute": 0.006}})
    assert prices.price("draw").cost(Usage(images=3)) == 121_000_000
    assert prices.price("hear").cost(Usage(audio_ms=30_000)) == 3_000_000


def test_a_keys_own_price_goes_before_all():
    prices = book(
        {"gpt-4o": {"input": 1, "output": 1}}, key_prices={"flat": 0.0001, "deal": {"gpt-4o": {"input": 0.5}}}
    )
    assert prices.price("gpt-4o", key="flat").cost(Usage(input=10, output=10)) == 2_000_000
    assert prices.price("whatever", key="flat").priced
    assert prices.price("gpt-4o", key="other").cost(Usage(input=10)) == 10_000
    assert prices.price("gpt-4o", key="deal").cost(Usage(input=10, output=1)) == 5_000 + 1_000


@pytest.mark.parametrize("kind", ["search", "image", "request"])
def test_a_price_apiece_leaves_the_lists_price_of_tokens(kind):
    prices = book({"gpt-4o": {kind: 0.01}})
    assert prices.price("gpt-4o").cost(Usage(input=1000, output=500)) >= 7_500_000


@pytest.mark.parametrize("entry", [{"cached_input": 1}, {"input": 1}, {"search": 0.01}, {"input": 1, "request": 1}])
def test_half_a_price_of_a_model_that_nobody_lists_is_none(entry):
    price = book({"own": entry}).price("own")
    assert isinstance(price, Unpriced)
    assert "prices.own has no input and output" in price.reason


def test_a_keys_half_price_lies_over_the_yamls():
    prices = book({"own": {"input": 5, "output": 10}}, key_prices={"k": {"own": {"cached_input": 1}}})
    assert prices.price("own", key="k").cost(Usage(input=2, cached_input=1, output=1)) == 5_000 + 1_000 + 10_000


def test_a_free_tier_key_costs_nothing_and_says_so():
    prices = book(free_keys=["free-1"], key_prices={"free-1": 0.001})
    price = prices.price("whatever", key="free-1")
    assert price.priced
    assert price.free
    assert price.cost(Usage(input=1000, output=1000)) == 0
    assert not prices.price("gpt-4o", key="paid").free


def test_the_version_changes_with_the_price_and_only_then():
    first, same, other = (book({"m": {"input": amount, "output": 1}}).price("m") for amount in (1, 1.0, 2))
    assert first.version == same.version != other.version


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "at least one"),
        ({"inptu": 1}, "prices.m.inptu: unknown kind"),
        ({"input": -1}, "prices.m.input"),
        ({"input": "much"}, "prices.m.input"),
        ({"input": True}, "prices.m.input"),
        ({"input": 1, "batch": 20}, "prices.m.batch"),
        ({"input": 1, "tiers": [{"input": 2}]}, r"prices.m.tiers\[0\]"),
    ],
)
def test_a_wrong_price_names_its_place(entry, message):
    with pytest.raises(PriceError, match=message):
        book({"m": entry})


def test_the_memory_of_prices_is_bounded():
    prices = book({"*": {"input": 1, "output": 1}})
    for number in range(10_000):
        prices.price(f"m{number}")
    assert len(prices._found) <= 4_096


def test_explain_names_source_version_and_tiers(bundled):
    found = bundled.explain("claude-sonnet-4-5", ANTHROPIC)
    assert found["source"].startswith("genai-prices")
    assert found["source"].endswith("anthropic/claude-sonnet-4-5")
    assert found["usd_per_million"]["input"] == 3
    assert found["tiers"][0]["above"] == 200_000
    assert found["services"]["batch"]["output"] == 7.5


COUNTS = st.fixed_dictionaries(
    {name: st.integers(0, 10**7) for name in ("input", "output", "cached_input", "cache_write", "reasoning")}
)


@given(COUNTS, st.fixed_dictionaries({name: st.integers(0, 10**11) for name in ("input", "output", "cached_input")}))
def test_integers_agree_with_exact_decimals(counts, named):
    rates = Rates(named)
    fresh = max(0, counts["input"] - counts["cached_input"] - counts["cache_write"])
    plain = max(0, counts["output"] - counts["reasoning"])
    exact = (
        Decimal(fresh + counts["cache_write"]) * named["input"]
        + Decimal(plain + counts["reasoning"]) * named["output"]
        + Decimal(counts["cached_input"]) * named["cached_input"]
    ) / 1_000_000
    assert abs(rates.cost(Usage(**counts)) - exact) <= Decimal("0.5")


@given(COUNTS)
def test_the_worst_case_is_never_below_the_cost(counts):
    counts["cached_input"] = min(counts["cached_input"], counts["input"])
    counts["cache_write"] = min(counts["cache_write"], counts["input"] - counts["cached_input"])
    counts["reasoning"] = min(counts["reasoning"], counts["output"])
    price = book({"m": {"input": 3, "output": 15, "cache_write": 3.75, "cached_input": 0.3, "reasoning": 20}}).price(
        "m"
    )
    assert price.worst_case(counts["input"], counts["output"]) >= price.cost(Usage(**counts))


@pytest.mark.parametrize(("millionths", "nano"), [(0, 0), (499_999, 0), (500_000, 1), (1_499_999, 1), (1_500_000, 2)])
def test_rounding_is_half_up_and_once(millionths, nano):
    assert round_millionths(millionths) == nano


def test_money_in_words():
    assert nano_from_usd("0.0000000015") == 2
    assert nano_from_usd(0.1) == 100_000_000
    assert usd(1_500_000_000) == 1.5
    assert [usd_text(nano) for nano in (0, 1, 1_200_000, 2 * NANO)] == ["0", "0.000000001", "0.0012", "2"]
    assert usd_text(5, places=4) == "<0.0001"
    assert usd_text(123_456_789, places=2) == "0.12"
    for nano in (0, 1, 10, 118_500, NANO - 1, NANO, NANO + 1, 25 * NANO // 10, 10**18 + 1):
        assert usd_bytes(nano) == usd_text(nano).encode()
    for wrong in ("x", float("nan"), -1, True):
        with pytest.raises(ValueError, match="USD"):
            nano_from_usd(wrong)


WRITTEN = {
    "gpt-4o": {"batch": 0.4},
    "mine": {
        "input": 1,
        "output": 4,
        "image": 0.04,
        "minute": 0.006,
        "search": 0.01,
        "image_input": 5,
        "image_output": 40,
        "cache_write": 1.25,
        "cache_write_1h": 2,
        "tiers": [{"above": 1000, "input": 2, "output": 6}],
        "batch": 0.5,
        "flex": {"input": 0.6},
    },
}


@pytest.mark.parametrize(
    ("model", "service", "usage", "nanos"),
    [
        # 1000 x 2.50 + 500 x 10, of that 0.4: the rest of the price comes from the bundled list
        ("gpt-4o", "standard", {"input": 1000, "output": 500}, 7_500_000),
        ("gpt-4o", "batch", {"input": 1000, "output": 500}, 3_000_000),
        ("mine", "standard", {"input": 1000, "output": 10}, 1_040_000),
        ("mine", "standard", {"input": 1001, "output": 10}, 2_062_000),
        ("mine", "batch", {"input": 1001, "output": 10}, 1_031_000),
        ("mine", "flex", {"input": 1000, "output": 10}, 640_000),
        ("mine", "standard", {"images": 2, "searches": 3, "audio_ms": 30_000}, 80_000_000 + 30_000_000 + 3_000_000),
        ("mine", "standard", {"input": 100, "image_input": 60, "output": 10, "image_output": 10}, 740_000),
        # 50 fresh, 30 written for five minutes, 20 for an hour
        ("mine", "standard", {"input": 100, "cache_write": 50, "cache_write_1h": 20}, 50_000 + 37_500 + 40_000),
    ],
)
def test_prices_of_the_configuration(tmp_path, model, service, usage, nanos):
    config = Config.model_validate({"prices": WRITTEN, "data": str(tmp_path)})
    prices = Books(config, dry=True).prices
    assert prices.price(model, OPENAI, service=service).cost(Usage(**usage)) == nanos


RATE = st.sampled_from([0, 1, 3, 37_500_000, 150_000_000, 2_500_000_000, 10 * NANO]) | st.integers(0, 10**13)
COUNT = st.just(0) | st.integers(0, 10_000_000)


@given(
    st.dictionaries(st.sampled_from(KINDS), RATE),
    st.dictionaries(st.sampled_from(PACKED), COUNT),
)
def test_the_short_ways_of_the_sum_give_what_the_formula_says(named, counts):
    rates, usage = Rates(named), Usage(**counts)
    hour = min(usage.cache_write_1h, usage.cache_write)
    parts = usage.cached_input + usage.cache_write + usage.audio_input + usage.image_input
    made = usage.reasoning + usage.audio_output + usage.image_output
    total = (
        max(0, usage.input - parts) * rates.input
        + usage.cached_input * rates.cached_input
        + (usage.cache_write - hour) * rates.cache_write
        + hour * rates.cache_write_1h
        + usage.audio_input * rates.audio_input
        + usage.image_input * rates.image_input
        + max(0, usage.output - made) * rates.output
        + usage.reasoning * rates.reasoning
        + usage.audio_output * rates.audio_output
        + usage.image_output * rates.image_output
        + usage.images * rates.image
        + usage.searches * rates.search
        + rates.request
        + (usage.audio_ms * rates.minute + 30_000) // 60_000
    )
    assert rates.cost(usage) == round_millionths(total)
    dearest = (
        max(rates.input, rates.cache_write, rates.cache_write_1h, rates.audio_input, rates.image_input),
        max(rates.output, rates.reasoning, rates.audio_output, rates.image_output),
    )
    worst = usage.input * dearest[0] + usage.output * dearest[1] + rates.request
    assert rates.worst_case(usage.input, usage.output) == round_millionths(worst)
    plain = Usage(input=usage.input, output=usage.output)
    assert rates.plain(plain.input, plain.output) == rates.cost(plain)
