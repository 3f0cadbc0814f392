"""A file written through a memory map holds what was put into it, also when its process dies or its disk is full."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.accounting import record
from proxy.accounting.behind import behind
from proxy.accounting.journal import Journal
from proxy.accounting.ledger.base import Position
from proxy.accounting.ledger.sqlite import SqliteLedger
from proxy.accounting.mapped import MappedFile, can_map
from proxy.accounting.segments import claim, filled, repair
from proxy.accounting.tail import Tail

ROOT = Path(__file__).parents[2]
LINES = st.one_of(st.integers(1, 400), st.integers(3_000, 9_000), st.just(300_000)).map(
    lambda size: b"x" * size + b"\n"
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "00000001.log"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "write", "reopen"]), LINES), max_size=40), st.booleans())
def test_whatever_was_put_or_written_stands_in_this_order(tmp_path_factory, steps, by_map):
    file = tmp_path_factory.mktemp("mapped") / "1.log"
    mapped, expected = MappedFile(file, 1, mapped=by_map), b""
    for what, line in steps:
        if what == "reopen":
            mapped.close()
            assert file.read_bytes() == expected
            mapped = MappedFile(file, 1, mapped=by_map)
            continue
        getattr(mapped, what)(line)
        expected += line
        assert mapped.size == len(expected)
        assert filled(file) == len(expected)
    mapped.close()
    assert file.read_bytes() == expected


def test_while_it_is_in_use_only_zeros_stand_behind_the_lines(file):
    mapped = MappedFile(file, 1)
    mapped.put(b"one\n")
    assert file.read_bytes().rstrip(b"\0") == b"one\n"
    assert file.stat().st_size > 4
    mapped.close()


def test_a_line_is_in_the_file_of_a_process_that_was_killed_right_after(tmp_path):
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal, sys\nfrom pathlib import Path\nfrom proxy.accounting.mapped import MappedFile\n"
            "mapped = MappedFile(Path(sys.argv[1]), 1)\nfor n in range(2000): mapped.put(b'%d\\n' % n)\n"
            "os.kill(os.getpid(), signal.SIGKILL)",
            str(tmp_path / "1.log"),
        ],
        cwd=ROOT,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    assert repair(tmp_path / "1.log") == 0
    assert (tmp_path / "1.log").read_bytes().split() == [b"%d" % n for n in range(2000)]


def test_no_room_is_an_error_that_leaves_nothing_of_the_line(file, monkeypatch):
    mapped = MappedFile(file, 1)
    mapped.put(b"first\n")

    def full(fd, data, place):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            while True:
                mapped.put(b"y" * 999 + b"\n")
    size = mapped.size
    assert filled(file) == size
    mapped.put(b"last\n")
    mapped.close()
    assert file.read_bytes().endswith(b"y\nlast\n")
    assert file.stat().st_size == size + 5


def test_a_failed_write_leaves_nothing_and_the_next_line_follows_the_last_whole_one(file, monkeypatch):
    mapped = MappedFile(file, 1)
    mapped.put(b"first\n")
    real, said = os.pwrite, []

    def short(fd, data, place):
        if said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        said.append(1)
        return real(fd, data[:3], place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        with pytest.raises(OSError, match="No space"):
            mapped.write(b"second\n")
    assert file.read_bytes() == b"first\n"
    mapped.put(b"third\n")
    mapped.close()
    assert file.read_bytes() == b"first\nthird\n"


def test_without_a_map_nothing_stands_behind_the_lines(file):
    mapped = MappedFile(file, 1, mapped=False)
    for number in range(100):
        mapped.put(b"%400d\n" % number)
        assert file.stat().st_size == mapped.size
    mapped.close()
    assert [int(line) for line in file.read_bytes().split()] == list(range(100))


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("22 1 8:1 / / rw - ext4 /dev/sda1 rw", True),
        ("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:33 / {place} rw shared:1 - btrfs /dev/sdb rw", False),
        ("30 22 0:33 / {place} rw - btrfs /dev/sdb rw\n31 30 0:34 / {place}/data rw master:2 - xfs /dev/sdc rw", True),
        ("22 1 8:1 / / rw - overlay overlay rw\n30 22 0:33 / {place}x rw - ext4 /dev/sdb rw", False),
        ("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:33 / {place}/data rw - nfs4 server:/x rw", False),
        ("", False),
    ],
)
def test_a_map_is_taken_where_pages_keep_their_place_on_the_disk(tmp_path, monkeypatch, mounts, expected):
    directory = tmp_path / "a b" / "data"
    directory.mkdir(parents=True)
    place = str(tmp_path / "a b").replace(" ", "\\040")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: mounts.format(place=place))
    assert can_map(directory) is expected


@pytest.mark.parametrize(
    ("left", "kept", "cut"),
    [
        (b"one\ntwo\n" + bytes(5_000), b"one\ntwo\n", 0),
        (b"one\ntw" + bytes(5_000), b"one\n", 2),
        (b"one\n\0\0\0\0o\n" + bytes(90), b"one\n", 6),  # the end of a line was copied before its beginning
        (b"tw\0o\n", b"", 5),
        (bytes(2_000_000), b"", 0),
        (b"", b"", 0),
    ],
)
def test_what_a_dead_process_left_behind_its_last_whole_line_is_cut_off(file, left, kept, cut):
    file.write_bytes(left)
    assert repair(file) == cut
    assert file.read_bytes() == kept


def test_room_that_was_made_is_no_torn_line(file, caplog):
    file.write_bytes(b"one\n" + bytes(8_000))
    repair(file)
    assert not caplog.records


def test_nothing_is_read_beyond_the_place_up_to_which_lines_stand(tmp_path):
    directory = claim(tmp_path)
    whole = record.end(1, 5, "r", record.attribution())
    directory.file(1).write_bytes(whole + whole[:20] + b"\0\0\0]\n" + bytes(100))  # a second line is being copied
    tail = Tail(directory)
    piece = tail.read(None, Position(1, len(whole)))
    assert piece.reached == Position(1, len(whole))
    assert piece.lines == whole
    assert tail.read(piece.reached, Position(1, len(whole))).lines == b""
    tail.close()
    directory.release()


async def test_room_that_was_made_is_nothing_that_the_ledger_lacks(tmp_path, call):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.open()
    journal = Journal(tmp_path / "journal")
    journal.open()
    call(journal)
    assert await behind(ledger, tmp_path / "journal") == journal.place.place
    await journal.close()
    await ledger.close()
