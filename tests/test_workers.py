"""Several workers on one port: real processes, real sockets, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.testing import FakeUpstream, chat_answer, events, reply
from proxy.workers import key_rows, merge

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Gang:
    """A supervisor in its own process. log: its log records, as they come."""

    process: asyncio.subprocess.Process
    port: int
    admin: int
    session: aiohttp.ClientSession
    log: list[dict[str, Any]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pids(self) -> list[int]:
        """Of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children]

    async def logged(self, words: str) -> dict[str, Any]:
        """The first record that holds ``words``."""
        async with asyncio.timeout(15):
            while True:
                self.changed.clear()
                for record in self.log:
                    if words in record["message"]:
                        return record
                await self.changed.wait()

    async def ask(self, path: str) -> Any:
        async with self.session.get(f"http://127.0.0.1:{self.admin}{path}") as answer:
            text = await answer.text()
            return answer.status, (json.loads(text) if path != "/metrics" else text)

    async def call(self, **body: Any) -> int:
        """One call on a connection of its own; its status."""
        async with self.session.post(f"{self.url}/v1/chat/completions", json={"model": "m", **body}) as answer:
            await answer.read()
            return answer.status

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


Start = Callable[..., Awaitable[Gang]]


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture
async def gang(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[Gang] = []
    reading: list[asyncio.Task[None]] = []

    async def start(
        upstream: FakeUpstream,
        workers: int = 2,
        ready: bool = True,
        chain: Sequence[Any] = (),
        key: dict[str, Any] | None = None,
        **server: Any,
    ) -> Gang:
        port = free_port()
        admin = free_port()
        config: dict[str, Any] = {
            "server": {**({} if "unix" in server else {"port": port}), "workers": workers, "drain": "10s", **server},
            "admin": {"port": admin},
            "data": str(tmp_path),
            "log": {"format": "json", "access": False},
            "upstreams": {"fake": {"api": "openai", "base_url": upstream.url}},
            "routes": [{"match": {"path": "*"}, "upstream": "fake", "chain": "empty"}],
            "chains": {"empty": list(chain)},
        }
        if key is not None:
            config["upstreams"]["fake"]["keys"] = "pool"
            config["keys"] = {"pool": {"keys": [{"id": "a", "secret": "sk-a", **key}]}}
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps(config))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", "serve", "--config", str(file),
            stderr=asyncio.subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        one = Gang(process, port, admin, session)
        running.append(one)
        reading.append(asyncio.create_task(read_log(one)))
        if ready:
            await one.logged("workers are ready")
        return one

    yield start
    for one in running:
        if one.process.returncode is None:
            one.process.kill()
            await one.process.wait()
        await one.session.close()
    await asyncio.gather(*reading)


async def read_log(gang: Gang) -> None:
    assert gang.process.stderr is not None
    async for line in gang.process.stderr:
        gang.log.append(json.loads(line) if line.startswith(b"{") else {"message": line.decode()})
        gang.changed.set()


async def died(pid: int) -> None:
    async with asyncio.timeout(15):
        while Path(f"/proc/{pid}").exists():  # a foreign process tells nobody
            await asyncio.sleep(0.02)


async def test_calls_are_spread_over_all_workers(gang: Start) -> None:
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        whole = await gang(upstream)
        assert await asyncio.gather(*(whole.call() for _ in range(40))) == [200] * 40
        status, page = await whole.ask("/api/v1/upstreams")
        assert status == 200
        served = {item["worker"]: item["requests"] for item in page}
        assert set(served) == {1, 2}
        assert sum(served.values()) == 40
        assert all(served.values())


async def test_a_worker_that_dies_is_replaced_and_the_death_is_logged(gang: Start) -> None:
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        whole = await gang(upstream)
        before = whole.pids
        os.kill(before[0], signal.SIGKILL)
        record = await whole.logged("is replaced")
        assert "SIGKILL" in record["message"]
        assert record["level"] == "error"
        async with asyncio.timeout(15):
            while (await whole.ask("/healthz"))[1]["running"] < 2:
                await asyncio.sleep(0.05)
        assert len(set(whole.pids) - set(before)) == 1
        assert await asyncio.gather(*(whole.call() for _ in range(10))) == [200] * 10


async def test_the_whole_is_ready_while_one_worker_is_replaced(gang: Start) -> None:
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        whole = await gang(upstream)
        assert await whole.ask("/readyz") == (200, {"ready": True, "reasons": [], "workers": 2})
        os.kill(whole.pids[0], signal.SIGKILL)
        await whole.logged("is replaced")
        status, page = await whole.ask("/readyz")
        assert status == 200
        assert page["ready"]


