"""What a reader of the ledger learns of the journals beside it."""

from __future__ import annotations

import asyncio

import pytest

from proxy.accounting.behind import behind, caught_up
from proxy.accounting.journal import Journal
from proxy.accounting.ledger.sqlite import SqliteLedger
from proxy.accounting.writer import Writer


@pytest.fixture
async def ledger(tmp_path):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.open()
    yield ledger
    await ledger.close()


@pytest.fixture
async def journal(tmp_path, call):
    """A journal with one call that is in no ledger yet."""
    journal = Journal(tmp_path / "journal")
    journal.open()
    call(journal)
    await journal.flushed()
    yield journal
    await journal.close()


async def test_a_call_that_only_the_journal_has_is_behind(tmp_path, journal, ledger):
    assert await behind(ledger, tmp_path / "journal") > 0


async def test_a_reader_waits_until_the_writer_has_brought_it_over(tmp_path, journal, ledger):
    waiting = asyncio.create_task(caught_up(ledger, tmp_path / "journal", 10))
    await asyncio.sleep(0)
    writer = Writer(journal, ledger, gather=0.01)
    writer.start()
    assert await waiting == 0
    assert (await ledger.rows("SELECT count(*) FROM calls", ()))[0][0] == 1
    await writer.close()


async def test_a_journal_that_nobody_moves_is_waited_for_no_longer_than_said(tmp_path, journal, ledger):
    async with asyncio.timeout(2):
        assert await caught_up(ledger, tmp_path / "journal", 0.01) > 0


async def test_no_journals_mean_nothing_is_behind(tmp_path, ledger):
    assert await caught_up(ledger, tmp_path / "none", 10) == 0
