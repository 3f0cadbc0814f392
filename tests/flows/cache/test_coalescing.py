"""Identical calls in flight: one request upstream, and every way for those who share it to end."""

from __future__ import annotations

import asyncio

import pytest

from proxy.testing import FakeUpstream, chat_answer, chat_events, close, collect_sse, events, hang, reply


class Stream:
    """A streamed call that is read by hand."""

    def __init__(self, caller, text: str = "Hello", **fields):
        self.body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], "stream": True, **fields}
        self.caller = caller
        self.got = b""

    async def open(self):
        self.answer = await self.caller.session.post(self.caller.proxy.base_url + "/chat/completions", json=self.body)
        self.caller.opened.append(self.answer)
        return self

    async def until(self, what: bytes) -> None:
        async with asyncio.timeout(5):
            while what not in self.got:
                piece = await self.answer.content.readany()
                assert piece, f"the stream ended without {what!r}"
                self.got += piece

    async def rest(self) -> bytes:
        self.got += await self.answer.content.read()
        return self.got

    def leave(self) -> None:
        self.answer.close()


def held(*pieces: str):
    return events(*chat_events(list(pieces)), held=True)


async def test_identical_calls_in_flight_share_one_request(cached):
    async with FakeUpstream(reply(chat_answer("Hi"), delay=0.1)) as upstream:
        caller = await cached(upstream)
        got = await asyncio.gather(*(caller.say() for _ in range(20)))
        assert sorted(one.cache for one in got) == ["coalesced"] * 19 + ["miss"]
        assert {one.text for one in got} == {got[0].text}
        assert len(upstream.calls) == 1
        assert sum(exchange.usage is not None for exchange in caller.proxy.exchanges) >= 1


