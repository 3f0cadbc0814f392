"""A reload is all or nothing and no call notices it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.config.reload import Files
from proxy.load import load_config
from proxy.reload import Reloaded
from proxy.testing import FakeUpstream, chat_answer, chat_events, events, hang, reply

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
KEY = {"id": "first", "secret": "sk-secret-of-the-first"}


class Running:
    """A proxy whose file can be written anew."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.app: App
        self.client: aiohttp.ClientSession

    async def start(self) -> None:
        free = ["server.port=0", "admin.port=0", f"data={self.file.parent}", "log.access=false", "log.level=error"]
        load = partial(load_config, self.file, overrides=free, env={})
        self.app = App(*load(), load=load)
        await self.app.start()
        self.client = aiohttp.ClientSession()

    async def stop(self) -> None:
        await self.client.close()
        await self.app.stop()

    def write(self, config: Any) -> None:
        self.file.write_text(config if isinstance(config, str) else json.dumps(config))

    async def reload(self, config: Any) -> Reloaded:
        self.write(config)
        return await self.app.reload("test")

    async def call(self, **more: Any) -> tuple[int, bytes]:
        async with self.client.post(f"{self.app.where[0]}/v1/chat/completions", json=BODY | more) as answer:
            return answer.status, await answer.read()

    async def quiet(self) -> None:
        """Until every old snapshot has been stopped."""
        async with asyncio.timeout(5):
            while self.app.reloader.retiring:
                await asyncio.sleep(0.005)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    started: list[Running] = []

    async def start(config: Any) -> Running:
        one = Running(tmp_path / "config.yaml")
        one.write(config)
        await one.start()
        started.append(one)
        return one

    yield start
    for one in started:
        await one.stop()


def config(upstream: FakeUpstream, *chain: Any, **more: Any) -> dict[str, Any]:
    return {
        "upstreams": {"up": {"api": "openai", "base_url": upstream.url, **more.pop("up", {})}},
        "routes": [{"upstream": "up", "chain": "main"}],
        "chains": {"main": list(chain)},
        **more,
    }


def keyed(upstream: FakeUpstream, **key: Any) -> dict[str, Any]:
    return config(upstream, "select_key", up={"keys": "pool"}, keys={"pool": {"keys": [KEY | key]}})


async def test_new_calls_follow_the_new_configuration(running, upstream):
    proxy = await running(config(upstream))
    assert (await proxy.call())[0] == 200
    done = await proxy.reload(config(upstream, {"authenticate": {"method": "keys", "keys": [_virtual()]}}))
    assert (done.ok, done.generation) == (True, 2)
    assert (await proxy.call())[0] == 401


def _virtual() -> dict[str, str]:
    return {"id": "app", "sha256": "0" * 64}


async def test_a_call_in_flight_ends_on_the_configuration_it_began_with(running, upstream):
    proxy = await running(config(upstream))
    upstream.script(reply(chat_answer("late"), delay=0.2))
    call = asyncio.create_task(proxy.call())
    await upstream.call(0)
    old = proxy.app.snapshot
    async with FakeUpstream(default=reply(chat_answer("from the other"))) as other:
        assert (await proxy.reload(config(other))).ok
        assert proxy.app.reloader.retiring == [old]
        status, body = await call
        assert (status, b"late" in body) == (200, True)
        assert b"from the other" in (await proxy.call())[1]
        await proxy.quiet()
    assert old.upstreams["up"].pool._closed


async def test_a_stream_goes_on_through_reloads(running, upstream):
    proxy = await running(config(upstream, {"retry": {"attempts": 2}}))
    upstream.script(events(*chat_events(["one", " two"]), held=True))
    url = f"{proxy.app.where[0]}/v1/chat/completions"
    async with proxy.client.post(url, json=BODY | {"stream": True}) as answer:
        call = await upstream.call(0)
        call.release(2)
        assert b"one" in await answer.content.readuntil(b"one")
        for _ in range(3):
            assert (await proxy.reload(config(upstream, "validate"))).ok
        call.release(9)
        rest = await answer.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    await proxy.quiet()


async def test_a_broken_file_changes_nothing_and_every_mistake_is_told(running, upstream):
    proxy = await running(config(upstream))
    before = proxy.app.snapshot
    done = await proxy.reload("upstreams: {up: {api: nonsense}}\nserver: {prot: 1}\n")
    assert not done.ok
    assert any("api" in problem for problem in done.problems)
    assert any("prot" in problem and "did you mean" in problem for problem in done.problems)
    assert proxy.app.snapshot is before
    assert (await proxy.call())[0] == 200
    assert proxy.app.alarms.latest(1)[0]["text"].startswith("reload refused")


async def test_a_configuration_that_cannot_start_changes_nothing(running, upstream, policy):
    async def start(self: Any) -> None:
        raise RuntimeError("its server is not there")

    proxy = await running(config(upstream, "validate"))
    before = proxy.app.snapshot
    done = await proxy.reload(config(upstream, "account", policy(start=start)))
    assert (done.ok, done.problems) == (False, ("its server is not there",))
    assert proxy.app.snapshot is before
    assert (await proxy.call())[0] == 200