async def test_a_signal_lets_calls_finish_and_then_ends_every_worker(gang: Start) -> None:
    async with FakeUpstream(events(*chat_pieces(), held=True)) as upstream:
        whole = await gang(upstream)
        pids = whole.pids
        running = asyncio.create_task(whole.call(stream=True))
        call = await upstream.call(0)
        whole.signal()
        async with asyncio.timeout(10):
            while (await whole.ask("/readyz"))[0] != 503:
                await asyncio.sleep(0.02)
        call.release(10)
        assert await running == 200
        assert await whole.ended() == 0
        for pid in pids:
            await died(pid)


async def test_a_second_signal_ends_the_whole_at_once(gang: Start) -> None:
    async with FakeUpstream(events(*chat_pieces(), held=True)) as upstream:
        whole = await gang(upstream)
        running = asyncio.create_task(whole.call(stream=True))
        await upstream.call(0)
        whole.signal()
        async with asyncio.timeout(10):
            while (await whole.ask("/readyz"))[0] != 503:
                await asyncio.sleep(0.02)
        whole.signal(signal.SIGINT)
        assert await whole.ended() == 0
        assert await running in (200, 503)  # told that it was cut, by an event where its stream had begun


async def test_workers_drain_when_their_supervisor_is_killed(gang: Start) -> None:
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        whole = await gang(upstream)
        pids = whole.pids
        whole.process.kill()
        for pid in pids:
            await died(pid)


async def test_a_port_that_is_taken_is_told_before_any_worker_starts(gang: Start) -> None:
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        whole = await gang(upstream, ready=False, port=upstream.port)
        assert await whole.ended() == 2
        assert "in use" in (await whole.logged("server.port"))["message"]


async def test_workers_share_a_unix_socket(gang: Start, tmp_path: Path) -> None:
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        path = str(tmp_path / "data.sock")
        await gang(upstream, unix=path)
        connector = aiohttp.UnixConnector(path)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://localhost/v1/chat/completions", json={"model": "m"}) as answer,
        ):
            assert answer.status == 200


async def test_metrics_of_all_workers_are_one_page(gang: Start) -> None:
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        whole = await gang(upstream)
        await asyncio.gather(*(whole.call() for _ in range(20)))
        status, page = await whole.ask("/metrics")
        assert status == 200
        heads = [line for line in page.splitlines() if line.startswith("# TYPE")]
        assert heads
        assert len(heads) == len(set(heads))


async def test_a_budget_of_all_workers_is_one_row_also_after_a_restart(gang: Start) -> None:
    """In memory each worker has its part of the budget and counts apart; what the ledger knows is dealt out, too."""
    chain = ["account", {"budget": {"calls": 100}}]
    async with FakeUpstream(default=reply(chat_answer())) as upstream:
        whole = await gang(upstream, chain=chain)
        assert await asyncio.gather(*(whole.call() for _ in range(40))) == [200] * 40
        _, rows = await whole.ask("/api/v1/budgets")
        assert [(r["value"], r["spent"], r["remaining"], r["limit"], r["share"]) for r in rows] == [
            ("all", 40, 60, 100, 0.4)
        ]
        whole.signal()
        await whole.ended()
        again = await gang(upstream, chain=chain)
        _, rows = await again.ask("/api/v1/budgets")
        assert [(r["spent"], r["remaining"]) for r in rows] == [(40, 60)]
        statuses = await asyncio.gather(*(again.call() for _ in range(80)))
        assert 45 <= statuses.count(200) <= 60  # 30 each; the kernel does not deal connections out evenly


async def test_what_a_clear_has_taken_from_all_workers_is_said(gang: Start) -> None:
    async with FakeUpstream(default=reply(chat_answer("x"))) as upstream:
        whole = await gang(upstream, chain=[{"cache": {"ttl": "1h"}}])
        await asyncio.gather(*(whole.call(messages=[], seed=number) for number in range(40)))
        entries = [cache["entries"] for cache in (await whole.ask("/api/v1/cache"))[1]]
        assert len(entries) == 2
        async with whole.session.post(f"http://127.0.0.1:{whole.admin}/api/v1/cache/clear") as answer:
            assert await answer.json() == {"cleared": sum(entries)} == {"cleared": 40}


async def test_limits_are_shown_for_each_worker(gang: Start) -> None:
    """In memory each worker has half of the limit, so a call takes twice its share of that."""
    chain = [{"rate_limit": {"per": "all", "rpm": 1000}}]
    async with FakeUpstream(*[reply(chat_answer("x"))] * 40) as upstream:
        whole = await gang(upstream, chain=chain)
        await asyncio.gather(*(whole.call() for _ in range(40)))
        _, rows = await whole.ask("/api/v1/limits")
    assert {row["worker"] for row in rows} == {1, 2}
    assert sum(row["used"] for row in rows) / 2 == pytest.approx(40, abs=2)


def chat_pieces() -> list[dict[str, Any]]:
    return [{"choices": [{"index": 0, "delta": {"content": "x"}}]} for _ in range(3)]


