"""Whole calls through a running proxy with account and budget in the chain: what the client gets, what is written."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from proxy.accounting import record
from proxy.accounting.books import Books
from proxy.accounting.journal import Journal
from proxy.accounting.ledger.sqlite import SqliteLedger
from proxy.accounting.segments import read_lines
from proxy.accounting.writer import Writer
from proxy.state import MemoryState
from proxy.testing import FakeUpstream, chat_answer, chat_events, events, hang, reply

BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}


@pytest.fixture
def start(sidecar, monkeypatch):
    """Starts a proxy; returns it and its books."""

    async def run(upstream, *chain):
        made = []

        def offer(services):
            made.append(Books(services.config))
            state = MemoryState(services.clock)
            services.offer("accounting", lambda _: made[0])
            services.offer("state", lambda _: state)

        monkeypatch.setattr("proxy.app.offer_services", offer)
        proxy = await sidecar(
            {
                "upstreams": {"up": {"api": "openai", "base_url": upstream.url + "/v1"}},
                "routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"}],
                "chains": {"main": list(chain)},
            }
        )
        return proxy, made[0]

    return run


def written(books):
    directory = books.store.journal.directory
    return [line for number in directory.segments() for line in read_lines(directory.file(number).read_bytes(), "test")]


async def post(proxy, body=BODY):
    async with (
        aiohttp.ClientSession() as client,
        client.post(proxy.base_url + "/chat/completions", json=body) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.read()


async def test_a_whole_answer_is_written_before_it_is_sent_and_says_its_cost(start):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        proxy, books = await start(upstream, "account", {"budget": {"usd": 1}})
        status, headers, _ = await post(proxy)
        assert status == 200
        begin, end = written(books)
        assert (begin[0], end[0], end[1]) == ("b", "e", begin[1])
        usage = chat_answer("Hi")["usage"]
        cost = usage["prompt_tokens"] * 150 + usage["completion_tokens"] * 600
        assert end[11] == cost
        assert float(headers["x-sidecar-cost-usd"]) == pytest.approx(cost / 1e9)


async def test_a_stream_with_usage_is_written_before_done(start):
    async with FakeUpstream(events(*chat_events(["one", " two"]))) as upstream:
        proxy, books = await start(upstream, "account", {"budget": {"usd": 1}})
        async with (
            aiohttp.ClientSession() as client,
            client.post(proxy.base_url + "/chat/completions", json=BODY | {"stream": True}) as answer,
        ):
            async for line in answer.content:
                if b"[DONE]" in line:
                    assert [entry[0] for entry in written(books)] == ["b", "e"]
                    break
        assert written(books)[-1][5] == record.OUTCOMES.index("answered")


async def test_a_client_that_leaves_is_written_with_an_estimate_and_nothing_stays_reserved(start, eventually):
    async with FakeUpstream(hang()) as upstream:
        proxy, books = await start(upstream, "account", {"budget": {"tokens": 100_000}})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await post(proxy)
        await eventually(lambda: len(written(books)) == 2)
        end = written(books)[-1]
        assert end[5] == record.OUTCOMES.index("cancelled")
        assert end[7] & record.ESTIMATED
        assert end[14][0] > 0
        policy = proxy.app.snapshot.chains["main"].find("budget")
        [(_, counter)] = policy.budget.bucket("all", policy.services.clock.now()).counters
        assert policy.state.usage(counter).held == 0
        assert policy.state.usage(counter).used == sum(end[14])


async def test_a_spent_budget_is_429_and_a_refused_row(start):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        proxy, books = await start(upstream, "account", {"budget": {"calls": 1}})
        assert (await post(proxy))[0] == 200
        status, headers, body = await post(proxy)
        assert status == 429
        assert b"insufficient_quota" in body
        assert headers["x-should-retry"] == "false"
        assert headers["x-sidecar-policy"] == "budget"
        assert written(books)[-1][5] == record.OUTCOMES.index("refused")
        assert len(upstream.calls) == 1


async def test_a_hundred_calls_at_once_never_overspend(start):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        proxy, books = await start(upstream, "account", {"budget": {"calls": 20, "max_wait": "2s"}})
        statuses = [status for status, _, _ in await asyncio.gather(*(post(proxy) for _ in range(100)))]
        assert statuses.count(200) == 20
        assert statuses.count(429) == 80
        assert len(upstream.calls) == 20
        ends = [line for line in written(books) if line[0] == "e"]
        assert len({line[1] for line in ends}) == len(ends) == 100


PROCESS = """
import asyncio, sys
import proxy.app
from proxy.accounting.books import Books
from proxy.load import load_config
from proxy.state import MemoryState

def offer(services):
    services.offer("accounting", lambda s: Books(s.config))
    services.offer("state", lambda s: MemoryState(s.clock))

proxy.app.offer_services = offer
loaded, warnings = load_config(sys.argv[1])
app = proxy.app.App(loaded, warnings)
asyncio.run(app.run(lambda app: print(app.where[0], flush=True)))
"""
ROUNDS = int(os.environ.get("SIDECAR_KILL_ROUNDS", "3"))


async def test_kill_9_of_the_whole_proxy_loses_no_answer_and_doubles_none(tmp_path):
    """SIDECAR_KILL_ROUNDS times (50 for the long run): every answer that a client received whole is in the ledger once,
    and there are no more rows with a cost than the upstream saw calls.
    """
    received: set[str] = set()
    seen = 0
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        config = tmp_path / "config.yaml"
        config.write_text(
            json.dumps(
                {
                    "server": {"port": 0},
                    "admin": {"enabled": False},
                    "data": str(tmp_path),
                    "log": {"level": "error", "access": False},
                    "upstreams": {"up": {"api": "openai", "base_url": upstream.url}},
                    "routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"}],
                    "chains": {"main": ["account", {"budget": {"usd": 1000}}]},
                }
            )
        )

        async def ask(client, url):
            while True:
                try:
                    async with client.post(f"{url}/v1/chat/completions", json=BODY) as answer:
                        await answer.read()
                        assert answer.status == 200
                        received.add(answer.headers["x-sidecar-request-id"])
                except (aiohttp.ClientError, ConnectionError):
                    return

        for _ in range(ROUNDS):
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                PROCESS,
                str(config),
                stdout=asyncio.subprocess.PIPE,
                cwd=Path(__file__).parents[2],
            )
            assert child.stdout is not None
            url = (await asyncio.wait_for(child.stdout.readline(), 20)).decode().strip()
            async with aiohttp.ClientSession() as client:
                clients = [asyncio.create_task(ask(client, url)) for _ in range(8)]
                await asyncio.sleep(random.uniform(0.05, 0.4))
                child.send_signal(signal.SIGKILL)
                await asyncio.gather(*clients)
            await child.wait()
        seen = len(upstream.calls)
    journal, ledger = Journal(tmp_path / "journal"), SqliteLedger(tmp_path / "ledger.db")
    journal.open()
    writer = Writer(journal, ledger, root=tmp_path / "journal", gather=0.01)
    writer.start()
    await asyncio.wait_for(writer.caught_up(), 20)
    await journal.close()
    assert await writer.close()
    rows = await ledger.rows("SELECT request, outcome, cost FROM calls", ())
    await ledger.close()
    requests = [row[0] for row in rows]
    assert len(received) > 20
    assert len(requests) == len(set(requests))
    assert received <= set(requests)
    assert len(requests) >= seen, "the upstream was called and nothing is known of it"
    abandoned = [row for row in rows if record.OUTCOMES[row[1]] == "abandoned"]
    assert len(abandoned) <= 8 * ROUNDS
    assert all(row[2] > 0 for row in abandoned)
