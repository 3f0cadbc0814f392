"""Answers that are past their time: given when the provider fails, or while a new one is fetched."""

from __future__ import annotations

import asyncio

import pytest

from proxy.testing import FakeUpstream, chat_answer, chat_events, close, events, reply


async def expired(caller, **fields):
    """Have an answer stored and wait until it is not fresh any more (ttl is 30 ms)."""
    assert (await caller.say(**fields)).status == 200
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("step", [
    reply({"error": {}}, status=500),
    reply({"error": {}}, status=429),
    close("before_head"),
])  # fmt: skip
async def test_a_stale_answer_is_given_when_the_provider_fails(cached, step):
    async with FakeUpstream(reply(chat_answer("old")), default=step) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_if_error="1h")
        await expired(caller)
        got = await caller.say()
        assert (got.status, got.cache, got.content) == (200, "stale", "old")
        assert len(upstream.calls) >= 2


async def test_a_stale_answer_is_given_when_the_provider_is_gone(cached):
    async with FakeUpstream(reply(chat_answer("old"))) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_if_error="1h")
        await expired(caller)
        await upstream.stop()
        got = await caller.say(stream=True)
        assert (got.status, got.cache) == (200, "stale")
        assert "old" in got.text
        assert got.text.endswith("[DONE]\n\n")
        assert caller.proxy.exchanges[-1].outcome == "answered"


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_it_is_not_given_for_errors_of_the_caller(cached, status):
    async with FakeUpstream(reply(chat_answer("old")), default=reply({"error": {}}, status=status)) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_if_error="1h")
        await expired(caller)
        assert (await caller.say()).status == status


async def test_it_is_not_given_after_its_time(cached):
    async with FakeUpstream(reply(chat_answer("old")), default=reply({"error": {}}, status=500)) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_if_error="30ms")
        await expired(caller)
        await asyncio.sleep(0.03)
        assert (await caller.say()).status == 500


async def test_an_answer_that_comes_is_preferred(cached):
    async with FakeUpstream(reply(chat_answer("old")), reply(chat_answer("new"))) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_if_error="1h")
        await expired(caller)
        assert (await caller.say()).content == "new"


async def test_followers_of_a_failed_flight_get_the_stale_answer_too(cached):
    failing = reply({"error": {}}, status=502, delay=0.05)
    async with FakeUpstream(reply(chat_answer("old")), default=failing) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_if_error="1h")
        await expired(caller)
        got = await asyncio.gather(*(caller.say() for _ in range(6)))
        assert [one.content for one in got] == ["old"] * 6
        assert len(upstream.calls) <= 3


@pytest.mark.parametrize("coalesce", [True, False])
async def test_a_stale_answer_is_given_at_once_and_renewed_once_behind_it(cached, coalesce):
    async with FakeUpstream(reply(chat_answer("old")), reply(chat_answer("new"), delay=0.6)) as upstream:
        caller = await cached(upstream, ttl="1s", stale_while_revalidate="1h", coalesce=coalesce)
        await caller.say()
        await asyncio.sleep(1.01)
        got = await asyncio.gather(*(caller.say() for _ in range(5)))
        assert [(one.cache, one.content) for one in got] == [("stale", "old")] * 5
        await caller.until(lambda: caller.cache.stats()["stored"] == 2)
        fresh = await caller.say()
        assert (fresh.cache, fresh.content) == ("hit", "new")
        assert len(upstream.calls) == 2


async def test_a_revalidation_survives_the_caller_that_started_it(cached):
    async with FakeUpstream(events(*chat_events(["old"])), events(*chat_events(["new"]), held=True)) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_while_revalidate="1h")
        await caller.say(stream=True)
        await asyncio.sleep(0.05)
        assert "old" in (await caller.say(stream=True)).text
        (await upstream.call(1)).release(9)
        await caller.until(lambda: caller.cache.stats()["stored"] == 2)


async def test_a_stale_answer_is_given_while_a_circuit_is_open_and_when_it_takes_too_long(cached):
    slow = reply(chat_answer("late"), delay=2.0)
    async with FakeUpstream(reply(chat_answer("old")), slow, default=reply(chat_answer("new"))) as upstream:
        upstreams = {"up": {"api": "openai", "base_url": upstream.url, "timeouts": {"first_byte": "100ms"}}}
        caller = await cached(
            upstream, ttl="30ms", stale_if_error="1h", below=[{"circuit_breaker": {"fail_max": 1, "reset": "1m"}}],
            more={"upstreams": upstreams},
        )  # fmt: skip
        await expired(caller)
        assert [((got := await caller.say()).cache, got.content) for _ in range(3)] == [("stale", "old")] * 3
        assert len(upstream.calls) == 2  # the second one opened the circuit


async def test_a_stale_answer_is_given_when_no_key_is_left(cached):
    refused = reply({"error": {"code": "invalid_api_key"}}, status=401)
    async with FakeUpstream(reply(chat_answer("old")), default=refused) as upstream:
        more = {
            "upstreams": {"up": {"api": "openai", "base_url": upstream.url, "keys": "pool"}},
            "keys": {"pool": {"keys": [{"id": name, "secret": f"sk-{name}"} for name in "ab"]}},
        }
        caller = await cached(upstream, ttl="30ms", stale_if_error="1h", below=["select_key"], more=more)
        await expired(caller)
        assert ((got := await caller.say()).cache, got.status, got.content) == ("stale", 200, "old")


@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_not_given_for_a_refusal_below(cached, stream):
    """A budget that is used up is no trouble of the provider's."""
    async with FakeUpstream(default=reply(chat_answer("old", model="gpt-4o", usage=(900_000, 900_000)))) as upstream:
        budget = {"budget": {"usd": 1, "window": "day", "max_wait": "0s"}}
        caller = await cached(upstream, ttl="30ms", stale_if_error="1h", below=[budget], above=["account"])
        await expired(caller)
        got = await caller.say(stream=stream)
        assert (got.status, got.cache) == (429, "miss")
        assert got.json["error"]["code"] == "insufficient_quota"
