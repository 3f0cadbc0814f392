"""Limits end to end: what the provider sees of a key, who waits, who is refused, and that nothing is left reserved."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from proxy.testing import FakeUpstream, chat_answer, chat_events, events, reply


def used(first: FakeUpstream) -> list[str]:
    return [(call.header("authorization") or "").removeprefix("Bearer secret-") for call in first.calls]


def key(name: str, **options: Any) -> dict[str, Any]:
    return {"id": name, "secret": f"secret-{name}", **options}


def rested(proxy: Any) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = proxy.snapshot.services.get("keys").snapshot()
    assert all(one["in_flight"] == 0 for one in keys)
    return keys


async def test_200_concurrent_calls_stay_within_the_limits_of_every_key(start: Any, first: FakeUpstream) -> None:
    first.default = reply(chat_answer(usage=(10, 20)))
    keys = [key("a", max_rpm=30, priority=2), key("b", max_tpm=1000, priority=1), key("c", max_rpm=50)]
    proxy = await start(["select_key"], keys=keys, first=first.url)
    body = {"model": "m", "max_tokens": 40, "messages": [{"role": "user", "content": "Hi"}]}
    answers = await asyncio.gather(*[proxy.post(body) for _ in range(200)])
    await proxy.at_rest()
    calls = used(first)
    assert calls.count("a") == 30 and calls.count("c") == 50
    assert calls.count("b") >= 15 and calls.count("b") * 30 <= 1000
    refused = [answer for answer in answers if answer.status != 200]
    assert {(answer.status, answer.code) for answer in refused} == {(503, "no_key_available")}
    assert all(50 <= int(answer.headers["retry-after"]) <= 62 for answer in refused)
    assert {one["id"]: one["tpm"] for one in rested(proxy)}["b"] == calls.count("b") * 30


async def test_a_cooled_key_comes_back_after_its_retry_after(start: Any, first: FakeUpstream) -> None:
    first.script(
        reply({"error": {"message": "slow"}}, status=429, headers={"retry-after-ms": "250"}),
        *[reply(chat_answer())] * 3,
    )
    proxy = await start(["select_key"], keys=[key("a", priority=2), key("b", priority=1)], first=first.url)
    assert [(await proxy.post()).status for _ in range(2)] == [200, 200]
    await asyncio.sleep(0.3)
    assert (await proxy.post()).headers["x-sidecar-key"] == "a"
    assert used(first) == ["a", "b", "b", "a"]


async def test_a_call_waits_for_the_only_key_and_is_served(start: Any, first: FakeUpstream) -> None:
    first.script(
        reply({"error": {"message": "slow"}}, status=429, headers={"retry-after": "0.3"}), reply(chat_answer())
    )
    proxy = await start([{"select_key": {"max_wait": "2s"}}], keys=[key("a")], first=first.url)
    answer = await proxy.post()
    await proxy.at_rest()
    assert answer.status == 200 and 0.3 <= answer.seconds < 1.5
    assert used(first) == ["a", "a"]


async def test_places_of_a_key_pass_from_call_to_call(start: Any, first: FakeUpstream) -> None:
    first.default = reply(chat_answer(), delay=0.02)
    proxy = await start([{"select_key": {"max_wait": "5s"}}], keys=[key("a", max_concurrent=3)], first=first.url)
    answers = await asyncio.gather(*[proxy.post() for _ in range(30)])
    await proxy.at_rest()
    assert {answer.status for answer in answers} == {200}
    rested(proxy)


async def test_clients_that_leave_at_any_moment_leave_nothing_reserved(start: Any, first: FakeUpstream) -> None:
    first.default = reply(chat_answer(), delay=0.01)
    chain = [
        {"rate_limit": {"rpm": 60_000, "tpm": 10_000_000, "max_concurrent": 8, "on_limit": "wait", "max_wait": "2s"}},
        {"shed_load": {"max_in_flight": 6, "queue": 50, "max_wait": "2s"}},
        {"select_key": {"max_wait": "2s"}},
        "faults_recorder:Wobbly",
    ]
    keys = [key("a", max_rpm=10_000, max_tpm=10_000_000, max_concurrent=4), key("b", max_concurrent=1)]
    proxy = await start(chain, keys=keys, first=first.url)
    dice = random.Random(7)
    tasks = []
    for _ in range(120):
        tasks.append(asyncio.create_task(proxy.post()))
        await asyncio.sleep(dice.random() * 0.004)
        if dice.random() < 0.5:
            dice.choice(tasks[-10:]).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await proxy.at_rest()
    rested(proxy)
    policies = {policy.name: policy for policy in proxy.snapshot.chains["c"].policies}
    assert policies["shed_load"].snapshot()["in_flight"] == 0
    assert sum(policies["shed_load"].snapshot()["waiting"].values()) == 0
    assert not policies["rate_limit"].lines
    held = [told for told in policies["rate_limit"].snapshot() if told["unit"] == "calls in flight"]
    assert held == []
    assert (await proxy.post()).status == 200


async def test_a_rate_limit_shows_its_figures_and_refuses_with_a_time(start: Any, first: FakeUpstream) -> None:
    first.default = reply(chat_answer(), headers={"x-ratelimit-remaining-requests": "4711"})
    proxy = await start([{"rate_limit": {"rpm": 60, "burst": 2}}], first=first.url)
    good, _, refused = [await proxy.post() for _ in range(3)]
    assert good.headers.getall("x-ratelimit-remaining-requests") == ["1"]
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-sidecar-policy"] == "rate_limit"
    await proxy.at_rest()
    assert len(first.calls) == 2


async def test_a_stream_counts_for_shed_load_until_its_end(start: Any, first: FakeUpstream) -> None:
    first.default = events(*chat_events("Hello there"), gap=0.05)
    proxy = await start([{"shed_load": {"max_in_flight": 1}}], first=first.url)
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    running = asyncio.create_task(proxy.post(body))
    while not first.calls:
        await asyncio.sleep(0.002)
    refused = await proxy.post()
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "overloaded", "1")
    assert (await running).status == 200
    await proxy.at_rest()
    assert (await proxy.post(body)).status == 200


async def test_ids_go_to_the_key_that_made_them(start: Any, first: FakeUpstream) -> None:
    first.default = reply({"object": "response", "id": "resp_12345678", "output": []})
    proxy = await start(["select_key"], keys=[key("a"), key("b")], first=first.url)
    made = await proxy.post({"model": "m", "input": "Hi"}, path="/responses")
    owner = made.headers["x-sidecar-key"]
    for _ in range(3):
        answer = await proxy.post(
            {"model": "m", "input": "go on", "previous_response_id": "resp_12345678"}, path="/responses"
        )
        assert answer.headers["x-sidecar-key"] == owner


async def test_a_call_that_a_second_limit_refuses_takes_nothing_of_the_first(start: Any, first: FakeUpstream) -> None:
    first.default = reply(chat_answer())
    limits = [{"rate_limit": {"per": "all", "rpm": 3}}, {"rate_limit": {"per": "task", "rpm": 1}}]
    proxy = await start(limits, first=first.url)
    statuses = [(await proxy.post(headers={"x-sidecar-task": task})).status for task in "aaaabcd"]
    await proxy.at_rest()
    assert statuses == [200, 429, 429, 429, 200, 200, 429]
