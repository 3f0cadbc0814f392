"""The journal: written at once, whole lines only, and nothing lost when the process or the disk gives out."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from proxy.accounting import record
from proxy.accounting.journal import Journal, recover
from proxy.accounting.ledger.base import ask_totals
from proxy.accounting.ledger.sqlite import SqliteLedger
from proxy.accounting.segments import claim, free_directories, read_lines
from proxy.accounting.writer import Writer

ROOT = Path(__file__).parents[2]


def lines_of(journal):
    directory = journal.directory
    found = []
    for number in directory.segments():
        found += read_lines(directory.file(number).read_bytes(), "test")
    return found


async def test_a_line_stands_in_the_file_when_append_returns(journal, call):
    number = call(journal)
    assert journal.direct
    assert [line[1] for line in lines_of(journal)] == [number, number]


async def test_lines_that_gathered_while_a_thread_wrote_are_one_write(tmp_path, call, monkeypatch):
    writes = []
    real = os.pwrite
    journal = Journal(tmp_path, fsync=True)
    journal.open()
    monkeypatch.setattr(os, "pwrite", lambda fd, data, place: (writes.append(len(data)), real(fd, data, place))[1])
    for _ in range(50):
        call(journal)
    assert await journal.flushed() is True
    assert len(writes) == 1
    assert len(lines_of(journal)) == 100
    await journal.close()


async def test_a_short_write_leaves_no_torn_line(tmp_path, call, monkeypatch):
    real = os.pwrite
    short = [7]
    journal = Journal(tmp_path, fsync=True)
    journal.open()
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: short.pop()] if short else data, at))
    call(journal)
    assert await journal.flushed() is True
    assert not short
    assert [line[0] for line in lines_of(journal)] == ["b", "e"]
    await journal.close()


async def test_a_closed_journal_holds_lines_and_nothing_else(tmp_path, call):
    journal = Journal(tmp_path, segment_bytes=2_000)
    journal.open()
    for _ in range(50):
        call(journal)
    await journal.close(release=False)
    numbers = journal.directory.segments()
    assert len(numbers) > 5
    for number in numbers:
        assert b"\0" not in journal.directory.file(number).read_bytes()
    journal.directory.release()


async def test_flushed_with_nothing_to_write_is_done_at_once(journal):
    assert journal.flushed().done()


async def test_a_cancelled_waiter_cancels_nobody_else(tmp_path, call):
    journal = Journal(tmp_path, fsync=True)
    journal.open()
    call(journal)
    first = asyncio.ensure_future(journal.flushed())
    second = journal.flushed()
    first.cancel()
    assert await second is True
    await journal.close()


async def test_fsync_mode_answers_after_the_sync(tmp_path, call, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real(fd))[1])
    journal = Journal(tmp_path, fsync=True)
    journal.open()
    call(journal)
    first = journal.flushed()
    await asyncio.sleep(0)
    call(journal)
    second = journal.flushed()
    assert await first
    assert await second
    assert await journal.flushed()
    assert synced
    assert len(lines_of(journal)) == 4
    await journal.close()


async def test_a_slow_disk_moves_writes_to_a_thread_and_back(tmp_path, call, monkeypatch, eventually):
    said = []
    journal = Journal(tmp_path, alarm=lambda state, text: said.append(state))
    journal.open()
    real = os.pwrite
    slow = True

    def write(fd, data, place):
        if slow:
            time.sleep(0.12)
        return real(fd, data, place)

    monkeypatch.setattr(os, "pwrite", write)
    call(journal)
    await journal.flushed()
    assert journal.state == "slow"
    call(journal)
    started = time.monotonic()
    waiter = journal.flushed()
    await asyncio.sleep(0.005)
    assert time.monotonic() - started < 0.1, "the loop stood still during a slow write"
    assert await waiter is True
    slow = False
    for _ in range(60):
        call(journal)
        await journal.flushed()
    assert said == ["slow", "ok"]
    assert len(lines_of(journal)) == 124
    await journal.close()


def test_a_torn_last_line_is_cut_and_said(tmp_path, caplog):
    directory = claim(tmp_path)
    whole = record.end(1, 5, "r", record.attribution())
    directory.file(1).write_bytes(whole + whole[:40])
    assert recover(directory) == []
    assert directory.file(1).read_bytes() == whole
    assert "cut 40 bytes" in caplog.text
    directory.release()


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path):
    directory = claim(tmp_path)
    directory.file(1).write_bytes(b'["b",1')
    assert recover(directory) == []
    assert directory.file(1).read_bytes() == b""
    directory.release()


def test_a_begin_without_an_end_is_abandoned_with_its_estimate(tmp_path):
    directory = claim(tmp_path)
    who = record.attribution(principal="p", model="m")
    directory.file(1).write_bytes(record.begin(7, 5, "r", who, 123, "v", (10, 20)))
    [line] = recover(directory)
    assert orjson.loads(line) == ["e", 7, 5, "r", who, 4, 0, 2, 0, 0, 1, 123, 0, "v", [10, 20], []]
    directory.release()


def test_two_processes_never_share_a_directory(tmp_path):
    first, second = claim(tmp_path), claim(tmp_path)
    assert first.path != second.path
    assert list(free_directories(tmp_path)) == []
    second.release()
    [free] = free_directories(tmp_path)
    assert free.path == second.path
    free.release()
    first.release()


CHILD = """
import asyncio, sys
from pathlib import Path
from proxy.accounting import record
from proxy.accounting.journal import Journal

