"""Answers of every shape, whole and in pieces."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.upstream.transport import BodyTooLarge, Endpoint, InvalidResponse, Outgoing, Pool, TransportError, Truncated

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
    b"6;ext=1\r\ndata: \r\n5\r\nhello\r\n2\r\n\n\n\r\n0\r\nX-Sum: 9\r\nX-Two: b\r\n\r\n"
)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"


async def test_a_whole_answer_is_read_without_a_second_wait(world, get):
    pool = await world.answering(OK)
    answer = await pool.send(get())
    assert answer.ended
    reading = answer.read()
    with pytest.raises(StopIteration) as stop:
        reading.send(None)
    assert stop.value.value == b"hello"
    assert (answer.status, answer.reason, answer.http_version) == (200, b"OK", "1.1")
    assert answer.headers == [(b"Content-Length", b"5"), (b"X-A", b"1"), (b"x-a", b"2")]
    assert answer.sent_at <= answer.first_byte_at <= answer.head_at
    assert repr(pool).endswith("idle=1 busy=0 waiting=0>")


async def test_the_connection_is_reused(world, get):
    pool = await world.answering(OK)
    answers = [await pool.send(get()) for _ in range(5)]
    assert [a.reused for a in answers] == [False, True, True, True, True]
    assert world.accepted == 1


async def test_the_request_on_the_wire(world, post):
    seen = []

    async def script(peer):
        seen.append(await peer.request())
        await peer.say(OK)

    port = await world.upstream(script)
    await (await world.pool(port).send(post(b'{"a":1}'))).read()
    assert seen == [
        b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\ncontent-type: application/json\r\nContent-Length: 7\r\n\r\n"
        b'{"a":1}' % port
    ]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"hello"),
        (CHUNKED, b"data: hello\n\n"),
        (INTERIM + OK, b"hello"),
        (b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\n\r\n", b""),
        (b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    ],
)
async def test_bodies_of_every_framing_keep_the_connection(world, get, answer, body):
    pool = await world.answering(answer)
    for _ in range(3):
        assert await (await pool.send(get())).read() == body
    assert world.accepted == 1


async def test_head_answers_have_no_body_and_keep_the_connection(world):
    pool = await world.answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    for _ in range(3):
        assert await (await pool.send(Outgoing(b"HEAD", b"/"))).read() == b""
    assert world.accepted == 1


async def test_trailers_are_kept_apart(world, get):
    answer = await (await world.answering(CHUNKED)).send(get())
    await answer.read()
    assert answer.trailers == [(b"X-Sum", b"9"), (b"X-Two", b"b")]
    assert (b"X-Sum", b"9") not in answer.headers


async def test_a_body_until_close(world, get):
    async def script(peer):
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    pool = world.pool(await world.upstream(script))
    assert await (await pool.send(get())).read() == b"all of it"
    assert pool.idle == 0


async def test_connection_close_is_honoured(world, get):
    pool = await world.answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    for _ in range(2):
        assert await (await pool.send(get())).read() == b"ok"
    assert world.accepted == 2


@pytest.mark.parametrize("answer", [OK, INTERIM + CHUNKED])
async def test_an_answer_split_into_single_bytes(world, get, answer):
    async def script(peer):
        while await peer.request():
            await peer.bytewise(answer)

    pool = world.pool(await world.upstream(script))
    for _ in range(2):
        answer_ = await pool.send(get())
        assert await answer_.read() in {b"hello", b"data: hello\n\n"}


LEFTOVER = [OK + b"H", OK + OK, OK + b"\r\n", CHUNKED + b"\r\n", CHUNKED + b"x", b"HTTP/1.1 204 N\r\n\r\nabc"]


@pytest.mark.parametrize("answer", LEFTOVER)
async def test_bytes_after_the_end_close_the_connection(world, get, answer):
    pool = await world.answering(answer)
    first = await pool.send(get())
    assert await first.read() in {b"hello", b"data: hello\n\n", b""}
    assert pool.idle == 0
    assert not (await pool.send(get())).reused


async def test_a_body_on_a_head_answer_closes_the_connection(world):
    pool = await world.answering(OK)
    assert await (await pool.send(Outgoing(b"HEAD", b"/"))).read() == b""
    assert pool.idle == 0


async def test_bytes_on_an_idle_connection_close_it(world, get):
    more = asyncio.Event()

    async def script(peer):
        await peer.request()
        await peer.say(OK)
        await more.wait()
        await peer.say(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await peer.closed()

    pool = world.pool(await world.upstream(script))
    await (await pool.send(get())).read()
    more.set()
    await world.quiet.wait()
    assert (pool.idle, pool.busy) == (0, 0)


H = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        H + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        H + b"Content-Length: 1, 1\r\n\r\na",
        H + b"Content-Length: +1\r\n\r\na",
        H + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        H + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
        H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        H + b"X: a\nContent-Length: 1\r\n\r\na",
        H + b"X: a\r\n folded\r\nContent-Length: 1\r\n\r\na",
        H + b"Content-Length : 1\r\n\r\na",
        H + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxx",
        b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + OK,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        H + b"X: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
        H + b"X: 1\r\n" * 20_000 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
    ],
    ids=lambda answer: repr(answer[:60]),
)
async def test_an_untrustworthy_head_is_refused_and_the_connection_closed(world, get, answer):
    pool = await world.answering(answer)
    with pytest.raises(InvalidResponse):
        await pool.send(get())
    assert pool.idle == 0


@pytest.mark.parametrize(
    "body",
    [b"1\na\r\n0\r\n\r\n", b"1\r\na\n0\r\n\r\n", b"0x1\r\na\r\n0\r\n\r\n", b"zz\r\n", b"-1\r\n", b"f" * 17 + b"\r\n"],
)
async def test_broken_chunks_truncate_the_body(world, get, body):
    pool = await world.answering(H + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    answer = await pool.send(get())
    with pytest.raises(Truncated) as caught:
        await answer.read()
    assert caught.value.reason == "framing"
    assert pool.idle == 0


@pytest.mark.parametrize(
    "endless", [b"1;" + b"e" * 80_000, b"0\r\nX: " + b"t" * 80_000, b"0\r\n" + b"X: y\r\n" * 20_000]
)
async def test_endless_extensions_and_trailers_are_cut(world, get, endless):
    async def script(peer):
        await peer.request()
        await peer.say(H + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.say(endless)
                await asyncio.sleep(0)

    pool = world.pool(await world.upstream(script))
    answer = await pool.send(get())
    with pytest.raises(Truncated):
        await answer.read()


async def test_a_body_beyond_the_limit_is_refused_while_it_comes(world, get):
    async def script(peer):
        await peer.request()
        await peer.say(H + b"\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                await peer.say(b"x" * 65536)

    pool = world.pool(await world.upstream(script))
    with pytest.raises(BodyTooLarge):
        await (await pool.send(get())).read(limit=1_000_000)
    pool = await world.answering(OK)
    with pytest.raises(BodyTooLarge):
        await (await pool.send(get())).read(limit=4)


async def test_an_answer_is_read_once(world, get):
    answer = await (await world.answering(OK)).send(get())
    await answer.read()
    with pytest.raises(RuntimeError):
        await answer.read()


RECORDED = [
    OK,
    INTERIM + CHUNKED,
    H + b"Connection: close\r\n\r\nuntil the end",
    H + b"Content-Length: 9\r\n\r\nshort",
    H + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nX\r\n",
    H + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\nleft",
    b"HTTP/1.1 200 O",
    b"",
]


class _Cutter(asyncio.Protocol):
    """Answers with given pieces, one loop turn apart and each its own segment, and closes."""

    pieces: tuple[bytes, ...] = ()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        asyncio.get_running_loop().call_soon(self.next, list(self.pieces))

    def next(self, left):
        if self.transport.is_closing():
            return
        if not left:
            self.transport.close()
            return
        self.transport.write(left[0])
        asyncio.get_running_loop().call_later(0.0005, self.next, left[1:])


async def _outcome(pieces: list[bytes]) -> object:
    cutter = type("Cutter", (_Cutter,), {"pieces": tuple(pieces)})
    server = await asyncio.get_running_loop().create_server(cutter, "127.0.0.1", 0)
    pool = Pool(Endpoint("http", "127.0.0.1", server.sockets[0].getsockname()[1], proxy="none"))
    try:
        answer = await pool.send(Outgoing(b"GET", b"/"))
        head = (answer.status, answer.reason, answer.headers, answer.http_version)
        try:
            return (*head, await answer.read(), answer.trailers)
        except TransportError as error:
            return (*head, type(error), error.reason)
    except TransportError as error:
        return (type(error), error.phase)
    finally:
        await pool.close()
        server.close()
        await server.wait_closed()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(recorded=st.sampled_from(RECORDED), cuts=st.lists(st.integers(0, 200), max_size=8))
@example(recorded=RECORDED[1], cuts=list(range(1, 40)))
def test_a_cut_answer_gives_the_same_result_as_the_whole(recorded, cuts):
    async def compare():
        places = sorted({0, len(recorded), *(c for c in cuts if c < len(recorded))})
        pieces = [recorded[a:b] for a, b in itertools.pairwise(places)]
        assert await _outcome(pieces) == await _outcome([recorded] if recorded else [])

    asyncio.run(compare())