@pytest.mark.parametrize(
    ("section", "value"), [("server", {"backlog": 7}), ("admin", {"enabled": False}), ("ledger", "sqlite:///tmp/x.db")]
)
async def test_what_was_bound_at_the_start_needs_a_restart(running, upstream, section, value):
    proxy = await running(config(upstream))
    done = await proxy.reload(config(upstream, **{section: value}))
    assert not done.ok
    assert "restart" in done.problems[0]
    assert section in done.problems[0]


async def test_connections_of_an_unchanged_upstream_are_used_again(running, upstream):
    proxy = await running(config(upstream))
    await proxy.call()
    await proxy.reload(config(upstream, "validate"))
    await proxy.quiet()
    await proxy.call()
    assert upstream.connections == 1


async def test_connections_of_a_changed_upstream_are_closed(running, upstream):
    proxy = await running(config(upstream))
    await proxy.call()
    await proxy.reload(config(upstream, up={"timeouts": {"connect": "1s"}}))
    await proxy.quiet()
    await upstream.idle()


async def test_a_key_keeps_its_history_and_its_switch(running, upstream):
    proxy = await running(keyed(upstream))
    await proxy.call()
    proxy.app.snapshot.services.get("keys").switch("first", on=False)
    assert (await proxy.reload(keyed(upstream, max_rpm=100))).ok
    (key,) = proxy.app.snapshot.services.get("keys").snapshot()
    assert (key["requests"], key["enabled"], key["max_rpm"]) == (1, False, 100)
    assert (await proxy.call())[0] == 503


async def test_an_open_circuit_stays_open(running, upstream):
    chain = {"circuit_breaker": {"fail_max": 1, "reset": "60s"}}
    proxy = await running(config(upstream, chain))
    upstream.script(reply({}, status=500))
    await proxy.call()
    await proxy.reload(config(upstream, "validate", chain))
    assert (await proxy.call())[0] == 503
    assert len(upstream.calls) == 1


async def test_a_rate_limit_goes_on_counting(running, upstream):
    chain = {"rate_limit": {"rpm": 2}}
    proxy = await running(config(upstream, chain))
    assert [(await proxy.call())[0] for _ in range(2)] == [200, 200]
    await proxy.reload(config(upstream, "validate", chain))
    assert (await proxy.call())[0] == 429


async def test_the_cache_keeps_its_entries(running, upstream):
    proxy = await running(config(upstream, {"cache": {"ttl": "1h"}}))
    await proxy.call()
    await proxy.reload(config(upstream, {"cache": {"ttl": "1h"}}, up={"max_waiting": 5}))
    await proxy.call()
    assert len(upstream.calls) == 1


async def test_a_budget_goes_on_counting(running, upstream):
    chain = {"budget": {"calls": 1, "per": "all"}}
    proxy = await running(config(upstream, chain))
    assert (await proxy.call())[0] == 200
    await proxy.reload(config(upstream, "validate", chain))
    assert (await proxy.call())[0] == 429


async def test_a_hundred_reloads_under_load_leave_nothing_behind(running, upstream):
    chains = [("account", {"cache": {"ttl": "1s"}}, {"retry": {"attempts": 2}}), ("validate",)]
    chains = [(*chain, "select_key", "circuit_breaker") for chain in chains]
    pool = {"keys": {"pool": {"keys": [KEY]}}}
    settings = [config(upstream, *chain, up={"keys": "pool"}, **pool) for chain in chains]
    settings.append(config(upstream, up={"timeouts": {"connect": "2s"}}))
    proxy = await running(settings[0])
    await proxy.call()
    tasks = len(asyncio.all_tasks())
    statuses: list[int] = []
    over = asyncio.Event()

    async def load(number: int) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            statuses.append((await proxy.call(user=f"{number}-{turn}"))[0])

    callers = [asyncio.create_task(load(number)) for number in range(4)]
    for turn in range(100):
        assert (await proxy.reload(settings[turn % 3])).ok
    over.set()
    await asyncio.gather(*callers)
    assert (await proxy.reload(settings[0])).ok
    await proxy.quiet()
    assert len(statuses) > 20
    assert set(statuses) == {200}
    await proxy.client.close()  # each open connection of a client has a task of its own
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.01)
    current = proxy.app.snapshot
    async with asyncio.timeout(5):
        while upstream.open_connections > current.upstreams["up"].pool.idle:
            await asyncio.sleep(0.01)
    assert (current.in_flight, current.flights) == (set(), set())


async def test_stopping_while_old_calls_run_ends_them_all(running, upstream):
    proxy = await running(config(upstream))
    upstream.default = hang()
    call = asyncio.create_task(proxy.call())
    await upstream.call(0)
    await proxy.reload(config(upstream, up={"max_waiting": 3}))
    assert len(proxy.app.snapshots) == 2
    await proxy.app.stop()
    status, body = await call
    assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
    assert proxy.app.reloader.retiring == []


