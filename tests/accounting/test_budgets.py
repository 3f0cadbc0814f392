"""Windows across every border, counters that hold, and a fair line."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.budgets import Amounts, Budget, obstacle
from proxy.accounting.line import Line
from proxy.accounting.windows import Window, zone
from proxy.state.limits import Counter, Refusal

BERLIN = ZoneInfo("Europe/Berlin")


def at(text, tz=UTC):
    return datetime.fromisoformat(text).replace(tzinfo=tz).timestamp()


def hours(span):
    return (span.end - span.start) / 3600


@pytest.mark.parametrize(
    ("day", "length"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-10-26", 24), ("2026-12-31", 24)]
)
def test_a_day_is_as_long_as_the_clocks_make_it(day, length):
    span = Window("day", BERLIN).at(at(f"{day}T12:00", BERLIN))
    assert hours(span) == length
    assert span.name == day


def test_where_midnight_does_not_exist_the_day_begins_with_the_change():
    chile = ZoneInfo("America/Santiago")
    window = Window("day", chile)
    span = window.at(at("2025-09-07T12:00", chile))
    assert hours(span) == 23
    assert window.at(span.start - 1).end == span.start


def test_the_hour_that_comes_twice_is_two_windows():
    window = Window("hour", BERLIN)
    first = window.at(datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=0).timestamp())
    second = window.at(datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1).timestamp())
    assert first.end == second.start
    assert first.name != second.name


def test_an_hour_begins_at_the_full_hour_of_its_zone():
    window = Window("hour", ZoneInfo("Asia/Kolkata"))
    span = window.at(at("2026-01-01T10:10", ZoneInfo("Asia/Kolkata")))
    assert span.start == at("2026-01-01T10:00", ZoneInfo("Asia/Kolkata"))


@pytest.mark.parametrize(
    ("moment", "name", "days"),
    [("2026-02-10T00:00", "2026-02", 28), ("2028-02-29T23:59", "2028-02", 29), ("2026-12-31T23:59:59", "2026-12", 31)],
)
def test_months(moment, name, days):
    span = Window("month").at(at(moment))
    assert (span.name, hours(span) / 24) == (name, days)


def test_a_week_begins_on_monday_also_across_the_year():
    span = Window("week").at(at("2027-01-01T00:00"))
    assert datetime.fromtimestamp(span.start, UTC).isoformat() == "2026-12-28T00:00:00+00:00"
    assert span.name == "2026-W53"


ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/Santiago", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Cairo"]
)


@given(st.sampled_from(["hour", "day", "week", "month"]), ZONES, st.integers(0, 4_000_000_000))
def test_windows_tile_time(kind, name, moment):
    window = Window(kind, zone(name))
    span = window.at(moment)
    assert span.start <= moment < span.end
    assert window.at(span.start) == span
    assert window.at(span.end).name != span.name or kind == "hour"
    if kind != "hour":
        assert window.at(span.end).start == span.end
        assert window.before(span).end == span.start


def test_a_wall_clock_that_jumps_back_finds_the_older_window():
    window = Window("day")
    today = window.at(at("2026-05-05T01:00"))
    assert window.at(at("2026-05-04T23:00")).name == "2026-05-04"
    assert window.at(at("2026-05-05T01:00")) == today


def test_a_rolling_window_ends_now():
    span = Window(rolling=90.0).at(1_000.0)
    assert (span.start, span.end) == (910.0, 1_000.0)


def test_unknown_zone_and_window_are_refused():
    with pytest.raises(ValueError, match="Mars/Olympus"):
        zone("Mars/Olympus")
    with pytest.raises(ValueError, match="fortnight"):
        Window("fortnight")


def test_a_counter_is_the_same_within_a_window_and_new_in_the_next():
    budget = Budget("b", ("project",), Window("day"), usd=10, calls=5)
    noon = at("2026-05-05T12:00")
    first = budget.bucket("red", noon)
    assert budget.bucket("red", noon + 3600) is first
    assert budget.bucket("blue", noon).counters[0][1].name != first.counters[0][1].name
    later = budget.bucket("red", noon + 86_400)
    assert later.counters[0][1].name != first.counters[0][1].name


def test_an_unpriced_call_wants_no_money_but_counts():
    budget = Budget("b", ("all",), Window("day"), usd=10, tokens=100, calls=5)
    bucket = budget.bucket("all", 0.0)
    claims = budget.claims(bucket, Amounts(7, 30), priced=False)
    assert [amount for _, amount in claims] == [30, 1]
    assert list(budget.amounts(claims, Amounts(9, 40))) == [40, 1]
    whole = budget.claims(bucket, Amounts(7, 30))
    assert list(budget.amounts(whole, Amounts(9, 40))) == [9, 40, 1]


def test_a_refusal_is_spent_or_held():
    counter = Counter("c", 100, 60.0)
    assert obstacle(Refusal(counter, 1.0, used=80, held=20), 10) == "held"
    assert obstacle(Refusal(counter, 1.0, used=95, held=0), 10) == "spent"
    assert obstacle(Refusal(counter, 1.0, used=0, held=0), 101) == "spent"


def test_the_refusal_says_which_budget_and_when_it_begins_anew():
    budget = Budget("team", ("project",), Window("day"), usd=50 * 10**9)
    now = at("2026-05-05T12:00")
    counter = budget.bucket("red", now).counters[0][1]
    text = budget.explain(Refusal(counter, 1.0, used=49.5e9), 10**9, "red", now)
    assert "Budget team of project 'red'" in text
    assert "$49.5 of $50" in text
    assert "2026-05-06 00:00:00Z" in text


async def test_the_line_is_first_come_first_served():
    line = Line()
    order = []

    async def one(name):
        place = line.join()
        assert await line.wait(place, 5)
        assert line.may_ask(place)
        order.append(name)
        line.leave(place)

    tasks = [asyncio.create_task(one(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert not line.may_ask(None)
    line.wake()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert line.may_ask(None)


async def test_who_waits_too_long_gives_up_its_place():
    line = Line()
    place = line.join()
    assert await line.wait(place, 0.01) is False
    assert len(line) == 0


async def test_who_is_cancelled_lets_the_next_one_past():
    line = Line()
    first, second = line.join(), line.join()
    waits = [asyncio.create_task(line.wait(place, 5)) for place in (first, second)]
    await asyncio.sleep(0)
    line.wake()
    waits[0].cancel()
    assert await waits[1] is True
    line.leave(second)
    assert len(line) == 0


async def test_a_turn_that_nobody_takes_passes_on():
    line = Line()
    first, second = line.join(), line.join()
    waits = [asyncio.create_task(line.wait(place, 5)) for place in (first, second)]
    await asyncio.sleep(0)
    line.wake()
    assert await waits[0] is True  # woken, but never asks
    assert await asyncio.wait_for(waits[1], 1) is True
    assert first.left
    line.leave(second)
