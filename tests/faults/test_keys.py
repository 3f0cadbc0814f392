"""Attempts with a pool of keys: which key a try, a hedge and a veto lead to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.testing import Call, FakeUpstream, chat_answer, hang, reply, reset

KEYS = [
    {"id": "one", "secret": "secret-one", "priority": 2},
    {"id": "two", "secret": "secret-two", "priority": 1},
]
RETRY = {"retry": {"attempts": 2, "backoff": {"initial": "1ms", "max": "1ms"}}}
BREAKER = {"circuit_breaker": {"per": "key", "fail_max": 2, "reset": "60s"}}


def by_key(**steps: Any) -> Any:
    """A provider that treats each key in its own way."""

    async def step(call: Call) -> None:
        key = (call.header("authorization") or "").removeprefix("Bearer secret-")
        await steps.get(key, reply(chat_answer()))(call)

    return step


def used(first: FakeUpstream) -> list[str]:
    return [(call.header("authorization") or "").removeprefix("Bearer secret-") for call in first.calls]


async def test_a_circuit_by_key_leaves_the_other_keys_in_use(start: Any, first: FakeUpstream) -> None:
    first.default = by_key(one=reset())
    proxy = await start([RETRY, "select_key", BREAKER], keys=KEYS, first=first.url)
    answers = [(await proxy.post()).status for _ in range(4)]
    await proxy.at_rest()
    assert answers == [502, 200, 200, 200]
    assert used(first) == ["one", "one", "two", "two", "two"]


async def test_breakers_by_key_never_empty_the_pool(start: Any, first: FakeUpstream) -> None:
    first.default = reset()
    proxy = await start(["select_key", BREAKER], keys=KEYS, first=first.url)
    for _ in range(4):
        assert (await proxy.post()).status == 502
    assert sorted(used(first)) == ["one", "one", "two", "two"]
    first.default = reply(chat_answer())
    answer = await proxy.post()
    await proxy.at_rest()
    assert (answer.status, used(first)[4]) == (200, "one")


async def test_a_rate_limited_key_is_followed_by_another_at_once(start: Any, first: FakeUpstream) -> None:
    first.default = by_key(one=reply({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "5"}))
    proxy = await start([RETRY, "select_key", BREAKER], keys=KEYS, first=first.url)
    answer = await proxy.post()
    assert (answer.status, used(first), answer.headers["x-sidecar-key"]) == (200, ["one", "two"], "two")
    assert (await proxy.post()).status == 200
    await proxy.at_rest()
    assert used(first) == ["one", "two", "two"]
    assert {one["state"] for one in proxy.breakers.snapshot()} == {"closed"}


async def test_a_hedge_goes_to_another_key(start: Any, first: FakeUpstream) -> None:
    first.default = by_key(one=hang())
    proxy = await start([{"hedge": {"after": "40ms"}}, "select_key"], keys=KEYS, first=first.url)
    answer = await proxy.post()
    await proxy.at_rest()
    assert (answer.status, used(first), answer.headers["x-sidecar-key"]) == (200, ["one", "two"], "two")
    assert proxy.recorder.outcomes == ["lost", "answered"]


async def test_a_hedge_with_one_key_goes_to_it_again(start: Any, first: FakeUpstream) -> None:
    first.script(hang())
    proxy = await start([{"hedge": {"after": "40ms"}}, "select_key"], keys=KEYS[:1], first=first.url)
    answer = await proxy.post()
    await proxy.at_rest()
    assert (answer.status, used(first)) == (200, ["one", "one"])


@pytest.mark.parametrize(
    ("status", "headers", "least", "most"),
    [
        (401, {}, 2, 600),
        (402, {}, 2, 90_000),
        (429, {"retry-after": "7"}, 6, 8),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1, 60),
    ],
)
async def test_when_every_key_is_refused_the_call_hears_when_the_first_returns(
    start: Any, first: FakeUpstream, status: int, headers: dict[str, str], least: int, most: int
) -> None:
    first.default = reply({"error": {"message": "no"}}, status=status, headers=headers)
    proxy = await start(["select_key"], keys=KEYS, first=first.url)
    answer = await proxy.post()
    await proxy.at_rest()
    assert (answer.status, answer.code, used(first)) == (503, "no_key_available", ["one", "two"])
    assert least <= int(answer.headers["retry-after"]) <= most
    assert "x-should-retry" not in answer.headers


@pytest.mark.parametrize("status", [401, 402, 403, 429])
async def test_the_only_key_s_refusal_reaches_the_client_unchanged(
    start: Any, first: FakeUpstream, status: int
) -> None:
    refusal = {"error": {"message": "as the provider says it", "type": "t", "param": None, "code": "c"}}
    first.default = reply(refusal, status=status, headers={"retry-after": "7"})
    proxy = await start(["select_key"], keys=KEYS[:1], first=first.url)
    answer = await proxy.post()
    assert (answer.status, json.loads(answer.body), answer.headers["retry-after"]) == (status, refusal, "7")
    later = await proxy.post()
    await proxy.at_rest()
    assert (later.status, later.code, used(first)) == (503, "no_key_available", ["one"])


async def test_all_keys_refused_is_no_key_available(start: Any, first: FakeUpstream) -> None:
    first.default = reply({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "7"})
    proxy = await start(["select_key"], keys=KEYS, first=first.url)
    answer = await proxy.post()
    await proxy.at_rest()
    assert (answer.status, answer.code, used(first)) == (503, "no_key_available", ["one", "two"])
    assert 0 < int(answer.headers["retry-after"]) <= 7
