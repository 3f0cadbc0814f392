"""What a shared call that fails, or is slow, leaves to those who waited: nothing of it is theirs, but the time it took."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest

from proxy.accounting.ledger.batch import CALL_COLUMNS, Batch
from proxy.accounting.segments import read_lines
from proxy.testing import FakeUpstream, chat_answer, chat_events, events, hang, reply

DOWN = reply({"error": {}}, status=500)
BIG = b'{"error":{"message":"' + b"x" * (1 << 21) + b'"}}'
ANSWER = chat_answer("Hi", usage=(100, 10), model="gpt-4o")
SMALL = [{"fallback": {"targets": [{"upstream": "up", "model": "small"}]}}]


def rows(caller):
    directory = caller.proxy.app.snapshot.services.get("accounting").store.journal.directory
    batch = Batch({})
    batch.add([x for n in directory.segments() for x in read_lines(directory.file(n).read_bytes(), "test")])
    return [dict(zip(CALL_COLUMNS, row, strict=True)) for row in batch.rows()]


async def settled(caller):
    snapshot = caller.proxy.app.snapshot
    await caller.until(lambda: not snapshot.flights and not snapshot.in_flight)
    await asyncio.sleep(0.1)


def keys():
    made = [{"id": n, "sha256": hashlib.sha256(f"sk-{n}".encode()).hexdigest(), "principal": n} for n in "abc"]
    return {"authenticate": {"method": "keys", "keys": made}}


async def test_nobody_is_refused_for_another_ones_budget(cached):
    def of(name):
        return {"authorization": f"Bearer sk-{name}"}

    one_call = {"budget": {"per": "principal", "calls": 1, "max_wait": "300ms"}}
    async with FakeUpstream(default=reply(ANSWER, delay=1)) as upstream:
        caller = await cached(upstream, above=[keys()], scope="global", below=[one_call])
        busy = [asyncio.create_task(caller.say(f"busy {name}", headers=of(name))) for name in "ab"]
        await upstream.call(1)
        asked = []
        for name in "abc":
            asked.append(asyncio.create_task(caller.say("question", headers=of(name))))
            await asyncio.sleep(0.05)
        a, _, c = await asyncio.gather(*asked)
        await asyncio.gather(*busy)
        assert a.status == 429
        assert c.status == 200  # his budget is free


async def test_nobody_is_refused_for_another_ones_credential(cached):
    async def step(call):
        said = call.header("authorization")
        error = {"error": {"message": f"Incorrect API key provided: {said[-6:]}", "code": "invalid_api_key"}}
        await (reply(error, status=401, delay=0.2) if "bad" in said else reply(ANSWER))(call)

    async with FakeUpstream(default=step) as upstream:
        caller = await cached(upstream, above=[{"authenticate": {"method": "passthrough"}}], scope="global")
        bad = asyncio.create_task(caller.say(headers={"authorization": "Bearer sk-bad-aaaaaa"}))
        await upstream.call(0)
        good = await caller.say(headers={"authorization": "Bearer sk-good-bbbbbb"})
        assert (await bad).status == 401
        assert good.status == 200, good.text


async def test_a_large_error_lets_one_start_anew(cached):
    async with FakeUpstream(reply(body=BIG, status=503, delay=0.1), default=reply(ANSWER, delay=0.05)) as upstream:
        caller = await cached(upstream)
        got = await asyncio.gather(*(caller.say() for _ in range(4)))
        assert sorted(one.status for one in got) == [200, 200, 200, 503]
        assert len(upstream.calls) == 2


@pytest.mark.parametrize("late", [False, True])
async def test_an_error_in_a_200_is_no_empty_stream(cached, late):
    error = {"error": {"message": "the model is overloaded", "code": "server_error"}}
    below = [{"retry": {"attempts": 1}}] if late else []
    async with FakeUpstream(reply(error, delay=0.2), default=events(*chat_events(["ok"]))) as upstream:
        caller = await cached(upstream, below=below)
        first = asyncio.create_task(caller.say())
        await upstream.call(0)
        got = await caller.say(stream=True)
        await first
        assert "error" in got.text or "ok" in got.text, got.text


@pytest.mark.parametrize("meanwhile", ["cleared", "renewed"])
async def test_an_old_answer_does_not_come_back_after_a_clear_or_over_a_newer_one(cached, meanwhile):
    """A stream was stored; a whole caller is served it after a failure, and what was added up is kept."""
    slow = reply({"error": {}}, status=500, delay=0.3)
    async with FakeUpstream(events(*chat_events(["old"])), slow, default=reply(chat_answer("new"))) as upstream:
        caller = await cached(upstream, ttl="1s", stale_if_error="1h")
        await caller.say(stream=True)
        await caller.until(lambda: caller.cache.stats()["entries"] == 1)
        await asyncio.sleep(1.05)
        waiting = asyncio.create_task(caller.say())
        await upstream.call(1)
        if meanwhile == "cleared":
            await caller.cache.clear()
        else:
            await caller.say(headers={"x-sidecar-cache": "no-cache"})
        await waiting
        if meanwhile == "cleared":
            assert caller.cache.stats()["entries"] == 0
        else:
            assert (await caller.say()).cache == "hit"


async def test_a_read_does_not_take_an_entrys_tags(cached):
    async with FakeUpstream(events(*chat_events(["old"]))) as upstream:
        caller = await cached(upstream)
        await caller.say(stream=True, headers={"x-sidecar-tags": "team=a"})
        await caller.until(lambda: caller.cache.stats()["entries"] == 1)
        assert (await caller.say(headers={"x-sidecar-tags": "team=b"})).cache == "hit"
        assert await caller.cache.clear(tags={"team": "a"}) == 1


async def test_a_follower_saved_what_the_leader_paid(cached):
    async def step(call):
        cheap = chat_answer("x", usage=(1000, 1000), model="cheap")
        await (reply(cheap, delay=0.1) if call.json["model"] == "cheap" else hang())(call)

    hedge = {"hedge": {"after": "50ms", "max_ratio": 1, "target": {"upstream": "up", "model": "cheap"}}}
    prices = {"gpt-4o": {"input": 100, "output": 100}, "cheap": {"input": 1, "output": 1}}
    async with FakeUpstream(default=step) as upstream:
        caller = await cached(upstream, above=["account"], below=[hedge], more={"prices": prices})
        await asyncio.gather(*(caller.say() for _ in range(2)))
        await settled(caller)
        made = rows(caller)
        paid = next(row["cost"] for row in made if row["input"] == 1000)
        assert [row["saved"] for row in made if row["saved"]] == [paid]


async def test_who_starts_anew_has_time_to(cached):
    async with FakeUpstream(hang(), default=reply(ANSWER, delay=0.3)) as upstream:
        more = {"upstreams": {"up": {"api": "openai", "base_url": upstream.url, "timeouts": {"total": "1s"}}}}
        caller = await cached(upstream, more=more)

        async def after(seconds):
            await asyncio.sleep(seconds)
            began = time.monotonic()
            got = await caller.say()
            return got.status, time.monotonic() - began

        _, _, third, fourth = await asyncio.gather(*map(after, (0, 0.1, 0.5, 0.9)))
        for status, took in (third, fourth):
            assert status == 200 or took > 0.9, (status, took)


async def test_an_older_answer_does_not_replace_a_newer_one(cached):
    async with FakeUpstream(reply(chat_answer("old"), delay=0.3), default=reply(chat_answer("new"))) as upstream:
        caller = await cached(upstream)
        first = asyncio.create_task(caller.say())
        await upstream.call(0)
        await caller.say(headers={"x-sidecar-cache": "no-cache"})
        await first
        assert (await caller.say()).content == "new"


async def test_age_is_that_of_the_moment_it_is_given(cached):
    slow = reply({"error": {}}, status=500, delay=2.2)
    async with FakeUpstream(reply(ANSWER), default=slow) as upstream:
        caller = await cached(upstream, ttl="1ms", stale_if_error="1s")
        await caller.say()
        await asyncio.sleep(0.01)
        got = await caller.say()
        assert got.status == 500 or got.headers["age"] == "2"


async def test_what_policies_below_note_of_a_stream_is_seen(cached):
    async with FakeUpstream(DOWN, default=events(*chat_events(["x"]))) as upstream:
        caller = await cached(upstream, below=SMALL)
        await caller.say(stream=True)
        async with caller.session.get(f"{caller.proxy.admin_url}/api/v1/exchanges") as answer:
            [one] = (await answer.json())["recent"]
        assert one["notes"] == ["fallback: from up to up/small: server_error"]


async def test_a_large_chunked_400_is_no_reason_to_be_stale(cached):
    big = reply(body=BIG, status=400, framing="chunked", pieces=8)
    async with FakeUpstream(reply(ANSWER), default=big) as upstream:
        caller = await cached(upstream, ttl="30ms", stale_if_error="1h")
        await caller.say()
        await asyncio.sleep(0.05)
        assert (await caller.say()).cache != "stale"
