"""A server is judged by what it took to answer, not by when a busy process found the time to look."""

import asyncio
import socket
import time

import pytest

from proxy.state.patience import TICK, answered


class Server:
    """The other end of a real socket: `answer` puts an answer into it, for the loop to find."""

    def __init__(self) -> None:
        self.ours, self.theirs = None, None

    async def __aenter__(self):
        self.ours, self.theirs = socket.socketpair()
        self.reader, self.writer = await asyncio.open_connection(sock=self.ours)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        self.theirs.close()

    def answer(self) -> None:
        self.theirs.send(b"answer\n")

    async def call(self) -> bytes:
        self.writer.write(b"question\n")
        return await self.reader.readline()


def busy(seconds: float) -> None:
    time.sleep(seconds)  # what a loop does that has much to do


async def test_an_answer_that_is_there_counts_however_late_the_loop_looks():
    async with Server() as server:
        call = asyncio.ensure_future(server.call())
        loop = asyncio.get_running_loop()
        server.answer()
        for _ in range(8):
            loop.call_soon(busy, 0.02)
        loop.call_later(0.001, busy, 0.1)
        assert await answered(call, 0.005) <= 0.005
        assert call.result() == b"answer\n"


async def test_what_the_loop_was_busy_with_is_not_what_the_server_took():
    async with Server() as server:
        call = asyncio.ensure_future(server.call())
        loop = asyncio.get_running_loop()
        loop.call_later(0.002, busy, 0.1)
        loop.call_later(0.003, server.answer)
        assert await answered(call, 0.045) < 0.045


async def test_a_server_that_says_nothing_costs_its_time_and_no_more():
    async with Server() as server:
        call = asyncio.ensure_future(server.call())
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="no answer within 45 ms"):
            await answered(call, 0.045)
        assert 0.044 < time.monotonic() - began < 0.045 + 3 * TICK
        call.cancel()


async def test_a_server_that_says_nothing_is_found_out_by_a_busy_process_too():
    async with Server() as server:
        call = asyncio.ensure_future(server.call())

        async def work() -> None:
            while not call.cancelled():
                busy(0.02)
                await asyncio.sleep(0)

        work_on = asyncio.ensure_future(work())
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await answered(call, 0.045)
        assert time.monotonic() - began < 1.0
        call.cancel()
        await work_on
