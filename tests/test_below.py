"""A call that goes on by itself through a split, and what becomes of it and of those who join it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from proxy.errors import ProxyError
from proxy.policy import Policy
from proxy.testing import FakeUpstream, chat_answer, events, hang, reply

HERE = __name__


class Split(Policy):
    """The first goes on, the others join it as long as they can."""

    name = "split"
    splits = True
    needs_usage = True
    running: Any = None
    breaks = ""
    landed: list = []  # noqa: RUF012 - what the test looks at

    def on_flight(self, exchange, below):
        running = type(self).running
        if running is not None and running.joinable:
            return running.join().join(exchange)
        type(self).running = below
        assert below.go_on()
        if self.breaks == "on_flight":
            raise RuntimeError("a bug")
        return None

    def on_landing(self, exchange, answer):
        self.landed.append(None if answer is None else answer.status)
        if answer is None:
            return
        if self.breaks == "on_landing":
            raise RuntimeError("a bug")
        self.running.land(answer)


class Watch(Policy):
    """Counts how its phases were called. Stands above and below."""

    name = "watch"
    seen: list = []  # noqa: RUF012
    refuses = False

    def on_request(self, exchange):
        self.seen.append(f"{self.label} request")

    def on_attempt(self, exchange, attempt):
        self.seen.append(f"{self.label} attempt")

    def on_attempt_end(self, exchange, attempt):
        self.seen.append(f"{self.label} end {attempt.outcome}")

    def on_response(self, exchange, answer):
        self.seen.append(f"{self.label} response {answer.status}")
        if self.refuses and self.label == "lower":
            raise ProxyError("policy_refused", "not today")

    def on_settle(self, exchange):
        self.seen.append(f"{self.label} settle {exchange.outcome}")

    def on_done(self, exchange):
        self.seen.append(f"{self.label} done")


@pytest.fixture
async def split(posting, monkeypatch):
    """A proxy whose chain is [upper, split, lower]; gives ``post``."""
    monkeypatch.setitem(sys.modules, "below_policies", sys.modules[HERE])
    Split.running, Split.breaks, Split.landed, Watch.seen, Watch.refuses = None, "", [], [], False
    upper, lower = ({"below_policies:Watch": {"name": name}} for name in ("upper", "lower"))
    return lambda upstream: posting(upstream, [upper, "below_policies:Split", lower])


async def until(what):
    async with asyncio.timeout(5):
        while not what():
            await asyncio.sleep(0.002)


async def together(post, upstream, count):
    """The first is at the upstream, the others wait for it."""
    calls = [asyncio.ensure_future(post())]
    await upstream.call(0)
    calls += [asyncio.ensure_future(post()) for _ in range(count - 1)]
    await until(lambda: len(post.snapshot.in_flight) == count)
    return calls


async def test_a_call_alone_goes_down_and_up_as_if_nothing_split_its_chain(split):
    async with FakeUpstream(reply(chat_answer("Hi"))) as upstream:
        post = await split(upstream)
        status, text = await post()
        assert (status, "Hi" in text) == (200, True)
        await until(lambda: post.proxy.exchanges)
    assert Watch.seen == [
        "upper request",
        "lower request",
        "lower attempt",
        "lower end answered",
        "lower response 200",
        "upper response 200",
        "lower settle answered",
        "upper settle answered",
        "lower done",
        "upper done",
    ]
    assert Split.landed == [200]
    assert Split.running.flight is None


async def test_those_who_join_get_its_answer_and_only_it_is_worked_for(split):
    async with FakeUpstream(reply(chat_answer("Hi"), delay=0.1)) as upstream:
        post = await split(upstream)
        got = await asyncio.gather(*await together(post, upstream, 4))
        assert {status for status, _ in got} == {200}
        assert len(upstream.calls) == 1
        await until(lambda: len(post.proxy.exchanges) == 4)
        [worked] = [one for one in post.proxy.exchanges if one.attempts and one.flight_of is None]
        assert all(one.saved_usage is worked.usage for one in post.proxy.exchanges if one is not worked)
    assert [what for what in Watch.seen if what.startswith("lower")] == [
        "lower request",
        "lower attempt",
        "lower end answered",
        "lower response 200",
        "lower settle answered",
        "lower done",
    ]
    assert Split.landed == [200]


async def test_an_error_of_the_provider_and_a_refusal_on_the_way_up_reach_all(split):
    async with FakeUpstream(reply(chat_answer("Hi"), delay=0.1)) as upstream:
        post = await split(upstream)
        Watch.refuses = True
        got = await asyncio.gather(*await together(post, upstream, 3))
    assert [status for status, _ in got] == [403] * 3
    assert all("not today" in text for _, text in got)
    assert Split.landed == [403]


async def test_an_upstream_that_is_gone_is_an_answer_to_all(split):
    async with FakeUpstream(hang("before_head")) as upstream:
        post = await split(upstream)
        calls = await together(post, upstream, 3)
        upstream.calls[0].reset()
        got = await asyncio.gather(*calls)
    assert [status for status, _ in got] == [502] * 3
    assert Split.landed == [502]


@pytest.mark.parametrize("where", ["on_flight", "on_landing"])
async def test_a_splitting_policy_that_breaks_keeps_nobody_waiting(split, where):
    async with FakeUpstream(reply(chat_answer("Hi"), delay=0.1)) as upstream:
        post = await split(upstream)
        Split.breaks = where
        calls = await together(post, upstream, 3)
        async with asyncio.timeout(5):
            got = await asyncio.gather(*calls)
        assert got[0][0] == 200
        # Where it broke before it handed the answer over, the others are told so.
        assert {status for status, _ in got[1:]} == {200 if where == "on_flight" else 500}
        await until(lambda: len(post.proxy.exchanges) == 3)
        assert not post.snapshot.flights


async def test_who_leaves_alone_cancels_and_the_next_one_does_not_join_it(split):
    async with FakeUpstream(hang("before_head"), reply(chat_answer("Hi"))) as upstream:
        post = await split(upstream)
        [call] = await together(post, upstream, 1)
        before = Split.running
        call.cancel()
        async with asyncio.timeout(5):
            await upstream.calls[0].disconnected
        assert not before.joinable
        assert (await post())[0] == 200
    assert Split.landed == [None, 200]
    assert "lower end cancelled" in Watch.seen


async def test_bytes_that_nobody_reads_become_a_flight_of_which_each_gets_all(split):
    async with FakeUpstream(events(b"first", b"second", headers={"content-type": "text/plain"}, gap=0.1)) as upstream:
        post = await split(upstream)
        got = await asyncio.gather(*await together(post, upstream, 3))
        assert {status for status, _ in got} == {200}
        assert len({text for _, text in got}) == 1
        assert len(upstream.calls) == 1
        await until(lambda: not post.snapshot.flights)
    assert Split.landed == []
