"""A head that comes again is recognised, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from proxy.head import Head, Repeat, learn
from proxy.testing import FakeUpstream, chat_answer, reply

HEAD = (
    b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer one\r\n"
    b"content-length: %b\r\nX-Odd: a\xe9b\r\n\r\n"
)


def parsed(data: bytes) -> Any:
    """What aiohttp's parser makes of a request."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, auto_decompress=False)
        messages, _, _ = parser.feed_data(data)
        return messages[0][0]
    finally:
        loop.close()


def remembered(data: bytes) -> Repeat | None:
    message = parsed(data)
    return learn(data, message, Head(message))


@given(st.binary(min_size=1, max_size=300), st.binary(min_size=1, max_size=300))
def test_a_repeated_head_reads_as_the_parser_reads_it(first: bytes, second: bytes) -> None:
    repeat = remembered(HEAD % b"%d" % len(first) + first)
    assert repeat is not None
    data = HEAD % b"%d" % len(second) + second
    assert repeat.body(data) == second
    message = parsed(data)
    expected = Head(message)
    for name in Head.__slots__:
        if name not in ("headers", "sent_up", "admitted"):
            assert getattr(repeat.head, name) == getattr(expected, name), name
    assert list(repeat.head.headers.items()) == list(expected.headers.items())


@given(st.data())
def test_a_head_that_differs_in_any_byte_goes_to_the_parser(data: st.DataObject) -> None:
    request = HEAD % b"5" + b"12345"
    repeat = remembered(request)
    assert repeat is not None
    at = data.draw(st.integers(0, len(request) - 6))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != request[at]))
    assert repeat.body(request[:at] + bytes([byte]) + request[at + 1 :]) is None


@pytest.mark.parametrize(
    "request_",
    [
        HEAD % b"5" + b"1234",
        HEAD % b"5" + b"123456",
        HEAD % b"5" + b"12345" + HEAD % b"5" + b"12345",
        HEAD % b"+5" + b"12345",
        HEAD % b"5 " + b"12345",
        HEAD % b"" + b"12345",
        HEAD % b"5\r\nContent-Length: 5" + b"12345",
        HEAD % b"5\r\nTransfer-Encoding: chunked" + b"12345",
    ],
    ids=["cut", "longer", "pipelined", "plus", "space", "no-digits", "two-lengths", "two-framings"],
)
def test_only_exactly_one_whole_request_is_taken(request_: bytes) -> None:
    repeat = remembered(HEAD % b"5" + b"12345")
    assert repeat is not None
    assert repeat.body(request_) is None


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/x HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"\r\nPOST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nX-A: "
        + b"x" * 5000
        + b"\r\nX-B: "
        + b"x" * 5000
        + b"\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["get", "http-1.0", "close", "expect", "chunked", "leading-line", "long"],
)
def test_unusual_heads_are_not_remembered(request_: bytes) -> None:
    assert remembered(request_) is None


Start = Callable[..., Awaitable[Any]]


async def test_calls_on_one_connection_reach_the_upstream_whole_however_they_are_cut(sidecar: Start) -> None:
    """Whole in one read, in pieces, pipelined, with another head: each arrives as it was sent, and in its order."""
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        proxy = await sidecar(
            {
                "upstreams": {"fake": {"api": "openai", "base_url": upstream.url}},
                "routes": [{"match": {"path": "*"}, "upstream": "fake", "chain": "empty"}],
                "chains": {"empty": []},
            }
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

        def request(text: str, key: str = "one") -> bytes:
            body = b'{"model":"m","t":"%b"}' % text.encode()
            return (
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
            )

        async def answered() -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = next(int(x[15:]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:"))
            await reader.readexactly(length)

        sent: list[tuple[str, str]] = []
        for number, (text, key, pieces) in enumerate(
            [("a", "one", 1), ("bb", "one", 1), ("ccc", "one", 3), ("d", "two", 1), ("e" * 900, "one", 1)]
        ):
            data = request(text, key)
            size = len(data) // pieces + 1
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await writer.drain()
                if pieces > 1:
                    await asyncio.sleep(0.01)
            await answered()
            sent.append((text, key))
            assert len(upstream.calls) == number + 1
        writer.write(request("f") + request("g"))
        await answered()
        await answered()
        sent += [("f", "one"), ("g", "one")]
        writer.close()
        assert [(call.json["t"], (call.header("authorization") or "")[7:]) for call in upstream.calls] == sent
        for call in upstream.calls:
            assert call.all("content-length") == [str(len(call.body))]
            assert call.all("host") == [f"127.0.0.1:{upstream.port}"]
