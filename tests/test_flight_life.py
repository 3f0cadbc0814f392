"""Flights by themselves: callers that join and leave, and work that ends, in a thousand random orders.

The work below the split is a policy that does what the test says, so that every order of events is possible and none
depends on a clock: each step is one turn of the loop, or several events in the same turn.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from random import Random
from typing import Any

import pytest

from proxy.accounting.usage import Usage
from proxy.below import Below
from proxy.chain import refuse
from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.flight import Flight
from proxy.flow import Flow, outcome_of
from proxy.lifecycle import _close
from proxy.policy import Policy, called
from proxy.testing import FakeUpstream, chat_answer, exchange_builder

HERE = __name__
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"%d"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream")]


ENDINGS = ["well", "refused", "broken", "cut"]


class Split(Policy):
    """Who asks for a stream starts a flight, who does not goes on by itself."""

    name = "split"
    splits = True
    needs_usage = True

    def on_flight(self, exchange: Any, below: Below) -> Any:
        play = exchange.local["play"]
        play.below = below
        if exchange.streaming:
            flight = below.start(landed=play.note)
            flight.exchange.local["work"] = play.job
            return flight.join(exchange)
        below.go_on()
        exchange.local["work"] = play.job
        return None

    def on_landing(self, exchange: Any, answer: Answer | None) -> None:
        play = exchange.local["play"]
        play.brought.append(None if answer is None or answer.body is None else answer.body.encode())
        if answer is not None:
            play.below.land(answer)

    def on_parting(self, exchange: Any) -> Any:
        return exchange.local["play"].note


class Watch(Policy):
    """Stands below the split and counts how its phases were called. Some of them wait, some do not."""

    name = "watch"

    def on_request(self, exchange: Any) -> None:
        exchange.local["work"].entered += 1

    def on_response(self, exchange: Any, answer: Answer) -> Any:
        return exchange.local["work"].pause()

    def on_settle(self, exchange: Any) -> Any:
        work = exchange.local["work"]
        work.settled += 1
        return work.pause()

    def on_done(self, exchange: Any) -> Any:
        work = exchange.local["work"]
        work.done += 1
        work.outcome = exchange.outcome
        return work.pause()


class Work(Policy):
    """Stands below all: answers when the test says so."""

    name = "work"

    async def on_request(self, exchange: Any) -> Answer:
        work = exchange.local["work"]
        work.began = True
        try:
            answer: Answer = await work.answer
        except asyncio.CancelledError:
            work.cancelled = True
            raise
        exchange.usage = Usage(input=9, output=3)
        return answer


class Job:
    """What one flight's work is told, and what became of it. Goes along as a rider."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.entered = self.settled = self.done = 0
        self.began = self.cancelled = False
        self.outcome: str | None = None
        self.told: list[Any] = []

    def landed(self, exchange: Any) -> None:
        self.told.append(exchange)

    def pause(self) -> Any:
        """Some phases wait, some do not."""
        return asyncio.sleep(0) if self.random.random() < 0.3 else None


class Hand:
    """A source that is fed by hand."""

    def __init__(self) -> None:
        self.sink: Any = None
        self.aborted = False

    def start(self, sink: Any) -> None:
        self.sink = sink

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True
        self.sink = None

    def feed(self, data: bytes) -> None:
        if self.sink is not None:
            self.sink.feed(data)


class Caller:
    """One who reads what comes, and may leave at any moment."""

    def __init__(self, exchange: Any) -> None:
        self.exchange = exchange
        self.data = b""
        self.ended = False
        self.error: BaseException | None = None
        self.source: Any = None
        self.late = False
        self.over = asyncio.Event()
        self.task: asyncio.Task[None]

    async def receive(self, answer: Answer) -> None:
        if answer.source is not None:
            self.source = answer.source
            answer.source.start(self)
            await self.over.wait()
            return
        assert all(name != b"private" for name, _ in answer.headers)
        self.data = answer.raw if answer.body is None else answer.body.encode()
        self.ended = True
        # Its owner edits it: nobody else may ever see that.
        if answer.body is not None:
            answer.body.replace({"private": self.exchange.id})
        answer.headers.append((b"private", self.exchange.id.encode()))

    def feed(self, data: bytes) -> None:
        self.data += data

    def finish(self) -> None:
        self.ended = True
        self.over.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.over.set()

    def leave(self) -> None:
        if self.source is not None:
            self.source.abort()
        self.task.cancel()