async def test_coalescing_can_be_turned_off(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"), delay=0.05)) as upstream:
        caller = await cached(upstream, coalesce=False)
        got = await asyncio.gather(*(caller.say() for _ in range(3)))
        assert [one.cache for one in got] == ["miss"] * 3
        assert len(upstream.calls) == 3


async def test_a_follower_gets_a_stream_from_its_start(cached):
    async with FakeUpstream(held("one", "two", "three")) as upstream:
        caller = await cached(upstream)
        leader = asyncio.ensure_future(Stream(caller).open())
        call = await upstream.call(0)
        call.release(3)
        leader = await leader
        await leader.until(b"two")
        follower = await Stream(caller).open()
        assert follower.answer.headers["x-sidecar-cache"] == "coalesced"
        await follower.until(b"two")
        call.release(9)
        assert await leader.rest() == await follower.rest()
        assert leader.got.endswith(b"[DONE]\n\n")
        assert len(upstream.calls) == 1
        await caller.until(lambda: caller.cache.stats()["entries"] == 1)


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_one_who_leaves_does_no_harm_to_the_other(cached, who):
    async with FakeUpstream(held("one", "two", "three")) as upstream:
        caller = await cached(upstream)
        opening = asyncio.ensure_future(Stream(caller).open())
        call = await upstream.call(0)
        call.release(2)
        leader = await opening
        follower = await Stream(caller).open()
        await follower.until(b"one")
        gone, left = (leader, follower) if who == "leader" else (follower, leader)
        gone.leave()
        await caller.until(lambda: len(caller.proxy.exchanges) == 1)
        call.release(9)
        assert (await left.rest()).endswith(b"[DONE]\n\n")
        assert not call.disconnected.done()
        await caller.until(lambda: caller.cache.stats()["entries"] == 1)


async def test_the_last_one_who_leaves_cancels_the_upstream_within_100_ms(cached):
    async with FakeUpstream(held("one", "two", "three")) as upstream:
        caller = await cached(upstream)
        opening = asyncio.ensure_future(Stream(caller).open())
        call = await upstream.call(0)
        call.release(2)
        both = [await opening, await Stream(caller).open()]
        await both[1].until(b"one")
        both[0].leave()
        both[1].leave()
        left = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            assert await call.disconnected - left < 0.1
        assert caller.cache.stats()["in_flight"] == 0


async def test_whole_callers_who_all_leave_cancel_the_upstream_within_100_ms(cached):
    async with FakeUpstream(hang("before_head")) as upstream:
        caller = await cached(upstream)
        both = [asyncio.ensure_future(caller.say()) for _ in range(2)]
        call = await upstream.call(0)
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        for one in both:
            one.cancel()
        left = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            assert await call.disconnected - left < 0.1
        await asyncio.gather(*both, return_exceptions=True)


async def test_a_failed_flight_lets_one_of_those_who_waited_start_anew(cached):
    async with FakeUpstream(
        reply({"error": {}}, status=503, delay=0.1), reply(chat_answer("Hi"), delay=0.05)
    ) as upstream:
        caller = await cached(upstream)
        got = await asyncio.gather(*(caller.say() for _ in range(10)))
        assert sorted(one.status for one in got) == [200] * 9 + [503]
        assert len(upstream.calls) == 2


async def test_who_starts_anew_asks_for_what_he_asked_and_not_for_what_failed_last(cached):
    fallback = [{"fallback": {"targets": [{"upstream": "up", "model": "gpt-small"}]}}]
    failed = {"error": {}}
    async with FakeUpstream(
        reply(failed, status=500), reply(failed, status=500, delay=0.1), default=reply(chat_answer("Hi"))
    ) as upstream:
        caller = await cached(upstream, above=["account"], below=fallback)
        got = await asyncio.gather(*(caller.say() for _ in range(2)))
        assert sorted(one.status for one in got) == [200, 500]
        assert [call.json["model"] for call in upstream.calls] == ["gpt-4o", "gpt-small", "gpt-4o"]
        assert (await caller.say()).cache == "hit"
        await caller.until(lambda: len(caller.proxy.exchanges) == 3)
        paid = next(one for one in caller.proxy.exchanges if one.usage is not None and not one.usage.estimated)
        assert (paid.usage.input, paid.saved_usage, paid.error) == (9, None, None)


async def test_when_it_fails_again_all_get_the_error(cached):
    async with FakeUpstream(default=reply({"error": {"message": "down"}}, status=503, delay=0.05)) as upstream:
        caller = await cached(upstream)
        got = await asyncio.gather(*(caller.say() for _ in range(10)))
        assert [one.status for one in got] == [503] * 10
        assert len(upstream.calls) == 2


async def test_a_connection_that_fails_lets_one_start_anew(cached):
    async with FakeUpstream(close("before_head"), close("before_head"), reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        got = await asyncio.gather(*(caller.say() for _ in range(5)))
        assert all(one.status in (200, 502) for one in got)
        assert len(upstream.calls) <= 3


async def test_an_error_of_the_client_is_shared_and_not_asked_again(cached):
    async with FakeUpstream(reply({"error": {"message": "bad"}}, status=400, delay=0.1)) as upstream:
        caller = await cached(upstream)
        got = await asyncio.gather(*(caller.say() for _ in range(5)))
        assert [one.status for one in got] == [400] * 5
        assert len(upstream.calls) == 1


async def test_a_stream_that_breaks_ends_loudly_for_all(cached):
    step = events(*chat_events(["one"], finish=None, done=False), held=True, then="close")
    async with FakeUpstream(step) as upstream:
        caller = await cached(upstream)
        opening = asyncio.ensure_future(Stream(caller).open())
        call = await upstream.call(0)
        call.release(1)
        both = [await opening, await Stream(caller).open()]
        call.release(9)
        for one in both:
            last = (await one.rest()).strip().rsplit(b"\n\n", 1)[-1]
            assert last.startswith(b'data: {"error":')
            assert b"[DONE]" not in one.got


@pytest.mark.parametrize("above", [["account"], []], ids=["read above the cache", "nobody reads it above"])
async def test_a_policy_below_that_stops_the_stream_tells_every_caller_why(cached, above):
    budget = {"budget": {"tokens": 200, "assume_output": 20, "stop_stream": True}}
    async with FakeUpstream(events(*chat_events(["word "] * 400), held=True)) as upstream:
        caller = await cached(upstream, above=above, below=[budget])
        opening = asyncio.ensure_future(Stream(caller).open())
        call = await upstream.call(0)
        call.release(20)
        both = [await opening, await Stream(caller).open()]
        call.release(400)
        for one in both:
            *_, finish, error = collect_sse(await one.rest())
            assert finish["choices"][0]["finish_reason"] == "length"
            assert error["error"]["code"] == "insufficient_quota"
            assert "stop_stream" in error["error"]["message"]
        await caller.until(lambda: len(caller.proxy.exchanges) == 2)
        assert [exchange.outcome for exchange in caller.proxy.exchanges] == ["refused"] * 2
        assert caller.cache.stats()["entries"] == 0


async def test_a_slow_follower_does_not_slow_the_leader(cached):
    big = "x" * 60_000
    step = events(*chat_events([big] * 60))
    async with FakeUpstream(step) as upstream:
        caller = await cached(upstream)
        leader, slow = await asyncio.gather(Stream(caller).open(), Stream(caller).open())
        async with asyncio.timeout(10):
            assert (await leader.rest()).endswith(b"[DONE]\n\n")
        assert (await slow.rest()).endswith(b"[DONE]\n\n")
        assert len(upstream.calls) == 1


async def test_a_follower_that_lags_by_more_than_is_kept_is_ended_loudly(cached):
    big = "x" * 100_000
    async with FakeUpstream(events(*chat_events([big] * 300))) as upstream:
        caller = await cached(upstream)
        leader, slow = await asyncio.gather(Stream(caller).open(), Stream(caller).open())
        async with asyncio.timeout(20):
            assert (await leader.rest()).endswith(b"[DONE]\n\n")
        last = collect_sse(await slow.rest())[-1]
        assert last["error"]["code"] == "overloaded"
        assert "fell more than 4 MiB behind" in last["error"]["message"]
        assert caller.cache.stats()["entries"] == 0


async def test_no_store_neither_stores_nor_lets_others_join(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"), delay=0.05)) as upstream:
        caller = await cached(upstream)
        alone = {"x-sidecar-cache": "no-store"}
        got = await asyncio.gather(*(caller.say(headers=alone) for _ in range(3)))
        assert [one.cache for one in got] == ["miss"] * 3
        assert len(upstream.calls) == 3
        assert caller.cache.stats()["entries"] == 0
