"""A caller lends its exchange to its flight, and may leave at any moment without taking it along."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from proxy.below import Below
from proxy.chain import Chain, Step
from proxy.document import Document
from proxy.exchange import Attempt, Target
from proxy.flow import Flow
from proxy.loan import fork, part
from proxy.policy import Policy
from proxy.testing import FakeUpstream, chat_answer, events, exchange_builder, hang, policy_builder, reply

HERE = __name__
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello, this is ann@corp-mail.net"}]}


class Rider:
    def landed(self, exchange):
        """Nothing."""


class Keeps(Policy):
    """Below the split: keeps something for its own, and sees what is there."""

    name = "keeps"
    met: list = []  # noqa: RUF012 - what the test looks at

    def on_request(self, exchange):
        exchange.local[self] = "below"
        self.met.append(exchange)


def test_what_policies_above_keep_goes_with_the_caller_who_leaves():
    mine = exchange_builder(CHAT)
    rider = Rider()
    mine.local.update(vault="originals", rider=rider)
    above = tuple(mine.local)
    mine.local["below"] = "a place in a line"
    mine.attempts.append(Attempt(1, 1, Target("up"), "up", 0.0))
    mine.added_headers.append((b"x-mine", b"1"))
    mine.held_bytes = 9
    mine.outcome = "cancelled"
    caller = part(mine, above)
    assert mine.local == {"rider": rider, "below": "a place in a line"}
    assert caller.local == {"vault": "originals", "rider": rider}
    assert (mine.held_bytes, mine.added_headers, mine.outcome) == (0, [], None)
    assert (caller.held_bytes, caller.added_headers, caller.outcome) == (9, [(b"x-mine", b"1")], "cancelled")
    assert caller.attempts == mine.attempts
    assert caller.attempts is not mine.attempts


class Split(Policy):
    name = "split"
    splits = True


def below_of(exchange):
    return Below(Flow(None, exchange), Chain("made", [Step(policy_builder(Split), closed=True)]))


def test_who_asks_for_a_stream_or_has_been_in_a_flight_does_not_go_on_by_itself():
    assert below_of(exchange_builder(CHAT)).go_on()
    assert not below_of(exchange_builder({**CHAT, "stream": True})).go_on()
    followed = exchange_builder(CHAT)
    followed.flight_of = exchange_builder(CHAT)
    assert not below_of(followed).go_on()


@pytest.mark.parametrize("loan", [True, False])
def test_what_was_received_does_not_go_into_a_flight_once_it_was_edited(loan):
    exchange = exchange_builder(CHAT)
    exchange.tree["messages"] = []
    exchange.body.touch()
    if loan:
        below = below_of(exchange)
        assert below.go_on()
        assert below.join().exchange is exchange
        assert exchange.request.raw_body is None
    else:
        assert fork(exchange, None, alone=False).request.raw_body is None
        other = fork(exchange, Document(b"{}"), alone=False)
        assert other.request.body.encode() == b"{}"
        assert exchange.request.raw_body is not None


@pytest.fixture
async def shared(sidecar, monkeypatch):
    """A proxy whose chain masks, accounts and caches, with ``keeps`` below."""
    import sys

    monkeypatch.setitem(sys.modules, "loan_policies", sys.modules[HERE])
    Keeps.met = []
    sessions = []

    async def start(upstream, **options):
        proxy = await sidecar(
            {
                "upstreams": {"up": {"api": "openai", "base_url": upstream.url, **options}},
                "routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"}],
                "chains": {"main": ["account", {"pii": {"entities": ["EMAIL"], "restore": True}}, "cache",
                                    "loan_policies:Keeps"]},
            }
        )  # fmt: skip
        session = aiohttp.ClientSession()
        sessions.append(session)

        async def post(**fields):
            async with session.post(proxy.base_url + "/chat/completions", json={**CHAT, **fields}) as answer:
                return answer.status, answer.headers.get("x-sidecar-cache"), await answer.text()

        post.proxy = proxy
        post.snapshot = proxy.app.snapshot
        return post

    yield start
    for session in sessions:
        await session.close()


async def two_calls(post):
    """The first is under way, the second joins it."""
    calls = []
    for number in (1, 2):
        calls.append(asyncio.ensure_future(post()))
        await until(lambda number=number: len(post.snapshot.in_flight) == number)
    return calls


async def until(what):
    async with asyncio.timeout(5):
        while not what():
            await asyncio.sleep(0.002)


async def test_a_caller_who_stays_is_the_one_the_work_was_done_with(shared):
    async with FakeUpstream(reply(chat_answer("Hi <EMAIL_1>"))) as upstream:
        post = await shared(upstream)
        status, cache, text = await post()
        assert (status, cache) == (200, "miss")
        assert "ann@corp-mail.net" in text
        [exchange] = post.proxy.exchanges
        assert Keeps.met == [exchange]
        assert (len(exchange.attempts), exchange.outcome, exchange.flight_of) == (1, "answered", None)


async def test_the_first_leaves_while_another_waits(shared):
    async with FakeUpstream(reply(chat_answer("Hi <EMAIL_1>"), delay=0.2)) as upstream:
        post = await shared(upstream)
        first = asyncio.ensure_future(post())
        await upstream.call(0)
        second = asyncio.ensure_future(post())
        await until(lambda: len(post.snapshot.in_flight) == 2)
        first.cancel()
        await until(lambda: post.snapshot.flights)
        # The first call does the work for the second, though nobody waits for it any more.
        assert not post.proxy.exchanges
        status, cache, text = await second
        assert (status, cache) == (200, "coalesced")
        assert "ann@corp-mail.net" in text
        await until(lambda: not post.snapshot.flights and len(post.proxy.exchanges) == 2)
        [mine] = Keeps.met
        gone, other = sorted(post.proxy.exchanges, key=lambda one: one is not mine)
        assert gone is mine
        assert (gone.outcome, gone.cache_status) == ("cancelled", "miss")
        assert other.flight_of is mine
        assert (other.usage, other.saved_usage, len(upstream.calls)) == (None, mine.usage, 1)
        assert post.snapshot.buffered == 0


async def test_both_leave_while_the_first_does_the_work(shared):
    async with FakeUpstream(hang("before_head")) as upstream:
        post = await shared(upstream)
        calls = await two_calls(post)
        call = await upstream.call(0)
        calls[0].cancel()
        await until(lambda: post.snapshot.flights)
        calls[1].cancel()
        left = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            assert await call.disconnected - left < 0.1
        await until(lambda: not post.snapshot.flights and not post.snapshot.in_flight)
        assert [one.outcome for one in post.proxy.exchanges] == ["cancelled"] * 2
        assert post.snapshot.buffered == 0


async def test_the_first_leaves_alone(shared):
    async with FakeUpstream(hang("before_head")) as upstream:
        post = await shared(upstream)
        first = asyncio.ensure_future(post())
        call = await upstream.call(0)
        first.cancel()
        left = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            assert await call.disconnected - left < 0.1
        await until(lambda: not post.snapshot.flights and not post.snapshot.in_flight)
        [gone] = post.proxy.exchanges
        assert gone.outcome == "cancelled"
        assert Keeps.met[0].outcome == "cancelled"
        assert [attempt.outcome for attempt in gone.attempts] == ["cancelled"]
        assert post.snapshot.buffered == 0


@pytest.mark.parametrize("follow", [True, False])
async def test_the_first_leaves_an_answer_that_turned_out_to_be_a_stream(shared, follow):
    """Bytes that nobody reads: asked for whole, and they come piece by piece."""
    async with FakeUpstream(events(b"first", headers={"content-type": "text/plain"}, then="hang")) as upstream:
        post = await shared(upstream)
        session = aiohttp.ClientSession()
        url = post.proxy.base_url + "/chat/completions"
        first = await session.post(url, json=CHAT)
        assert await first.content.readany() == b"first"
        second = await session.post(url, json=CHAT) if follow else None
        first.close()
        call = upstream.calls[0]
        await until(lambda: len(post.proxy.exchanges) == 1)
        [gone] = post.proxy.exchanges
        [mine] = Keeps.met
        assert gone is not mine
        assert gone.outcome == "cancelled"
        if second is not None:
            assert await second.content.readany() == b"first"
            await asyncio.sleep(0.05)
            assert not call.disconnected.done()
            second.close()
        async with asyncio.timeout(5):
            await call.disconnected
        await until(lambda: not post.snapshot.flights)
        assert mine.outcome == "cancelled"
        await session.close()


async def test_drain_cuts_who_waits_and_what_was_lent(shared):
    async with FakeUpstream(hang("before_head")) as upstream:
        post = await shared(upstream)
        calls = [asyncio.ensure_future(post()) for _ in range(2)]
        call = await upstream.call(0)
        await until(lambda: len(post.snapshot.in_flight) == 2)
        listener = post.proxy.app.listener
        assert not await listener.drain(0.05)
        await listener.close()
        async with asyncio.timeout(5):
            await call.disconnected
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: not post.snapshot.flights and not post.snapshot.in_flight)
        assert [one.outcome for one in post.proxy.exchanges] == ["failed"] * 2
        assert [said[0] for said in await asyncio.gather(*calls)] == [503, 503]
        assert post.snapshot.buffered == 0


async def test_a_stop_waits_for_the_end_of_what_a_caller_who_left_still_does(shared):
    async with FakeUpstream(hang("before_head")) as upstream:
        post = await shared(upstream)
        calls = await two_calls(post)
        await upstream.call(0)
        calls[0].cancel()
        await until(lambda: post.snapshot.flights)
        app = post.proxy.app
        await app.listener.close()
        await app.snapshot.stop()
        assert not post.snapshot.flights
        assert not post.snapshot.in_flight
        assert [one.outcome for one in post.proxy.exchanges] == ["failed", "cancelled"]
        calls[1].cancel()
        await asyncio.gather(*calls, return_exceptions=True)