class Follower(Caller):
    """One who joins what another does."""

    def __init__(self, exchange: Any, below: Below) -> None:
        super().__init__(exchange)
        self.task = asyncio.ensure_future(self.run(below))

    async def run(self, below: Below) -> None:
        if not below.joinable:
            self.late = True
            return
        try:
            await self.receive(await below.join().join(self.exchange))
        except ProxyError as error:
            self.error = error


class Starter(Caller):
    """The first, with a call as ``proxy.lifecycle`` makes it."""

    def __init__(self, exchange: Any, snapshot: Any) -> None:
        super().__init__(exchange)
        self.flow = Flow(snapshot, exchange)
        self.chain = snapshot.chains["main"]
        self.task = asyncio.ensure_future(self.run())

    async def run(self) -> None:
        flow, exchange = self.flow, self.exchange
        try:
            try:
                answer = await flow.down(self.chain)
            except ProxyError as error:
                answer = refuse(exchange, error)
            if answer.source is None:
                answer = await called(flow.up_whole(answer))
                exchange.outcome = outcome_of(answer)
                await called(flow.settle())
            if answer.error is not None and answer.error.code == "internal_error":
                self.error = answer.error
            else:
                await self.receive(answer)
        except asyncio.CancelledError:
            exchange.outcome = "cancelled"
            raise
        except Exception:
            self.error = ProxyError("internal_error", "The proxy failed.")
        finally:
            await called(_close(flow))

    def leave(self) -> None:
        if self.source is not None:
            self.source.abort()
        if not self.flow.left(self.task):
            self.task.cancel()


@pytest.fixture
async def snapshot(sidecar, monkeypatch):
    monkeypatch.setitem(sys.modules, "life_policies", sys.modules[HERE])
    async with FakeUpstream() as upstream:
        proxy = await sidecar(
            {
                "upstreams": {"up": {"api": "openai", "base_url": upstream.url}},
                "routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"}],
                "chains": {"main": ["life_policies:Split", "life_policies:Watch", "life_policies:Work"]},
            }
        )
        yield proxy.app.snapshot


