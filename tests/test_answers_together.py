"""Answers that are ready in the same turn of the loop leave together: none is late, lost or out of order."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
DATA = json.dumps(CHAT).encode()
CALL = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA


@pytest.fixture
async def crowd(sidecar, setting, upstream, wire, monkeypatch):
    """``crowd(n)``: a proxy whose cache knows the call, n clients whose heads it knows, and a list of the connections
    that kept an answer back."""

    async def make(count: int) -> tuple[Any, list[Any], list[Any]]:
        proxy = await sidecar(setting(upstream, "cache"))
        clients = [await wire(proxy.port) for _ in range(count)]
        for client in clients:
            for _ in range(2):
                await client.send(CALL)
                assert (await client.answer()).status == 200
        kept: list[Any] = []
        listener = proxy.app.listener
        send_soon = listener.send_soon

        def noted(connection: Any) -> None:
            kept.append(connection)
            send_soon(connection)

        monkeypatch.setattr(listener, "send_soon", noted)
        return listener, clients, kept

    return make


def send_all(clients: list[Any], calls: bytes = CALL) -> None:
    for client in clients:
        client.writer.write(calls)


async def test_each_client_gets_its_answer(crowd):
    listener, clients, kept = await crowd(40)
    for _ in range(3):
        send_all(clients)
        answers = [await client.answer() for client in clients]
        assert [(answer.status, answer.header("x-sidecar-cache")) for answer in answers] == [(200, "hit")] * 40
        assert listener.due == 0
        assert not listener._unsent
    assert len(kept) > 60


async def test_one_who_calls_alone_waits_for_nobody(crowd):
    _, [client], kept = await crowd(1)
    for _ in range(5):
        await client.send(CALL)
        assert (await client.answer()).status == 200
    assert not kept


async def test_answers_stay_in_order_on_a_connection(crowd):
    _, clients, _ = await crowd(6)
    for _ in range(3):
        send_all(clients)
        await asyncio.sleep(0)
        send_all(clients, CALL * 3)
        for client in clients:
            answers = [await client.answer() for _ in range(4)]
            ids = [answer.header("x-sidecar-request-id") for answer in answers]
            assert ids == sorted(ids)


async def test_a_client_that_says_no_more_behind_its_call(crowd):
    _, clients, kept = await crowd(8)
    for client in clients:
        client.writer.write(CALL)
        client.writer.write_eof()
    assert [(await client.answer()).status for client in clients] == [200] * 8
    assert kept


async def test_a_listener_that_stops_before_they_are_sent(crowd, monkeypatch):
    listener, clients, kept = await crowd(8)
    send_soon = listener.send_soon

    def stop_first(connection: Any) -> None:
        if not kept:
            asyncio.get_running_loop().call_soon(listener.stop_accepting)
        send_soon(connection)

    monkeypatch.setattr(listener, "send_soon", stop_first)
    send_all(clients)
    assert [(await client.answer()).status for client in clients] == [200] * 8
    assert kept
    for client in clients:
        assert await client.closed()


async def test_a_client_that_leaves_before_its_call_begins_is_not_waited_for(crowd):
    listener, _, _ = await crowd(2)
    leaving = next(iter(listener.connections))
    leaving.data_received(CALL)
    assert listener.due == 1
    leaving._task_handler.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert listener.due == 0


async def test_a_client_that_leaves_before_its_answer_is_sent(crowd, monkeypatch):
    listener, clients, kept = await crowd(8)
    send_soon = listener.send_soon
    gone: list[Any] = []

    def cut(connection: Any) -> None:
        send_soon(connection)
        if not gone:
            gone.append(connection)
            connection.transport.abort()

    monkeypatch.setattr(listener, "send_soon", cut)
    send_all(clients)
    answered = 0
    for client in clients:
        try:
            answered += (await client.answer()).status == 200
        except (asyncio.IncompleteReadError, ConnectionError):
            continue
    assert gone
    assert kept
    assert answered == 7
    assert listener.due == 0
