"""Journal to ledger: once each, whatever happens on the way."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting import record
from proxy.accounting.books import Store
from proxy.accounting.journal import Journal
from proxy.accounting.ledger.base import Conflict, Position, ask_histogram, ask_totals
from proxy.accounting.ledger.batch import MOST_COST, Batch
from proxy.accounting.ledger.postgres import PostgresLedger
from proxy.accounting.ledger.sqlite import SqliteLedger
from proxy.accounting.writer import Writer

ALL = (0, 1 << 60)


async def drained(journal, ledger, **options):
    writer = Writer(journal, ledger, gather=0.01, **options)
    writer.start()
    await asyncio.wait_for(writer.caught_up(), 20)
    assert await writer.close()
    return writer


async def total(ledger, name="calls"):
    return (await ask_totals(ledger, *ALL)).get((), {}).get(name, 0)


async def test_every_call_is_in_the_ledger_once(journal, ledger, call):
    for number in range(500):
        call(journal, cost=number, model=f"m{number % 3}")
    await journal.flushed()
    await drained(journal, ledger)
    sums = await ask_totals(ledger, *ALL, ("model",))
    assert {key: row["calls"] for key, row in sums.items()} == {("m0",): 167, ("m1",): 167, ("m2",): 166}
    assert sum(row["cost"] for row in sums.values()) == sum(range(500))
    assert await total(ledger, "input_tokens") == 50_000


async def test_a_second_writer_finds_nothing_to_do(journal, ledger, call):
    call(journal)
    await journal.flushed()
    await drained(journal, ledger)
    await drained(journal, ledger)
    assert await total(ledger) == 1


async def test_a_batch_that_began_elsewhere_is_a_conflict_and_leaves_nothing(ledger):
    await ledger.apply("s", Position(1, 0), Position(1, 10), Batch({}))
    batch = Batch({})
    batch.add([["e", 1, 1, "r", "\t" * 8, 0, 200, 0, 1, 1, 1, 5, 0, "", [1, 1], []]])
    with pytest.raises(Conflict):
        await ledger.apply("s", Position(1, 0), Position(1, 20), batch)
    assert await ledger.position("s") == Position(1, 10)
    assert await total(ledger) == 0


async def test_roll_ups_agree_with_the_rows_at_any_borders(journal, ledger, call):
    start = 1_700_000_000_000 // 86_400_000 * 86_400_000
    for number in range(300):
        call(journal, at=start + number * 1_700_001, cost=number)
    await journal.flushed()
    await drained(journal, ledger)
    for since, until in ((0, 300), (7, 290), (13, 14), (50, 50), (1, 99)):
        first, last = start + since * 1_700_001, start + until * 1_700_001
        sums = (await ask_totals(ledger, first, last)).get((), {"cost": 0, "calls": 0})
        assert (sums["calls"], sums["cost"]) == (until - since, sum(range(since, until)))


async def test_further_attempts_cost_but_are_no_calls(journal, ledger, call):
    lost = record.extra(
        record.attribution(model="big", upstream="azure", key="k2"), flags=2, cost=700, version="v", usage=(9, 1)
    )
    call(journal, cost=300, attempts=2, extras=[lost])
    await journal.flushed()
    await drained(journal, ledger)
    sums = await ask_totals(ledger, *ALL, ("key",))
    assert {key: (row["calls"], row["cost"]) for key, row in sums.items()} == {("k1",): (1, 300), ("k2",): (0, 700)}


async def test_hits_and_refusals_are_told_apart(journal, ledger, call):
    call(journal)
    call(journal, flags=record.CACHED, attempts=0, cost=0, saved=900, usage=())
    call(journal, outcome="refused", status=429, attempts=0, cost=0, usage=())
    call(journal, outcome="cancelled", attempts=0, cost=0, usage=())
    await journal.flushed()
    await drained(journal, ledger)
    sums = (await ask_totals(ledger, *ALL))[()]
    assert [sums[name] for name in ("calls", "cached_calls", "refused", "saved", "cost")] == [2, 1, 1, 900, 1_000]


async def test_cost_histogram_counts_priced_calls_only(journal, ledger, call):
    for cost in (0, 10, 10_000, 10_000):
        call(journal, cost=cost)
    call(journal, flags=record.UNPRICED, cost=0)
    call(journal, flags=record.CACHED, attempts=0)
    await journal.flushed()
    await drained(journal, ledger)
    now = int(time.time() * 1000)
    counts = (await ask_histogram(ledger, now - 1000, now + 1000))[()]
    assert sum(calls for _, calls in counts) == 4


async def test_hostile_values_hold_nobody_up(journal, ledger, call):
    call(journal, project="nul\x00 tab\t\n surrogate", attempts=1 << 40, status=1 << 20, cost=1 << 62)
    call(journal, principal="bob")
    await journal.flushed()
    await drained(journal, ledger)
    assert await total(ledger) == 2


async def test_a_cost_out_of_all_bounds_is_cut_and_its_sums_can_be_read(journal, ledger, call):
    for _ in range(3):
        call(journal, cost=5 * 10**18)
    await journal.flushed()
    await drained(journal, ledger)
    assert await total(ledger, "cost") == 3 * MOST_COST


async def test_a_sum_that_is_full_holds_up_no_row_behind_it(journal, ledger, call):
    for _ in range(3):
        call(journal, usage=(1 << 62, 1), model="huge")
        await journal.flushed()
        await drained(journal, ledger)
    call(journal, usage=(7, 1), model="small")
    await journal.flushed()
    writer = await drained(journal, ledger)
    assert not writer.error
    assert await total(ledger, "calls") == 4


async def test_damaged_lines_are_skipped_and_said(journal, ledger, call, caplog):
    call(journal, principal="before")
    journal.append(b'["e",1,2\n')
    journal.append(b'["e",1,2,"short"]\n')
    journal.append(b"\x00\x00\x00\n")
    call(journal, principal="after")
    await journal.flushed()
    await drained(journal, ledger)
    assert await total(ledger) == 2
    assert "damaged line" in caplog.text


async def test_segments_go_when_the_ledger_has_them(tmp_path, ledger, call):
    journal = Journal(tmp_path / "small", segment_bytes=5_000)
    journal.open()
    for _ in range(20):
        for _ in range(10):
            call(journal)
        await journal.flushed()
    assert len(journal.directory.segments()) > 5
    await drained(journal, ledger)
    assert len(journal.directory.segments()) == 1
    assert await total(ledger) == 200
    await journal.close()


async def test_a_long_call_survives_its_segment_and_is_found_abandoned(tmp_path, ledger, call):
    root = tmp_path / "small"
    journal = Journal(root, segment_bytes=2_000)
    journal.open()
    number = journal.ids.next()
    journal.begin(number, record.begin(number, 5, "long", record.attribution(key="k9"), 777, "v", (1, 2)))
    for _ in range(10):
        call(journal)
        call(journal)
        await journal.flushed()
    await drained(journal, ledger)
    await journal.close()
    again = Journal(root)
    again.open()
    assert again.recovered == 1
    await drained(again, ledger)
    sums = await ask_totals(ledger, *ALL, ("key",))
    assert sums[("k9",)]["cost"] == 777
    assert sums[("k9",)]["failed"] == 1
    await again.close()


async def test_the_journal_of_a_process_that_is_gone_is_taken_over(tmp_path, ledger, call):
    root = tmp_path / "workers"
    first, second = Journal(root), Journal(root)
    first.open()
    second.open()
    assert first.directory.path != second.directory.path
    call(second)
    number = second.ids.next()
    second.begin(number, record.begin(number, 5, "x", record.attribution(), 42, "v", (1, 2)))
    await second.flushed()
    await second.close()
    await drained(first, ledger, root=root)
    assert not second.directory.path.exists()
    sums = (await ask_totals(ledger, *ALL))[()]
    assert (sums["calls"], sums["cost"]) == (2, 1_042)
    await first.close()


async def test_pruning_keeps_the_sums(journal, ledger, call):
    old = int(time.time() * 1000) - 40 * 86_400_000
    for number in range(50):
        call(journal, at=old + number, cost=10)
    call(journal, cost=7)
    await journal.flushed()
    await drained(journal, ledger)
    cut = int(time.time() * 1000) - 30 * 86_400_000
    deleted = [await ledger.prune("calls", cut, 20) for _ in range(4)]
    assert deleted == [20, 20, 10, 0]
    assert (await ledger.rows("SELECT COUNT(*) FROM calls", ()))[0][0] == 1
    assert (await ask_totals(ledger, old - 5, int(time.time() * 1000) + 1))[()]["cost"] == 507
    while await ledger.prune("hours", cut, 20):
        pass
    assert (await ask_totals(ledger, old + 3, old + 10))[()]["cost"] == 500  # the day stands in for its edge


async def test_the_writer_prunes_what_is_older_than_its_retention(journal, ledger, call, eventually):
    now = int(time.time() * 1000)
    for number in range(1_200):
        call(journal, at=now - 7_200_000 + number)
    call(journal, at=now)
    await journal.flushed()
    writer = Writer(journal, ledger, gather=0.01, retention={"calls": 3_600})
    writer.start()
    await asyncio.wait_for(writer.caught_up(), 10)

    async def left():
        return (await ledger.rows("SELECT COUNT(*) FROM calls", ()))[0][0]

    async with asyncio.timeout(10):
        while await left() > 1:
            await asyncio.sleep(0.02)
    assert await writer.close()
    assert await total(ledger) == 1_201


async def test_postgres_down_and_up_loses_and_doubles_nothing(postgres_server, journal, call, eventually):
    ledger = PostgresLedger(postgres_server.database(f"down{time.time_ns()}"))
    said = []
    writer = Writer(journal, ledger, gather=0.01, alarm=lambda state, text: said.append(state))
    writer.start()
    stop = asyncio.Event()
    written = 0

    async def load():
        nonlocal written
        while not stop.is_set():
            for _ in range(20):
                call(journal, cost=1)
                written += 1
            await journal.flushed()
            await asyncio.sleep(0.002)

    loader = asyncio.create_task(load())
    await eventually(lambda: writer.written > 200)
    await asyncio.to_thread(postgres_server.stop)
    await eventually(lambda: writer.state == "down")
    await asyncio.to_thread(postgres_server.start)
    await eventually(lambda: writer.state == "up")
    stop.set()
    await loader
    await asyncio.wait_for(writer.caught_up(), 20)
    assert await writer.close()
    assert said == ["down", "up"]
    sums = (await ask_totals(ledger, *ALL))[()]
    assert (sums["calls"], sums["cost"]) == (written, written)
    assert (await ledger.rows("SELECT COUNT(*) FROM calls", ()))[0][0] == written
    await ledger.close()


async def test_a_commit_whose_answer_was_lost_is_not_repeated(journal, tmp_path, call):
    class Deaf(SqliteLedger):
        fails = 2

        async def apply(self, source, begun, reached, batch):
            await super().apply(source, begun, reached, batch)
            if self.fails:
                self.fails -= 1
                raise ConnectionError("the answer to COMMIT was lost")

    ledger = Deaf(tmp_path / "deaf.db")
    for _ in range(10):
        call(journal)
    await journal.flushed()
    await drained(journal, ledger)
    assert await total(ledger) == 10
    await ledger.close()


async def test_a_locked_sqlite_file_only_delays(journal, tmp_path, call, eventually):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.open()
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    call(journal)
    await journal.flushed()
    writer = Writer(journal, ledger, gather=0.01)
    writer.start()
    await asyncio.sleep(0.1)
    other.execute("ROLLBACK")
    other.close()
    await asyncio.wait_for(writer.caught_up(), 10)
    assert await writer.close()
    assert await total(ledger) == 1
    await ledger.close()


async def test_two_replicas_fill_one_postgres(postgres_url, tmp_path, call):
    ledgers = [PostgresLedger(postgres_url), PostgresLedger(postgres_url)]
    journals = [Journal(tmp_path / "a"), Journal(tmp_path / "b")]
    for journal in journals:
        journal.open()
        for number in range(3_000):
            call(journal, model=f"m{number % 50}", cost=1)
        await journal.flushed()
    await asyncio.gather(*(drained(journal, ledger) for journal, ledger in zip(journals, ledgers, strict=True)))
    sums = await ask_totals(ledgers[0], *ALL, ("model",))
    assert {row["calls"] for row in sums.values()} == {120}
    for journal, ledger in zip(journals, ledgers, strict=True):
        await journal.close()
        await ledger.close()


def test_schema_files_ship_with_the_package():
    assert (Path(__file__).parents[2] / "proxy/accounting/ledger/schema.sql").exists()


async def test_the_loop_that_serves_calls_does_nothing_for_the_writer(journal, tmp_path, call):
    """No callback, no task and no executor job of the serving loop: a thread of its own brings everything over."""
    ledger = SqliteLedger(tmp_path / "ledger.db")
    writer = Writer(journal, ledger, gather=0.01)
    writer.start()
    deadline = time.monotonic() + 20
    written = 0
    while writer.written < 4_000 and time.monotonic() < deadline:  # the loop stands still all the time
        if written < 4_000:
            call(journal)
            written += 1
    assert writer.written == 4_000
    assert await writer.close()
    assert await total(ledger) == 4_000
    await ledger.close()


async def test_after_a_restart_nothing_is_added_below_the_place_that_the_ledger_knows(tmp_path, ledger, call):
    """A power cut made the file shorter than what was read of it: new records must not fall into the gap."""
    first = Journal(tmp_path / "j")
    first.open()
    for _ in range(5):
        call(first)
    await drained(first, ledger)
    await first.close()
    file = first.directory.file(first.number)
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)
    again = Journal(tmp_path / "j")
    again.open()
    call(again, principal="new")
    await drained(again, ledger)
    assert ("new",) in await ask_totals(ledger, *ALL, ("principal",))
    await again.close()


async def test_rows_of_any_number_go_in(ledger):
    """Blocks and what is left of them: 1 to 515 rows, each once."""
    for place, count in enumerate((1, 2, 63, 255, 256, 257, 515)):
        batch = Batch({})
        who = record.attribution(model=f"m{count}")
        batch.add([["e", n, 1_000, f"r{n}", who, 0, 200, 0, 1, 1, 1, 5 + n, 0, "", [1, 1], []] for n in range(count)])
        await ledger.apply("s", Position(1, place), Position(1, place + 1), batch)
    sums = await ask_totals(ledger, *ALL, ("model",))
    assert {model: row["calls"] for (model,), row in sums.items()} == {
        f"m{n}": n for n in (1, 2, 63, 255, 256, 257, 515)
    }
    found = await ledger.rows("SELECT COUNT(*), SUM(calls) FROM costs", ())
    assert int(found[0][1]) == 1_349


async def test_a_store_that_opens_while_another_closes_takes_no_file_from_it(tmp_path, call):
    """What a reload does that drops the last accounting chain and the next that brings one back, again and again."""
    last = None
    for _ in range(25):
        store = Store.enter(tmp_path)
        for _ in range(50):
            call(store.journal)
        if last is not None:
            await last
        last = asyncio.create_task(store.leave())
        await asyncio.sleep(0)
    await last
    store = Store.enter(tmp_path)
    await asyncio.wait_for(store.writer.caught_up(), 20)
    left = [path for path in (tmp_path / "journal").glob("w*/*.log") if path.stat().st_size]
    assert len(left) <= 1
    assert (await ask_totals(store.ledger, *ALL))[()]["calls"] == 25 * 50
    await store.leave()


async def test_calls_that_come_while_a_batch_is_written_gather_for_the_next(journal, tmp_path, call):
    class Counted(SqliteLedger):
        batches = 0

        async def apply(self, *arguments: Any) -> None:
            self.batches += 1
            call(journal)  # there is always a call more, as under load
            await super().apply(*arguments)

    ledger = Counted(tmp_path / "l.db")
    await ledger.open()
    writer = Writer(journal, ledger, gather=0.2)
    call(journal)
    started = time.monotonic()
    writer.start()
    while ledger.batches < 4:
        await asyncio.sleep(0.01)
    assert time.monotonic() - started > 0.5
    assert await writer.close()
    await ledger.close()
