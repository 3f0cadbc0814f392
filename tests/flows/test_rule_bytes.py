"""Rule 6: the bytes received are the bytes sent, and nothing goes out uninspected once somebody reads."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from proxy.policy import Stage
from proxy.testing import FakeUpstream, chat_answer, chat_events, events, reply

ODD = b'\n{ "model":"gpt-4o" ,\t"messages" : [ {"content":"\\u0041\\/", "role":"user"} ], "seed": 1.0e2, "z": -0 }\r\n'
BAD = [
    b"{not json",
    b"[1, 2]",
    b'"text"',
    b"",
    b'{"model": NaN}',
    b'{"a": 1, "a": 2}',
    b"[" * 100_000,
    b'{"model": "\xff"}',
    b'{"n": 18446744073709551616}',
]


async def _read(self: Any, exchange: Any) -> None:
    assert exchange.tree is not None


@pytest.mark.parametrize("reads", [False, True])
async def test_received_bytes_are_sent_bytes(sidecar, setting, upstream, wire, policy, reads):
    proxy = await sidecar(setting(upstream, *([policy(on_request=_read)] if reads else [])))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", ODD)
    assert (await client.answer()).status == 200
    assert (await upstream.call()).body == ODD


@pytest.mark.parametrize("reads", [False, True])
async def test_answer_bytes_come_down_as_they_are(sidecar, setting, wire, policy, reads):
    async def look(self: Any, exchange: Any, answer: Any) -> None:
        assert answer.body.lenient()["id"]

    raw = b'{ "id":"x" ,"choices":[],  "n": 1.0e1, "big": 123456789012345678901234567890, "dup": 1, "dup": 2}\n'
    async with FakeUpstream(reply(body=raw)) as upstream:
        proxy = await sidecar(setting(upstream, *([policy(on_response=look)] if reads else [])))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", ODD)
        assert (await client.answer()).body == raw


@pytest.mark.parametrize("body", BAD)
async def test_a_plain_forward_leaves_bad_json_to_the_upstream(sidecar, setting, upstream, wire, body):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", body)
    assert (await client.answer()).status == 200
    assert (await upstream.call()).body == body


@pytest.mark.parametrize("body", [body for body in BAD if body])
async def test_a_body_that_is_read_is_refused_when_it_is_not_one_object(sidecar, setting, upstream, wire, policy, body):
    proxy = await sidecar(setting(upstream, policy(on_request=_read)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", body)
    answer = await client.answer()
    assert answer.status == 400
    assert answer.error["code"] == ("invalid_value" if b"18446744073709551616" in body else "invalid_json")
    assert answer.header("x-should-retry") == "false"
    assert upstream.calls == []


@pytest.mark.parametrize("body", [b'{"seed": 9007199254740993}', b'{"seed": -9223372036854775808}'])
async def test_integers_of_64_bits_survive_an_edit(sidecar, setting, upstream, wire, policy, body):
    async def edit(self: Any, exchange: Any) -> None:
        exchange.tree["added"] = 1
        exchange.body.touch()

    proxy = await sidecar(setting(upstream, policy(on_request=edit)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", body)
    assert (await client.answer()).status == 200
    assert (await upstream.call()).body == body[:-1].replace(b": ", b":") + b',"added":1}'


async def test_an_event_that_does_not_parse_is_passed_on_as_its_bytes(sidecar, setting, wire, policy):
    class Look(Stage):
        def feed(self, event: Any) -> Any:
            assert event.json is None or event.json
            return (event,)

    sent = [
        b"data: {broken\n\n",
        b": comment\r\n\r\n",
        b"event: odd\rdata: \xff\xfe\r\r",
        b"id: 7\nretry: 10\n\n",
        b"data:no blank\ndata: two lines\n\n",
        'data: {"choices": [], "t": "a\u2028b"}\n\n'.encode(),
        *chat_events(["x"]),
    ]
    async with FakeUpstream(events(*sent)) as upstream:
        proxy = await sidecar(setting(upstream, policy(open_stream=lambda self, exchange, answer: Look())))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", b'{"stream": true}')
        assert (await client.answer()).body == b"".join(sent)


async def test_a_gzip_body_is_read_plain_and_sent_as_received(sidecar, setting, upstream, wire, policy):
    seen: list[Any] = []

    async def look(self: Any, exchange: Any) -> None:
        seen.append(exchange.tree)

    proxy = await sidecar(setting(upstream, policy(on_request=look)))
    client = await wire(proxy.port)
    zipped = gzip.compress(b'{"model": "gpt-4o"}')
    await client.post("/v1/chat/completions", zipped, "Content-Encoding: gzip")
    assert (await client.answer()).status == 200
    call = await upstream.call()
    assert seen == [{"model": "gpt-4o"}]
    assert (call.body, call.header("content-encoding")) == (zipped, "gzip")


async def test_a_gzip_body_that_is_edited_goes_up_plain(sidecar, setting, upstream, wire, policy):
    async def edit(self: Any, exchange: Any) -> None:
        exchange.tree["model"] = "other"
        exchange.body.touch()

    proxy = await sidecar(setting(upstream, policy(on_request=edit)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", gzip.compress(b'{"model": "gpt-4o"}'), "Content-Encoding: gzip")
    assert (await client.answer()).status == 200
    call = await upstream.call()
    assert (call.body, call.header("content-encoding")) == (b'{"model":"other"}', None)


@pytest.mark.parametrize("reads", [False, True])
async def test_a_gzip_answer_reaches_the_client_in_a_form_it_accepts(sidecar, setting, wire, policy, reads):
    async def look(self: Any, exchange: Any, answer: Any) -> None:
        assert answer.body.lenient()["choices"]

    async with FakeUpstream(reply(chat_answer("Hi"), gzip=True)) as upstream:
        proxy = await sidecar(setting(upstream, *([policy(on_response=look)] if reads else [])))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", ODD, "Accept-Encoding: gzip")
        answer = await client.answer()
    body = gzip.decompress(answer.body) if answer.header("content-encoding") == "gzip" else answer.body
    assert b'"Hi"' in body
    assert answer.header("content-length") == str(len(answer.body))