# --- merging, without processes -----------------------------------------------------------------

PAGE = """# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{status="200"} %d
# TYPE wait_seconds histogram
wait_seconds_bucket{le="1"} %d
wait_seconds_sum %d
# TYPE in_flight gauge
in_flight %d
"""


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=5))
def test_counters_and_histograms_add_up_and_gauges_keep_their_worker(values: list[int]) -> None:
    page = merge.metrics({n: PAGE % (v, v, v, v) for n, v in enumerate(values, 1)})
    assert f'calls_total{{status="200"}} {sum(values)}\n' in page
    assert f'wait_seconds_bucket{{le="1"}} {sum(values)}\n' in page
    assert f"wait_seconds_sum {sum(values)}\n" in page
    for number, value in enumerate(values, 1):
        assert f'in_flight{{worker="{number}"}} {value}\n' in page
    assert page.count("# TYPE calls_total counter") == 1


async def test_a_key_is_one_row_with_what_all_workers_used(gang: Start, upstream: FakeUpstream) -> None:
    whole = await gang(upstream, chain=["select_key"], key={"max_rpm": 40, "max_concurrent": 30})
    assert await asyncio.gather(*(whole.call() for _ in range(12))) == [200] * 12
    _, [row] = await whole.ask("/api/v1/keys")
    assert (row["id"], row["requests"], row["rpm"], row["max_rpm"]) == ("a", 12, 12, 40)
    assert (row["state"], row["in_flight"], row["success_rate"]) == ("ready", 0, 1.0)
    assert "worker" not in row
    _, [of_one] = await whole.ask("/api/v1/keys?worker=1")
    assert of_one["requests"] < 12


def test_the_worst_state_of_a_key_is_the_one_to_see_and_what_is_counted_together_is_not_added() -> None:
    row = {
        "pool": "p", "id": "a", "state": "ready", "why": "", "returns_in": 0.0, "enabled": True, "requests": 6,
        "success_rate": 1.0, "latency": 0.2, "rpm": 9, "max_rpm": 20, "tpm": 50, "max_tpm": None, "in_flight": 1,
        "max_concurrent": None, "cooling_models": {}, "tasks": {"chat": 6}, "last_used": 5.0, "shared": True,
    }  # fmt: skip
    worse = row | {
        "state": "cooling", "why": "429", "returns_in": 3.0, "requests": 2, "success_rate": 0.5, "latency": 0.6,
        "cooling_models": {"m": 4.0}, "tasks": {"chat": 1, "other": 1}, "last_used": 7.0,
    }  # fmt: skip
    [both] = key_rows.merged([(1, [row]), (2, [worse])])
    assert (both["state"], both["why"], both["returns_in"]) == ("cooling", "429 (worker 2)", 3.0)
    assert (both["requests"], both["in_flight"], both["last_used"]) == (8, 2, 7.0)
    assert (both["rpm"], both["tpm"]) == (9, 100)  # a limit in Redis is one count, the rest is each worker's own
    assert both["success_rate"] == pytest.approx(7 / 8)
    assert both["latency"] == pytest.approx(0.3)
    assert (both["tasks"], both["cooling_models"]) == ({"chat": 7, "other": 1}, {"m": 4.0})
    apart = [(number, [one | {"shared": False}]) for number, one in ((1, row), (2, row))]
    assert key_rows.merged(apart)[0]["rpm"] == 18


def test_budgets_are_added_up_unless_they_are_counted_together() -> None:
    row = {"chain": "c", "budget": "b", "value": "all", "unit": "usd", "limit": 10.0, "shared": False}
    page = [{**row, "spent": 2.0, "reserved": 1.0, "remaining": 7.0, "share": 0.2}]
    other = [
        {**row, "spent": 3.0, "reserved": 0.0, "remaining": 7.0, "share": 0.3},
        {**row, "value": "x", "spent": 9.0, "reserved": 0.0, "remaining": 1.0, "share": 0.9},
    ]
    alone, both = merge.budgets([(1, page), (2, other)])
    assert (alone["value"], alone["spent"], alone["share"]) == ("x", 9.0, 0.9)
    assert (both["spent"], both["reserved"], both["remaining"], both["share"]) == (5.0, 1.0, 4.0, 0.5)
    shared = [{**page[0], "shared": True}], [{**other[0], "shared": True}]
    [together] = merge.budgets([(1, shared[0]), (2, shared[1])])
    assert (together["spent"], together["reserved"], together["remaining"]) == (3.0, 1.0, 6.0)


def test_lists_are_joined_and_every_object_names_its_worker() -> None:
    said = [(1, {"in_flight": [{"id": "a"}], "recent": []}), (2, {"in_flight": [{"id": "b"}], "recent": []})]
    assert merge.pages(said) == {
        "in_flight": [{"id": "a", "worker": 1}, {"id": "b", "worker": 2}],
        "recent": [],
    }
