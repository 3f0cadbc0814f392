"""Limits, waiting, rest, cancelling, and backpressure."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from math import inf

import pytest

from proxy.upstream.transport import Limits, PoolFull, PoolTimeout, Timeouts, TotalTimeout
from proxy.upstream.transport.connection import Connection
from proxy.upstream.transport.incoming import Incoming

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def _gated(gate: asyncio.Event):
    async def script(peer):
        while await peer.request():
            await gate.wait()
            await peer.say(OK)

    return script


async def _until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_never_more_connections_than_allowed_and_all_are_served(world, get):
    gate = asyncio.Event()
    pool = world.pool(await world.upstream(_gated(gate)), limits=Limits(max_connections=3))
    calls = [asyncio.ensure_future(pool.send(get())) for _ in range(20)]
    await _until(lambda: pool.busy == 3 and pool.waiting == 17 and world.open == 3)
    gate.set()
    for answer in await asyncio.gather(*calls):
        assert await answer.read() == b"hello"
    assert world.accepted == 3
    assert (pool.idle, pool.busy, pool.waiting) == (3, 0, 0)


async def test_a_full_queue_refuses_and_recovers(world, get):
    gate = asyncio.Event()
    pool = world.pool(await world.upstream(_gated(gate)), limits=Limits(max_connections=1, max_waiting=1))
    calls = [asyncio.ensure_future(pool.send(get())) for _ in range(2)]
    await _until(lambda: pool.waiting == 1)
    with pytest.raises(PoolFull):
        await pool.send(get())
    gate.set()
    await asyncio.gather(*calls)
    assert (await pool.send(get())).status == 200


async def test_waiting_has_a_deadline(world, get):
    gate = asyncio.Event()
    pool = world.pool(await world.upstream(_gated(gate)), limits=Limits(max_connections=1, wait=0.05))
    call = asyncio.ensure_future(pool.send(get()))
    await _until(lambda: world.open == 1)
    with pytest.raises(PoolTimeout):
        await pool.send(get())
    with pytest.raises(TotalTimeout) as caught:
        await pool.send(get(), Timeouts(total=0.02))
    assert caught.value.phase == "waiting"
    gate.set()
    assert (await call).status == 200
    assert pool.waiting == 0


async def test_a_failed_dial_passes_its_place_on(world, get):
    pool = world.pool(1, limits=Limits(max_connections=1))
    results = await asyncio.gather(*(pool.send(get()) for _ in range(5)), return_exceptions=True)
    assert [type(r).__name__ for r in results] == ["ConnectFailed"] * 5
    assert pool.busy == 0


async def test_a_cancelled_waiter_does_not_swallow_a_connection(world, get):
    gate = asyncio.Event()
    pool = world.pool(await world.upstream(_gated(gate)), limits=Limits(max_connections=1))
    first = asyncio.ensure_future(pool.send(get()))
    await _until(lambda: world.open == 1)
    second, third = (asyncio.ensure_future(pool.send(get())) for _ in range(2))
    await _until(lambda: pool.waiting == 2)
    # Cancelled in the very turn in which the connection is handed to it.
    first.add_done_callback(lambda _: second.cancel())
    gate.set()
    assert (await third).status == 200
    await asyncio.gather(second, return_exceptions=True)
    assert (pool.idle, pool.busy, pool.waiting) == (1, 0, 0)


async def test_resting_connections_are_closed_after_their_time(world, get):
    pool = world.pool(await world.upstream(_gated(_set())), limits=Limits(max_idle=0.05))
    await (await pool.send(get())).read()
    assert pool.idle == 1
    await world.quiet.wait()
    assert (pool.idle, pool.busy) == (0, 0)


async def test_old_connections_are_closed_after_their_call(world, get):
    pool = world.pool(await world.upstream(_gated(_set())), limits=Limits(max_age=0.0))
    for _ in range(2):
        assert not (await pool.send(get())).reused
    assert pool.idle == 0


async def test_a_retired_pool_still_serves_but_keeps_nothing(world, get):
    pool = world.pool(await world.upstream(_gated(_set())))
    await pool.send(get())
    pool.retire()
    assert pool.idle == 0
    assert (await pool.send(get())).status == 200
    assert pool.idle == 0


def _set() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


async def test_nothing_is_left_after_many_cancelled_calls(world, get, post, collector):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await peer.closed()

    async def slow():
        yield b"x"
        await asyncio.sleep(60)

    async def one(number):
        answer = await pool.send(post(slow()) if number % 5 == 0 else get())
        try:
            if number % 2:
                await answer.read()
            else:
                sink = collector()
                answer.start(sink)
                await sink.over.wait()
        finally:
            answer.abort()

    async def cancelled(number):
        call = asyncio.ensure_future(one(number))
        for _ in range(number % 23):
            await asyncio.sleep(0)
        if number % 3 == 0:
            await asyncio.sleep(0.002)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call

    gc.collect()
    older = [o for o in gc.get_objects() if isinstance(o, Connection | Incoming)]  # of other tests in this process
    before = set(map(id, older))
    pool = world.pool(await world.upstream(script), limits=Limits(max_connections=20))
    for batch in range(0, 10_000, 50):
        await asyncio.gather(*(cancelled(number) for number in range(batch, batch + 50)))
    await _until(lambda: pool.busy == 0)
    assert (pool.idle, pool.waiting) == (0, 0)
    await world.quiet.wait()
    gc.collect()
    left = [o for o in gc.get_objects() if isinstance(o, Connection | Incoming) and id(o) not in before]
    assert len(left) <= 1, left


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_who_leaves_in_the_moment_of_its_answer_leaves_the_connection_to_the_next(
    world, get, monkeypatch, moment
):
    """The answer and the cancellation come in one turn of the loop; the connection is another call's already when the
    one who left wakes up."""
    gate, others = asyncio.Event(), []
    received = Connection.data_received

    def taken(connection, now):
        release(connection, now)
        if moment == "after" and not others:
            first.cancel()
            kept = pool._idle.pop()
            others.append(kept.begin(get(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", pool.timeouts, inf, now))

    pool = world.pool(await world.upstream(_gated(gate)), limits=Limits(max_connections=1))
    release = pool.release
    monkeypatch.setattr(pool, "release", taken)
    if moment == "before":
        monkeypatch.setattr(Connection, "data_received", lambda self, data: (first.cancel(), received(self, data))[1])
    first = asyncio.ensure_future(pool.send(get()))
    await _until(lambda: pool.busy == 1 and world.open == 1)
    if moment == "before":
        others.append(asyncio.ensure_future(pool.send(get())))
        await _until(lambda: pool.waiting == 1)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    monkeypatch.setattr(Connection, "data_received", received)
    async with asyncio.timeout(5):
        assert await (await others[0]).read() == b"hello"


async def test_a_connection_that_closed_before_its_next_call_woke_up_is_not_used(world, get, monkeypatch):
    gate = asyncio.Event()
    pool = world.pool(await world.upstream(_gated(gate)), limits=Limits(max_connections=1))
    first, second = asyncio.ensure_future(pool.send(get())), asyncio.ensure_future(pool.send(get()))
    await _until(lambda: pool.busy == 1 and pool.waiting == 1)
    release = pool.release

    def and_close(connection, now):
        release(connection, now)
        if not second.done():
            connection.close()

    monkeypatch.setattr(pool, "release", and_close)
    gate.set()
    async with asyncio.timeout(5):
        assert await (await first).read() == b"hello"
        assert await (await second).read() == b"hello"
    assert pool.dialled == 2


@pytest.mark.parametrize("stage", ["head", "read"])
async def test_cancelling_closes_the_connection_at_once(world, get, stage):
    async def script(peer):
        await peer.request()
        if stage == "read":
            await peer.say(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await peer.closed()

    pool = world.pool(await world.upstream(script))

    async def call():
        await (await pool.send(get())).read()

    task = asyncio.ensure_future(call())
    await _until(lambda: world.open == 1)
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await world.quiet.wait()
    assert (pool.idle, pool.busy) == (0, 0)


async def test_abort_is_silent_final_and_repeatable(world, get, collector):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    sink = collector()
    answer = await pool.send(get())
    answer.start(sink)
    await sink.fed.wait()
    answer.abort()
    answer.abort()
    answer.pause()
    answer.resume()
    await world.quiet.wait()
    assert sink.ends == []
    ended = await (await world.answering(OK)).send(get())
    ended.abort()
    assert await ended.read() == b"hello"


def _flood(sent: list[int], total: int):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        piece = bytes(65536)
        while sent[0] < total:
            await peer.say(piece)
            sent[0] += len(piece)
        await peer.closed()

    return script


async def test_a_paused_reader_stops_the_upstream(world, get, collector):
    sent, total = [0], 64 * 1024 * 1024
    pool = world.pool(await world.upstream(_flood(sent, total)))
    sink = collector()
    answer = await pool.send(get())
    answer.start(sink)
    answer.pause()
    await asyncio.sleep(0.1)
    stopped = sent[0]
    assert len(sink.body) < 1024 * 1024
    await asyncio.sleep(0.1)
    assert sent[0] == stopped < total // 2
    answer.resume()
    await sink.over.wait()
    assert len(sink.body) == total
    assert sink.ends == ["finished"]


async def test_a_paused_reader_is_not_an_idle_upstream(world, get, collector):
    sent, total = [0], 16 * 1024 * 1024
    pool = world.pool(await world.upstream(_flood(sent, total)), timeouts=Timeouts(idle=0.05))
    sink = collector()
    answer = await pool.send(get())
    answer.start(sink)
    answer.pause()
    await asyncio.sleep(0.2)
    answer.resume()
    await sink.over.wait()
    assert sink.ends == ["finished"]


async def test_an_answer_that_nobody_claims_keeps_little(world, get):
    sent, total = [0], 64 * 1024 * 1024
    pool = world.pool(await world.upstream(_flood(sent, total)))
    answer = await pool.send(get())
    await asyncio.sleep(0.1)
    assert answer._size < 1024 * 1024
    assert len(await answer.read()) == total


async def test_an_upload_is_no_faster_than_the_upstream(world, post):
    taken, gate, given = asyncio.Event(), asyncio.Event(), [0]

    async def source():
        for _ in range(512):
            given[0] += 65536
            yield bytes(65536)

    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        taken.set()
        await gate.wait()
        await peer.reader.readexactly(512 * 65536)
        await peer.say(OK)

    pool = world.pool(await world.upstream(script))
    call = asyncio.ensure_future(pool.send(post(source(), 512 * 65536)))
    await taken.wait()
    await asyncio.sleep(0.1)
    assert given[0] < 512 * 65536 // 2
    gate.set()
    assert (await call).status == 200
    assert given[0] == 512 * 65536


async def test_a_sink_that_raises_ends_its_own_call_only(world, get):
    class Broken:
        def feed(self, data):
            raise LookupError("a bug")

        finish = fail = feed

    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.sleep(0.01)
        await peer.say(b"some")
        await peer.closed()

    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context["exception"]))
    pool = world.pool(await world.upstream(script))
    (await pool.send(get())).start(Broken())
    await _until(lambda: reports)
    assert isinstance(reports[0], LookupError)
    await world.quiet.wait()
    assert pool.busy == 0