class Play:
    """One flight from start to end, in an order that ``random`` decides."""

    def __init__(self, snapshot: Any, random: Random) -> None:
        self.snapshot = snapshot
        self.random = random
        self.streams = random.random() < 0.5
        self.job = Job(random)
        self.hand = Hand()
        self.brought: list[Any] = []
        self.callers: list[Caller] = []
        self.left: list[Caller] = []
        self.pieces = 0
        self.moves = [self.work] * 3 + [self.join] * random.randrange(1, 4) + [self.leave] * random.randrange(3)
        self.ending = random.choice(ENDINGS)
        self.answered = False
        self.over = False
        # Who did not ask for a stream goes on by itself, and lends its exchange when one comes.
        asked = self.streams and random.random() < 0.6
        starter = exchange_builder({"model": "m", "messages": [], "stream": asked}, id="starter")
        assert starter.streaming is asked
        starter.local["job"] = self.job
        starter.local["play"] = self
        starter.chain_name = "main"
        self.starter = starter
        self.below: Any = None
        self.callers.append(Starter(starter, snapshot))

    @classmethod
    async def begin(cls, snapshot: Any, random: Random) -> Play:
        """With its starter at work."""
        play = cls(snapshot, random)
        await asyncio.sleep(0)
        return play

    @property
    def flight(self) -> Flight | None:
        """What others share, if there is anything to share."""
        flight: Flight | None = self.below.flight
        return flight

    @property
    def ended(self) -> bool:
        """Whether the work is over."""
        flight = self.flight
        return bool(self.brought) if flight is None else flight.over and flight not in self.snapshot.flights

    async def landing(self) -> None:
        """Until the work has ended."""
        async with asyncio.timeout(5):
            while not self.ended:
                await asyncio.sleep(0)

    def note(self, flight: Flight) -> None:
        answer = flight.answer
        self.brought.append(None if answer is None or answer.body is None else answer.body.encode())

    def join(self) -> None:
        if not self.brought and self.below.joinable:
            exchange = exchange_builder({"model": "m", "messages": []}, id=f"follower-{len(self.callers)}")
            self.callers.append(Follower(exchange, self.below))

    def leave(self) -> None:
        gone = {*self.left, *(one for one in self.callers if one.late or one.ended or one.error is not None)}
        here = [one for one in self.callers if one not in gone]
        if here:
            one = self.random.choice(here)
            one.leave()
            self.left.append(one)

    def work(self) -> None:
        """One more step of the work."""
        if self.over or (self.job.answer.done() and not self.answered):
            return
        if not self.answered:
            if not self.job.began:
                return
            self.answered = True
            if self.ending == "refused":
                self.over = True
                self.job.answer.set_exception(ProxyError("policy_refused", "not today", policy="work"))
            elif self.ending == "broken":
                self.over = True
                self.job.answer.set_exception(RuntimeError("a bug"))
            elif self.streams:
                self.job.answer.set_result(Answer(200, list(EVENTS), origin="upstream", source=self.hand, events=True))
            else:
                self.over = True
                body = Document.of(chat_answer("Hi"))
                self.job.answer.set_result(Answer(200, list(JSON), origin="upstream", body=body))
        elif self.hand.sink is None:
            return
        elif self.pieces < 3:
            self.pieces += 1
            self.hand.feed(CHUNK % self.pieces)
        else:
            self.over = True
            if self.ending == "cut":
                self.hand.sink.fail(ConnectionError("gone"))
            else:
                self.hand.feed(LAST)
                if self.hand.sink is not None:
                    self.hand.sink.finish()

    async def run(self) -> None:
        for _ in range(60):
            for _ in range(self.random.choice([1, 1, 1, 2, 3])):
                self.random.choice(self.moves)()
            if self.random.random() < 0.8:
                await asyncio.sleep(0)
        while not self.over and not self.ended:
            self.work()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await asyncio.wait([one.task for one in self.callers])
        await self.landing()
        for _ in range(5):
            await asyncio.sleep(0)

    def check(self) -> int:
        """How many stayed to the end; all of them got what was due."""
        job, flight = self.job, self.flight
        worked_with = self.starter if flight is None else flight.exchange
        stayed = [one for one in self.callers if one not in self.left and not one.late]
        assert (job.entered, job.settled, job.done) == (1, 1, 1)
        apart = flight is not None and (flight.exchange is not self.starter or flight.fan is not None)
        # Who did the work itself ends after it and need not be told.
        assert job.told == ([worked_with] if apart else [])
        assert len(self.brought) == 1
        assert flight is None or (flight.over and not flight.joinable)
        assert not self.snapshot.flights
        for one in self.callers:
            assert one.task.done()
        if not stayed:
            return 0  # the work was cancelled, or ended in the very moment in which the last one left
        assert not job.cancelled
        whole = b"".join([CHUNK % number for number in (1, 2, 3)]) + LAST
        for one in stayed:
            if self.ending == "refused":
                assert b"not today" in one.data
            elif self.ending == "broken":
                assert isinstance(one.error, ProxyError)
                assert one.error.code == "internal_error"
            elif not self.streams:
                assert one.data == self.brought[0] != b""
                assert b"private" not in one.data
                assert one.exchange.flight_of is (None if one.exchange is worked_with else worked_with)
            elif self.ending == "cut":
                assert one.error is not None
                assert one.data.startswith(CHUNK % 1)
                assert not one.ended
            else:
                assert (one.data, one.ended, one.error) == (whole, True, None)
        if self.ending in ("well", "cut"):
            others = [one.exchange for one in stayed if one.exchange is not self.starter]
            assert all(exchange.saved_usage.output == 3 and exchange.usage is None for exchange in others)
            assert self.starter.usage.output == 3
            assert self.starter.saved_usage is None
        return len(stayed)


