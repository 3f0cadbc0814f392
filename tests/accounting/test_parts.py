"""Sums by one dimension stand apart, so that a month hour by hour is quick; they must say what the groups say."""

from __future__ import annotations

import random
import sqlite3
import time

import asyncpg
import pytest

from proxy.accounting import record
from proxy.accounting.ledger.base import Position, ask_histogram, ask_totals, open_ledger
from proxy.accounting.ledger.batch import MOST_COST, SUMS, Batch
from proxy.accounting.ledger.statements import DAY, HOUR, PARTS, SPREADS
from proxy.accounting.reports import summarize

START = 1_790_000_000_000 // DAY * DAY
NOWHERE = {"task": ""}  # holds for all, and keeps a question from the tables asked about here


async def filled(ledger, days=3, count=400):
    random.seed(7)
    numbers: dict[str, int] = {}
    for step in range(4):
        batch = Batch(numbers)
        for number in range(count // 4):
            who = record.attribution(
                principal=f"p{number % 7}",
                project=f"j{number % 3}",
                route="r",
                model=f"m{number % 4}",
                model_asked="m",
                upstream=f"u{number % 2}",
                key=f"k{number % 5}",
            )
            at = START + random.randrange(days * DAY)
            cost = random.randrange(1_000_000)
            batch.add([["e", number, at, "r", who, 0, 200, 0, 5, 1, 1, cost, 0, "v", [number, 3], []]])
        await ledger.apply("s", Position(1, step), Position(1, step + 1), batch)


@pytest.mark.parametrize("name", [name for name in PARTS if name != "task"])
async def test_hours_by_one_dimension_say_what_the_groups_say(ledger, name):
    await filled(ledger)
    by = ("slot", name) if name else ("slot",)
    span = (START + DAY // 2, START + 2 * DAY)
    quick = await ask_totals(ledger, *span, by, finest="hours")
    assert quick == await ask_totals(ledger, *span, by, NOWHERE, finest="hours")
    assert sum(row["calls"] for row in quick.values()) > 100


@pytest.mark.parametrize("by", [(), ("model",)])
async def test_the_spread_of_costs_says_what_the_groups_say(ledger, by):
    await filled(ledger)
    quick = await ask_histogram(ledger, START, START + 3 * DAY, by)
    slow = await ask_histogram(ledger, START, START + 3 * DAY, by, NOWHERE)
    assert {key: sorted(counts) for key, counts in quick.items()} == {k: sorted(counts) for k, counts in slow.items()}
    assert set(SPREADS) == {"", "model"}


async def test_days_in_utc_come_from_the_days_and_their_edges_from_hours(ledger):
    await filled(ledger)
    since, until = START / 1000 + 3_600 * 5, START / 1000 + 2.5 * 86_400
    days = await summarize(ledger, since, until, ("day", "model", "project"))
    hours = await summarize(ledger, since, until, ("hour", "model", "project"))
    sums: dict[tuple[str, str, str], int] = {}
    for row in hours:
        place = (row["hour"][:10], row["model"], row["project"])
        sums[place] = sums.get(place, 0) + row["input_tokens"]
    assert {(row["day"], row["model"], row["project"]): row["input_tokens"] for row in days} == sums


async def test_a_ledger_from_before_gets_them_when_it_is_opened(tmp_path):
    ledger = open_ledger(f"sqlite://{tmp_path / 'old.db'}", tmp_path)
    await ledger.open()
    await filled(ledger)
    before = await ask_totals(ledger, START, START + 3 * DAY, ("slot", "model"), finest="hours")
    spread = await ask_histogram(ledger, START, START + 3 * DAY, ("model",))
    await ledger.close()
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript("DROP TABLE parts; DROP TABLE spreads")
    connection.close()
    await _is_as_before(open_ledger(f"sqlite://{tmp_path / 'old.db'}", tmp_path), before, spread)


async def test_a_postgres_ledger_from_before_gets_them_when_it_is_opened(tmp_path, postgres_url):
    ledger = open_ledger(postgres_url, tmp_path)
    await ledger.open()
    await filled(ledger)
    before = await ask_totals(ledger, START, START + 3 * DAY, ("slot", "model"), finest="hours")
    spread = await ask_histogram(ledger, START, START + 3 * DAY, ("model",))
    await ledger.close()
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("DROP TABLE parts, spreads")
    await connection.close()
    await _is_as_before(open_ledger(postgres_url, tmp_path), before, spread)


async def _is_as_before(ledger, before, spread):
    await ledger.open()
    assert before
    assert await ask_totals(ledger, START, START + 3 * DAY, ("slot", "model"), finest="hours") == before
    found = await ask_histogram(ledger, START, START + 3 * DAY, ("model",))
    assert {key: sorted(row) for key, row in found.items()} == {key: sorted(row) for key, row in spread.items()}
    await ledger.close()


async def test_a_month_hour_by_hour_is_quick(tmp_path):
    """A bound with much room for a busy machine: 90,000 rows of groups by hour, asked by model (aim: 100 ms)."""
    ledger = open_ledger("", tmp_path)
    await ledger.open()
    numbers: dict[str, int] = {}
    now = int(time.time() * 1000) // DAY * DAY
    whos = [record.attribution(principal=f"p{n}", model=f"m{n % 6}", project="j") for n in range(125)]
    for day in range(30):
        batch = Batch(numbers)
        for hour in range(24):
            at = now - (30 - day) * DAY + hour * 3_600_000
            batch.add([["e", 1, at, "r", who, 0, 200, 0, 5, 1, 1, 9, 0, "v", [1, 3], []] for who in whos])
        await ledger.apply("s", Position(1, day), Position(1, day + 1), batch)
    took = []
    for _ in range(3):
        started = time.perf_counter()
        rows = await summarize(ledger, now / 1000 - 30 * 86_400, now / 1000, ("hour", "model"))
        took.append(time.perf_counter() - started)
        assert len(rows) == 720 * 6
        assert sum(row["calls"] for row in rows) == 90_000
    assert min(took) < 0.25
    await ledger.close()


async def test_what_a_batch_adds_up_is_what_the_rows_say(ledger):
    random.seed(11)
    batch = Batch({})
    who = [record.attribution(model=f"m{number}") for number in range(3)]
    usages = [[], [10, 3], [10, 3, 4], [10, 3, 4, 2, 1], [10, 3, 0, 0, 0, 7]]
    for number in range(300):
        extras = [[who[number % 2], record.ESTIMATED, 5, "v", [2, 1]]] * (number % 9 == 0)
        # fmt: off
        batch.add([[
            "e", number, START + random.randrange(3 * HOUR), "r", who[number % 3], random.randrange(6), 200,
            random.randrange(16), number, 1, random.randrange(3), random.randrange(10**6), random.choice([0, 0, 9]), "v",
            random.choice(usages), extras,
        ]])
        # fmt: on
    await ledger.apply("s", Position(1, 0), Position(1, 1), batch)
    sums = ", ".join(f"CAST(SUM({expression}) AS BIGINT)" for expression in SUMS.values())
    rows = await ledger.rows(f"SELECT at / {HOUR}, grp, {sums} FROM calls GROUP BY 1, 2 ORDER BY 1, 2", ())
    assert rows == await ledger.rows(f"SELECT slot, grp, {', '.join(SUMS)} FROM hours ORDER BY 1, 2", ())
    assert len(rows) == 9
    assert await ledger.rows("SELECT COUNT(*) FROM calls", ()) == [(len(batch),)]
    assert await ledger.rows("SELECT rest FROM calls WHERE rest IS NOT NULL LIMIT 1", ()) == [("7",)]


async def test_a_record_with_values_of_other_kinds_stops_nothing(ledger):
    batch = Batch({})
    batch.add([["e", 1, START, "r", record.attribution(), 0, 200, 0, "5", None, 1, 1 << 80, 0, "v", [1, 1 << 63], []]])
    batch.mend()
    await ledger.apply("s", Position(1, 0), Position(1, 1), batch)
    [(ms, first, cost)] = await ledger.rows("SELECT ms, first_ms, cost FROM calls", ())
    assert (ms, first, cost) == (0, 0, MOST_COST)
