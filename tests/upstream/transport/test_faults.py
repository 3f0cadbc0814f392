"""Connections that break, hang or refuse; deadlines; the repeat on a kept connection."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.upstream.transport import (
    ConnectFailed,
    ConnectionLost,
    FirstByteTimeout,
    IdleTimeout,
    InvalidRequest,
    Outgoing,
    PoolClosed,
    Timeouts,
    TotalTimeout,
    Truncated,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"


async def _pieces(*pieces):
    for piece in pieces:
        yield piece


def _breaking(first: bytes, how: str):
    async def script(peer):
        await peer.request()
        if first:
            await peer.say(first)
            await asyncio.sleep(0.01)
        if how == "reset":
            peer.reset()

    return script


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_a_break_before_the_head_is_a_lost_connection(world, get, first, how):
    pool = world.pool(await world.upstream(_breaking(first, how)))
    with pytest.raises(ConnectionLost) as caught:
        await pool.send(get())
    assert caught.value.sent
    assert caught.value.silent == (not first)
    assert world.accepted == 1


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("first", [HALF, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"])
async def test_a_break_in_the_body_is_told_to_reader_and_sink(world, get, collector, first, how):
    pool = world.pool(await world.upstream(_breaking(first, how)))
    with pytest.raises(Truncated) as caught:
        await (await pool.send(get())).read()
    assert caught.value.reason == how
    sink = collector()
    (await pool.send(get())).start(sink)
    await sink.over.wait()
    assert sink.body == b"hello"
    assert [type(end) for end in sink.ends] == [Truncated]


async def test_a_reset_does_not_end_a_body_until_close_cleanly(world, get):
    pool = world.pool(await world.upstream(_breaking(b"HTTP/1.1 200 OK\r\n\r\nsome", "reset")))
    with pytest.raises(Truncated):
        await (await pool.send(get())).read()


def _closing_kept(times: int):
    """Answers once, then closes the next `times` requests' connections without a word."""
    left = [times]

    async def script(peer):
        await peer.request()
        await peer.say(OK)
        while await peer.request():
            if left[0]:
                left[0] -= 1
                return
            await peer.say(OK)

    return script


async def test_a_request_on_a_kept_connection_that_was_closed_is_sent_again_once(world, post):
    pool = world.pool(await world.upstream(_closing_kept(1)))
    await (await pool.send(post())).read()
    answer = await pool.send(post())
    assert await answer.read() == b"hello"
    assert answer.resent
    assert not answer.reused
    assert world.accepted == 2
    assert (pool.idle, pool.busy) == (1, 0)


async def test_a_streamed_request_is_never_sent_again(world, post):
    pool = world.pool(await world.upstream(_closing_kept(1)))
    await (await pool.send(post())).read()
    with pytest.raises(ConnectionLost):
        await pool.send(post(_pieces(b"{}")))
    assert (pool.idle, pool.busy) == (0, 0)


async def test_the_repeat_is_not_repeated(world, post):
    async def script(peer):
        if world.accepted == 1:
            await peer.request()
            await peer.say(OK)
        await peer.request()

    pool = world.pool(await world.upstream(script))
    await (await pool.send(post())).read()
    with pytest.raises(ConnectionLost):
        await pool.send(post())
    assert world.accepted == 2
    assert pool.busy == 0


async def test_a_refused_connection(world, get):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailed) as caught:
            await world.pool(sock.getsockname()[1]).send(get())
    assert caught.value.reason == "refused"


async def test_a_name_that_does_not_resolve(world, get):
    with pytest.raises(ConnectFailed) as caught:
        await world.pool(80, host="no-such-host.invalid").send(get())
    assert caught.value.reason == "dns"


async def test_the_second_address_is_tried(world, get, monkeypatch):
    async def script(peer):
        while await peer.request():
            await peer.say(OK)

    pool = world.pool(await world.upstream(script), host="localhost")  # often ::1 first, where nothing listens
    assert await (await pool.send(get())).read() == b"hello"


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_no_head_in_time(world, get, start):
    async def script(peer):
        await peer.request()
        await peer.say(start)
        await peer.closed()

    pool = world.pool(await world.upstream(script), timeouts=Timeouts(first_byte=0.05))
    with pytest.raises(FirstByteTimeout):
        await pool.send(get())
    await world.quiet.wait()


async def test_silence_inside_the_body(world, get, collector):
    async def script(peer):
        await peer.request()
        await peer.say(HALF)
        await peer.closed()

    pool = world.pool(await world.upstream(script), timeouts=Timeouts(idle=0.05))
    with pytest.raises(IdleTimeout):
        await (await pool.send(get())).read()
    sink = collector()
    (await pool.send(get())).start(sink)
    await sink.over.wait()
    assert [type(end) for end in sink.ends] == [IdleTimeout]