async def test_a_change_of_the_files_is_seen_and_taken_over(running, upstream):
    proxy = await running(config(upstream))
    proxy.app.reloader.watch(0.01)
    await asyncio.sleep(0.05)
    proxy.write(config(upstream, "validate"))
    async with asyncio.timeout(5):
        while proxy.app.reloader.generation == 1:
            await asyncio.sleep(0.01)
    assert proxy.app.snapshot.chains["main"].find("validate") is not None
    await asyncio.sleep(0.1)
    assert proxy.app.reloader.generation == 2


def test_files_differ_by_content_and_not_by_time(tmp_path):
    file, secret = tmp_path / "config.yaml", tmp_path / "secret"
    file.write_text("a: 1")
    secret.write_text("one")
    files = Files([file, secret])
    first = files.look()
    file.touch()
    assert files.look() == first
    secret.write_text("two")
    second = files.look()
    assert second != first
    (tmp_path / "more.yaml").write_text("b: 2")
    assert files.look() != second


async def test_a_process_without_files_refuses(running, upstream):
    proxy = await running(config(upstream))
    proxy.app.reloader.load = None
    done = await proxy.app.reload()
    assert not done.ok
    assert "file" in done.problems[0]


async def test_a_mounted_secret_that_changes_is_used(running, upstream, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("sk-before\n")
    proxy = await running(keyed(upstream, secret="${file:secret}"))
    await proxy.call()
    proxy.app.reloader.watch(0.01)
    await asyncio.sleep(0.05)
    secret.write_text("sk-after\n")
    async with asyncio.timeout(5):
        while proxy.app.reloader.generation == 1:
            await asyncio.sleep(0.01)
    await proxy.call()
    assert [call.header("authorization") for call in upstream.calls] == ["Bearer sk-before", "Bearer sk-after"]


async def test_the_log_level_changes_without_a_restart(running, upstream, tmp_path):
    file = tmp_path / "access.log"
    proxy = await running(config(upstream))
    overrides = ["server.port=0", "admin.port=0", f"data={tmp_path}", f"log.file={file}", "log.format=json"]
    proxy.app.reloader.load = partial(load_config, proxy.file, overrides=overrides, env={})
    assert (await proxy.app.reload()).ok
    await proxy.call()
    proxy.app.logs.close()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["status"] for line in lines if line["logger"] == "access"] == [200]


async def test_the_admin_token_changes_without_a_restart(running, upstream):
    proxy = await running(config(upstream))
    assert (await proxy.reload(config(upstream, admin={"token": "let-me-in"}))).ok
    async with proxy.client.get(f"{proxy.app.admin_url}/api/v1/keys") as answer:
        assert answer.status == 401


async def test_the_demo_upstream_can_come_and_go(running, upstream):
    proxy = await running(config(upstream))
    demo = config(upstream) | {"upstreams": {"up": {"api": "demo"}}}
    assert (await proxy.reload(demo)).ok
    assert (await proxy.call())[0] == 200
    assert upstream.calls == []
    assert (await proxy.reload(config(upstream))).ok
    assert (await proxy.call())[0] == 200
    assert len(upstream.calls) == 1


async def test_a_door_that_would_stand_open_is_refused(running, upstream):
    closed = {"authenticate": {"method": "keys", "keys": [_virtual()]}}
    server = {"server": {"host": "0.0.0.0"}}
    proxy = await running(config(upstream, closed, **server))
    done = await proxy.reload(config(upstream, **server))
    assert not done.ok
    assert "lets everybody in" in done.problems[0]
    assert (await proxy.call())[0] == 401


async def test_asking_twice_at_once_reloads_one_after_the_other(running, upstream):
    proxy = await running(config(upstream))
    first, second = await asyncio.gather(proxy.app.reload(), proxy.app.reload())
    assert (first.generation, second.generation) == (2, 3)


async def test_what_health_checks_found_is_kept(running, upstream):
    health = {"health": {"every": "10s"}}
    proxy = await running(config(upstream, up=health))
    async with asyncio.timeout(5):
        while proxy.app.snapshot.services.get("health").snapshot()[0]["reachable"] is None:
            await asyncio.sleep(0.01)
    await proxy.reload(config(upstream, "validate", up=health))
    (found,) = proxy.app.snapshot.services.get("health").snapshot()
    assert (found["reachable"], found["success_rate"]) == (True, 1.0)


async def test_a_revalidation_of_before_ends_before_its_snapshot_is_stopped(running, upstream):
    chain = {"cache": {"ttl": "1ms", "stale_while_revalidate": "1h"}}
    proxy = await running(config(upstream, chain))
    await proxy.call()
    await asyncio.sleep(0.01)
    upstream.script(reply(chat_answer("renewed"), delay=0.2))
    assert (await proxy.call())[0] == 200  # stale, and a flight behind it
    await upstream.call(1)
    old = proxy.app.snapshot
    await proxy.reload(config(upstream, chain, up={"max_waiting": 7}))
    assert proxy.app.reloader.retiring == [old]
    await proxy.quiet()
    assert b"renewed" in (await proxy.call())[1]
