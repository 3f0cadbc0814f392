"""The work below a split, shared: whole calls through a policy that splits the chain in the simplest way."""

from __future__ import annotations

import asyncio

import pytest

from proxy.policy import Policy
from proxy.testing import FakeUpstream, chat_answer, chat_events, events, hang, reply

HERE = __name__


class Split(Policy):
    """Everybody shares the one flight there is."""

    name = "split"
    splits = True
    needs_usage = True
    flights: list = []  # noqa: RUF012 - what the test looks at
    riders: list = []  # noqa: RUF012 - of who started them
    how: dict = {}  # noqa: RUF012

    async def on_flight(self, exchange, below):
        exchange.local["rider"] = rider = Rider()
        if not self.flights or not self.flights[-1].joinable:
            self.flights.append(below.start(**self.how))
            self.riders.append(rider)
        return await self.flights[-1].join(exchange)


class Rider:
    def __init__(self):
        self.told = []

    def landed(self, exchange):
        self.told.append(exchange)


class Watch(Policy):
    """Stands below the split and counts how its phases were called."""

    name = "watch"
    seen: list = []  # noqa: RUF012

    async def on_request(self, exchange):
        self.seen.append("request")

    async def on_attempt(self, exchange, attempt):
        self.seen.append("attempt")

    async def on_attempt_end(self, exchange, attempt):
        self.seen.append(f"end {attempt.outcome}")

    async def on_settle(self, exchange):
        self.seen.append("settle")

    async def on_done(self, exchange):
        self.seen.append(f"done {exchange.outcome}")


@pytest.fixture
async def flying(posting, monkeypatch):
    """A proxy whose chain is [split, watch]; gives ``post``."""
    import sys

    monkeypatch.setitem(sys.modules, "flight_policies", sys.modules[HERE])
    Split.flights, Split.riders, Split.how, Watch.seen = [], [], {}, []
    return lambda upstream: posting(upstream, ["flight_policies:Split", "flight_policies:Watch"])


async def until(what):
    async with asyncio.timeout(5):
        while not what():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize(("step", "fields"), [
    (reply(chat_answer("Hi"), delay=0.05), {}),
    (events(*chat_events(["Hi"]), gap=0.01), {"stream": True}),
])  # fmt: skip
async def test_the_policies_below_see_one_call_however_many_wait(flying, step, fields):
    async with FakeUpstream(step) as upstream:
        post = await flying(upstream)
        got = await asyncio.gather(*(post(**fields) for _ in range(5)))
        assert len(set(got)) == 1
        assert got[0][0] == 200
        await until(lambda: Watch.seen[-1].startswith("done"))
        assert Watch.seen == ["request", "attempt", "end answered", "settle", "done answered"]
        [flight] = Split.flights
        assert Split.riders[0].told == [flight.exchange]
        assert not post.proxy.app.snapshot.flights


async def test_the_last_who_leaves_ends_every_phase_once(flying):
    async with FakeUpstream(hang("before_head")) as upstream:
        post = await flying(upstream)
        calls = [asyncio.ensure_future(post()) for _ in range(3)]
        call = await upstream.call(0)
        await until(lambda: Split.flights[0].subscribers == 3)
        for one in calls[:2]:
            one.cancel()
        await asyncio.sleep(0.05)
        assert not call.disconnected.done()
        calls[2].cancel()
        left = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            assert await call.disconnected - left < 0.1
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: Watch.seen[-1].startswith("done"))
        assert Watch.seen == ["request", "attempt", "end cancelled", "settle", "done cancelled"]
        assert not Split.flights[0].joinable


async def test_a_refusal_below_is_an_answer_for_everybody(flying, monkeypatch):
    from proxy.errors import ProxyError

    async def refuse(self, exchange):
        await asyncio.sleep(0.05)
        raise ProxyError("policy_refused", "not today")

    monkeypatch.setattr(Watch, "on_request", refuse)
    async with FakeUpstream() as upstream:
        post = await flying(upstream)
        got = await asyncio.gather(post(), post())
        assert [status for status, _ in got] == [403, 403]
        assert "not today" in got[1][1]


async def test_a_stage_that_refuses_to_open_is_a_refusal_and_not_a_stream(flying, monkeypatch):
    from proxy.errors import ProxyError

    def refuse(self, exchange, answer):
        raise ProxyError("policy_refused", "no streams today")

    monkeypatch.setattr(Watch, "open_stream", refuse)
    async with FakeUpstream(events(*chat_events(["Hi"]))) as upstream:
        post = await flying(upstream)
        status, text = await post(stream=True)
        assert (status, "no streams today" in text) == (403, True)
        await until(lambda: Watch.seen[-1].startswith("done"))
        assert Watch.seen == ["request", "attempt", "end stopped", "settle", "done refused"]


async def test_a_flight_with_a_deadline_needs_nobody_and_ends_by_itself(flying):
    async with FakeUpstream(hang("before_head"), reply(chat_answer("Hi"))) as upstream:
        post = await flying(upstream)
        Split.how = {"deadline": 0.1}
        calling = asyncio.ensure_future(post())
        call = await upstream.call(0)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        begun = call.arrived_at
        async with asyncio.timeout(5):
            assert 0.05 < await call.disconnected - begun < 0.5
        [flight] = Split.flights
        await until(lambda: Split.riders[0].told)
        assert flight.over


async def test_a_body_of_its_own_is_sent_and_the_callers_stays(flying):
    from proxy.document import Document

    async with FakeUpstream(reply(chat_answer("Hi"))) as upstream:
        post = await flying(upstream)
        Split.how = {"body": Document.of({"model": "other", "messages": []})}
        await post()
        assert upstream.calls[0].json == {"model": "other", "messages": []}
        [exchange] = post.proxy.exchanges
        assert exchange.tree["model"] == "m"


async def test_what_it_cost_is_the_starters(flying):
    async with FakeUpstream(reply(chat_answer("Hi", usage=(9, 3)), delay=0.05)) as upstream:
        post = await flying(upstream)
        await asyncio.gather(post(), post())
        [flight] = Split.flights
        starter = next(one for one in post.proxy.exchanges if one is flight.starter)
        other = next(one for one in post.proxy.exchanges if one is not flight.starter)
        assert starter.attempts == flight.exchange.attempts
        assert other.attempts == []
        assert (starter.usage.input, starter.saved_usage) == (9, None)
        assert (other.usage, other.saved_usage.input) == (None, 9)
        assert other.flight_of is flight.exchange
        assert other.served_by is starter.served_by