async def main():
    journal = Journal(Path(sys.argv[1]), segment_bytes=20_000, mapped=sys.argv[2] == "map")
    journal.open()
    print("open", flush=True)
    who = record.attribution(principal="p", key="k")
    async def one():
        while True:
            number = journal.ids.next()
            journal.begin(number, record.begin(number, 5, f"r{number}", who, 1_000_000, "v", (1, 2)))
            await asyncio.sleep(0)
            journal.end(number, record.end(number, 5, f"r{number}", who, cost=1, version="v", usage=(1, 1)))
            if await journal.flushed():
                sys.stdout.write(f"{number}\\n")
                sys.stdout.flush()
    await asyncio.gather(*(one() for _ in range(5)))

asyncio.run(main())
"""


async def test_kill_9_loses_no_call_that_was_answered_and_doubles_none(tmp_path):
    """Ten times: a child journals and says each number once its end stands; it is killed while it does."""
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.open()
    answered: set[str] = set()
    recovered = 0
    for turn in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "journal"), "map" if turn % 2 else "write"],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        await asyncio.sleep(0.02 + 0.01 * turn)
        child.send_signal(signal.SIGKILL)
        said = child.stdout.read().split(b"\n")
        child.stdout.close()
        child.wait()
        answered |= {f"r{number.decode()}" for number in said[:-1]}  # the last may be cut
        journal = Journal(tmp_path / "journal", segment_bytes=20_000)
        journal.open()
        recovered += journal.recovered
        writer = Writer(journal, ledger, gather=0.01)
        writer.start()
        await asyncio.wait_for(writer.caught_up(), 20)
        await journal.close()
        assert await writer.close()
    rows = await ledger.rows("SELECT request, outcome, cost FROM calls", ())
    requests = [row[0] for row in rows]
    assert len(requests) == len(set(requests)), "a call is in the ledger twice"
    assert answered <= set(requests), "an answered call is lost"
    assert len(answered) > 100
    abandoned = [row for row in rows if row[1] == record.OUTCOMES.index("abandoned")]
    assert len(abandoned) == recovered
    assert all(row[2] == 1_000_000 for row in abandoned)
    sums = (await ask_totals(ledger, 0, 1 << 60))[()]
    assert sums["cost"] == len(rows) - len(abandoned) + len(abandoned) * 1_000_000
    await ledger.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", place], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


async def fill(journal, call):
    while journal.state == "ok":
        call(journal)
        if not await journal.flushed():
            return


async def test_a_full_disk_is_said_and_calls_go_on(small_disk, call, eventually, tmp_path):
    said = []
    journal = Journal(small_disk, alarm=lambda state, text: said.append(state))
    journal.open()
    (small_disk / "other").write_bytes(b"x" * 30_000)
    await fill(journal, call)
    assert journal.state == "full"
    assert not journal.refusing
    for _ in range(100):
        call(journal)
    assert await asyncio.wait_for(journal.flushed(), 1) is False
    file = journal.directory.file(journal.number)
    assert file.read_bytes().rstrip(b"\0").endswith(b"\n"), "a torn line stands in the file"
    (small_disk / "other").unlink()
    await eventually(lambda: journal.state == "ok")
    await journal.flushed()
    assert said == ["full", "ok"]
    lines = lines_of(journal)
    assert len({line[1] for line in lines if line[0] == "b"}) == len({line[1] for line in lines if line[0] == "e"})
    assert journal.lost == 0
    ids = [line[1] for line in lines if line[0] == "e"]
    assert len(ids) == len(set(ids))
    await journal.close()


async def test_a_full_disk_refuses_when_told_to(small_disk, call):
    journal = Journal(small_disk, on_full="refuse")
    journal.open()
    await fill(journal, call)
    assert journal.refusing
    await journal.close()


async def test_what_waits_for_room_is_bounded_and_the_loss_is_said(small_disk, call):
    said = []
    journal = Journal(small_disk, held_bytes=20_000, alarm=lambda state, text: said.append((state, text)))
    journal.open()
    await fill(journal, call)
    for _ in range(300):
        call(journal)
        await journal.flushed()
        await asyncio.sleep(0)
    assert journal.lost > 0
    assert journal.held * 200 < 30_000
    assert [state for state, _ in said][:2] == ["full", "lost"]
    await journal.close()


async def test_a_disk_that_is_full_at_start_is_no_crash(small_disk, call, eventually):
    directory = claim(small_disk)
    directory.file(1).write_bytes(record.begin(7, 5, "r", record.attribution(), 123, "v", (10, 20)))
    directory.release()
    with (small_disk / "other").open("wb", buffering=0) as stream:
        for size in (4_096, 1):
            while True:
                try:
                    stream.write(b"x" * size)
                except OSError:
                    break
    journal = Journal(small_disk)
    journal.open()
    assert journal.recovered == 1
    (small_disk / "other").unlink()
    call(journal)
    await eventually(lambda: journal.state == "ok" and not journal.held)
    assert sum(line[0] == "e" for line in lines_of(journal)) == 2
    await journal.close()


async def test_a_directory_that_vanishes_does_not_stop_calls(tmp_path, call):
    journal = Journal(tmp_path / "gone", segment_bytes=1_000)
    journal.open()
    shutil.rmtree(tmp_path / "gone")
    for _ in range(5):
        call(journal)
        call(journal)
        call(journal)
        await journal.flushed()
    assert journal.state == "full"
    await journal.close()