async def test_each_piece_starts_the_idle_time_anew_and_total_bounds_all(world, get, collector):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
        while not peer.writer.transport.is_closing():
            await peer.say(b"x")
            await asyncio.sleep(0.02)

    pool = world.pool(await world.upstream(script), timeouts=Timeouts(idle=0.1, total=0.3))
    sink = collector()
    (await pool.send(get())).start(sink)
    await sink.over.wait()
    assert [type(end) for end in sink.ends] == [TotalTimeout]
    assert len(sink.pieces) > 5


async def test_a_deadline_bounds_the_wait_for_the_head(world, get):
    async def script(peer):
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    loop = asyncio.get_running_loop()
    with pytest.raises(TotalTimeout) as caught:
        await pool.send(get(), deadline=loop.time() + 0.05)
    assert caught.value.phase == "head"


async def test_a_long_deadline_does_not_hide_a_short_one(world, get):
    async def script(peer):
        await peer.request()
        await peer.say(OK)
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    await (await pool.send(get())).read()  # arms the connection's timer far away
    with pytest.raises(FirstByteTimeout):
        await pool.send(get(), Timeouts(first_byte=0.05))


EARLY = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\n\r\nlarge"


async def test_an_early_answer_stops_a_streamed_upload(world, post):
    stopped = asyncio.Event()

    async def endless():
        try:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)
        finally:
            stopped.set()

    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(EARLY)
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    answer = await pool.send(post(endless()))
    assert (answer.status, await answer.read()) == (413, b"large")
    await stopped.wait()
    assert pool.idle == 0


@pytest.mark.parametrize("body", [b"x" * 20_000_000, None])
async def test_an_early_answer_survives_the_reset_that_follows(world, post, body):
    async def endless():
        while True:
            yield b"x" * 65536

    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.say(EARLY)
        await asyncio.sleep(0.02)
        peer.writer.close()

    pool = world.pool(await world.upstream(script))
    answer = await pool.send(post(body if body is not None else endless()))
    assert (answer.status, await answer.read()) == (413, b"large")
    assert pool.idle == 0


async def test_a_streamed_body_goes_chunked_or_with_its_length(world, post):
    seen = []

    async def script(peer):
        while request := await peer.request():
            seen.append(request.partition(b"json\r\n")[2])
            await peer.say(OK)

    pool = world.pool(await world.upstream(script))
    await (await pool.send(post(_pieces(b"ab", b"", b"cde")))).read()
    await (await pool.send(post(_pieces(b"ab", b"cde"), 5))).read()
    await (await pool.send(post(_pieces(), 0))).read()
    assert seen == [
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
        b"Content-Length: 5\r\n\r\nabcde",
        b"Content-Length: 0\r\n\r\n",
    ]
    assert world.accepted == 1


@pytest.mark.parametrize("length", [3, 9])
async def test_a_streamed_body_of_another_length_is_refused(world, post, length):
    async def script(peer):
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    with pytest.raises(InvalidRequest):
        await pool.send(post(_pieces(b"abcde"), length))
    await world.quiet.wait()


async def test_the_error_of_a_body_source_comes_out_as_it_is(world, post):
    async def broken():
        yield b"ab"
        raise LookupError("client gone")

    async def script(peer):
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    with pytest.raises(LookupError, match="client gone"):
        await pool.send(post(broken()))
    await world.quiet.wait()


async def test_a_slow_source_is_not_the_upstreams_silence(world, post):
    async def slow():
        yield b"ab"
        await asyncio.sleep(0.15)
        yield b"cd"

    async def script(peer):
        await peer.request()
        await peer.say(OK)

    pool = world.pool(await world.upstream(script), timeouts=Timeouts(first_byte=0.05))
    assert (await pool.send(post(slow()))).status == 200


@pytest.mark.parametrize(
    "request_",
    [
        Outgoing(b"GET", b"/", [(b"x", b"a\r\nHost: evil")]),
        Outgoing(b"GET", b"/", [(b"x\n", b"a")]),
        Outgoing(b"GET", b"/", [(b"x", b"a\0")]),
        Outgoing(b"GET", b"/ HTTP/1.1\r\nx: y"),
        Outgoing(b"GET", b"/a b"),
    ],
    ids=repr,
)
async def test_a_request_that_would_smuggle_is_refused_before_a_connection_is_made(world, request_):
    pool = await world.answering(OK)
    with pytest.raises(InvalidRequest):
        await pool.send(request_)
    assert world.accepted == 0


async def test_closing_the_pool_cuts_running_calls(world, get):
    async def script(peer):
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    call = asyncio.ensure_future(pool.send(get()))
    while not world.open:
        await asyncio.sleep(0.001)
    await pool.close()
    with pytest.raises(PoolClosed):
        await call
    with pytest.raises(PoolClosed):
        await pool.send(get())