@pytest.mark.parametrize("block", range(8))
async def test_whatever_the_order_everybody_gets_what_is_due(snapshot, block):
    stayed: Counter[tuple[str, bool]] = Counter()
    for seed in range(block * 150, block * 150 + 150):
        play = await Play.begin(snapshot, Random(seed))
        await play.run()
        try:
            stayed[play.ending, play.streams] += play.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {play.ending}, streams {play.streams}") from error
    assert all(stayed[ending, streams] > 5 for ending in ENDINGS for streams in (True, False)), stayed


async def test_the_last_who_leaves_ends_the_work_at_once(snapshot):
    for seed in range(200):
        play = await Play.begin(snapshot, Random(seed))
        play.ending = "well"
        for _ in range(play.random.randrange(4)):
            play.join()
        await asyncio.sleep(0)
        if play.streams and play.random.random() < 0.5:
            play.work()
            play.work()
            await asyncio.sleep(0)
        for one in list(play.callers):
            one.leave()
            if play.random.random() < 0.5:
                await asyncio.sleep(0)
        for _ in range(6):
            await asyncio.sleep(0)
        assert play.ended, seed
        assert (play.job.outcome, play.job.done, play.brought) == ("cancelled", 1, [None]), seed
        assert play.hand.aborted or play.hand.sink is None


@pytest.mark.parametrize("streams", [True, False])
async def test_the_answer_comes_in_the_moment_in_which_all_leave(snapshot, streams):
    play = await Play.begin(snapshot, Random(0))
    play.ending, play.streams, play.moves = "well", streams, []
    play.join()
    for _ in range(3):
        await asyncio.sleep(0)
    play.work()  # the work wakes first and finds nobody, before those who were cancelled have run
    for one in play.callers:
        one.leave()
    await play.landing()
    assert (play.hand.aborted or not streams, play.hand.sink) == (True, None)
    assert (play.job.done, len(play.brought)) == (1, 1)
    assert not snapshot.flights


async def apart(snapshot: Any) -> Play:
    """A flight in a task of its own that has not begun yet, since its starter asks for a stream."""
    seed = next(seed for seed in range(100) if Play(snapshot, Random(seed)).starter.streaming)
    play = Play(snapshot, Random(seed))
    while play.below is None:
        await asyncio.sleep(0)
    return play


async def test_a_flight_that_is_given_up_before_it_began_still_ends(snapshot):
    play = await apart(snapshot)
    play.flight.cancel()
    assert not play.flight.joinable
    await play.landing()
    assert (len(play.brought), play.job.told) == (1, [play.flight.exchange])


async def test_one_who_waits_learns_that_the_work_was_given_up(snapshot):
    play = await apart(snapshot)
    for _ in range(3):
        await asyncio.sleep(0)
    play.flight.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([one.task for one in play.callers])
    assert isinstance(play.callers[0].error, ProxyError)


async def test_those_who_wait_learn_that_the_starters_task_was_cancelled_unasked(snapshot):
    play = await Play.begin(snapshot, Random(0))
    assert not play.starter.streaming
    play.join()
    for _ in range(3):
        await asyncio.sleep(0)
    starter, follower = play.callers
    starter.task.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([follower.task])
    assert isinstance(follower.error, ProxyError)
    assert play.job.outcome == "cancelled"


async def followed(snapshot: Any) -> Play:
    """A whole answer will come, and one follower waits for it."""
    play = await Play.begin(snapshot, Random(0))
    play.ending, play.streams = "well", False
    play.join()
    for _ in range(3):
        await asyncio.sleep(0)
    return play


async def test_the_starters_call_goes_on_for_the_others_and_ends_with_them(snapshot):
    play = await followed(snapshot)
    starter, follower = play.callers
    starter.leave()
    await asyncio.sleep(0)
    assert not starter.task.done()
    assert play.flight in snapshot.flights
    play.work()
    async with asyncio.timeout(5):
        await asyncio.wait([starter.task, follower.task])
    assert starter.task.cancelled()
    assert follower.ended
    assert not snapshot.flights


async def test_nobody_joins_what_was_handed_over(snapshot):
    play = await followed(snapshot)
    play.work()
    await play.landing()
    assert not play.below.joinable
    with pytest.raises(ProxyError):
        await play.flight.join(exchange_builder())
