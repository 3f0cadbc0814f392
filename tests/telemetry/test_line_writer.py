"""Lines of the log are written by a thread, all of them, in order, whoever wrote them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from proxy.telemetry.logs import LineWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_closing_writes_what_is_queued_in_order(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    for number in range(500):
        writer.write(b"%d\n" % number)
    writer.close()
    assert os.read(pipe[0], 65536).split() == [b"%d" % number for number in range(500)]
    assert writer.dropped == 0


def test_a_line_that_comes_while_the_thread_is_idle_wakes_it(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    for number in range(5):
        writer.write(b"%d\n" % number)
        assert os.read(pipe[0], 100) == b"%d\n" % number  # blocks until it is written
    writer.close()


def test_lines_of_several_threads_all_arrive(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])

    def say(name: int) -> None:
        for number in range(300):
            writer.write(b"%d:%d\n" % (name, number))

    threads = [threading.Thread(target=say, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    lines = os.read(pipe[0], 65536).split()
    assert len(lines) == 1200
    for name in range(4):
        mine = [line for line in lines if line.startswith(b"%d:" % name)]
        assert mine == [b"%d:%d" % (name, number) for number in range(300)]


def test_a_writer_works_again_after_it_was_closed(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    writer.write(b"one\n")
    writer.close()
    writer.write(b"two\n")
    writer.close()
    assert os.read(pipe[0], 100) == b"one\ntwo\n"


def test_lines_beyond_what_is_held_are_dropped_and_counted(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    line = b"x" * 65535 + b"\n"
    for _ in range(4):
        writer.write(line)  # the pipe takes one, the thread waits with the next
    for _ in range(20_100):
        writer.write(b"y\n")
    assert writer.dropped > 0
    stop = threading.Thread(target=writer.close)
    stop.start()
    while stop.is_alive() or writer._lines:
        os.read(pipe[0], 1 << 20)
        stop.join(0.01)
