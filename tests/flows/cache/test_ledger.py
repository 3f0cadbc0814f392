"""What the ledger says of calls that shared an answer, left before it, or were served while it was renewed.

``calls - cached_calls`` is what reached an upstream; tokens and cost are those of the upstream, each once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from proxy.accounting.ledger.batch import CALL_COLUMNS, FAILED, REACHED, Batch
from proxy.accounting.record import CACHED, OUTCOMES, abandoned
from proxy.accounting.segments import read_lines
from proxy.testing import FakeUpstream, chat_answer, chat_events, close, events, hang, reply

ACCOUNT = ["account"]
COST = 100 * 2_500 + 10 * 10_000
ANSWER = chat_answer("Hi", usage=(100, 10))


@dataclass(frozen=True)
class Sums:
    """Of all rows."""

    calls: int
    cached: int
    cost: int
    priced: int
    """Calls of which percentiles of cost know."""


def records(caller):
    directory = caller.proxy.app.snapshot.services.get("accounting").store.journal.directory
    return [line for number in directory.segments() for line in read_lines(directory.file(number).read_bytes(), "test")]


def rows(caller):
    batch = Batch({})
    batch.add(records(caller))
    return [dict(zip(CALL_COLUMNS, row, strict=True)) for row in batch.rows()], batch


def sums(caller):
    made, batch = rows(caller)
    return Sums(
        sum(bool(row["flags"] & REACHED) for row in made),
        sum(bool(row["flags"] & CACHED) for row in made),
        sum(row["cost"] for row in made),
        sum(batch.costs.values()),
    )


async def settled(caller):
    """Until every flight has landed."""
    snapshot = caller.proxy.app.snapshot
    await caller.until(lambda: not snapshot.flights and not snapshot.in_flight)
    await asyncio.sleep(0.1)  # a revalidation looks a moment later whether its starter has ended


async def leave(waiting):
    waiting.cancel()
    await asyncio.wait([waiting])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_alone_is_a_call_that_reached_an_upstream(cached, stream):
    async with FakeUpstream(events(*chat_events(["word " * 80] * 3)[:4], then="hang") if stream else hang()) as up:
        caller = await cached(up, above=ACCOUNT)
        waiting = asyncio.create_task(caller.say(stream=stream))
        await up.call()
        await asyncio.sleep(0.05)
        await leave(waiting)
        await settled(caller)
        found = sums(caller)
        assert (found.calls, found.cached, found.priced) == (1, 0, 1)
        assert found.cost > 0


async def test_the_first_leaves_and_a_follower_stays_one_call_reached_an_upstream(cached):
    async with FakeUpstream(reply(ANSWER, delay=0.3)) as up:
        caller = await cached(up, above=ACCOUNT)
        first = asyncio.create_task(caller.say())
        await up.call()
        second = asyncio.create_task(caller.say())
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        await leave(first)
        assert (await second).cache == "coalesced"
        await settled(caller)
        assert sums(caller) == Sums(calls=2, cached=1, cost=COST, priced=1)


async def test_who_left_before_anything_was_sent_is_no_call(cached):
    """The call still waits for a turn when its client leaves."""
    async with FakeUpstream(hang()) as up:
        caller = await cached(up, above=ACCOUNT, below=[{"shed_load": {"max_in_flight": 1, "queue": 5}}])
        sent = asyncio.create_task(caller.say("one"))
        await up.call()
        waits = asyncio.create_task(caller.say("two"))
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        await leave(waits)
        await caller.until(lambda: len(rows(caller)[0]) == 1)
        assert sums(caller).calls == 0
        await leave(sent)
        await settled(caller)
        assert sums(caller).calls == 1


async def test_a_crash_after_the_first_has_left_finds_his_call_abandoned_once(cached):
    async with FakeUpstream(hang()) as up:
        caller = await cached(up, above=ACCOUNT)
        first = asyncio.create_task(caller.say())
        await up.call()
        second = asyncio.create_task(caller.say())
        await caller.until(lambda: len(caller.proxy.app.snapshot.in_flight) == 2)
        await leave(first)
        await caller.until(lambda: caller.proxy.app.snapshot.flights)
        [left] = records(caller)
        assert left[0] == "b"
        [line] = read_lines(abandoned(left), "test")
        assert (OUTCOMES[line[5]], line[10], line[11] > 0) == ("abandoned", 1, True)
        await leave(second)


@pytest.mark.parametrize("renewed", ["in no time", "later", "not: the provider fails"])
async def test_a_revalidation_is_a_call_of_its_own_beside_the_one_that_was_served(cached, renewed):
    again = reply({"error": {"message": "no"}}, status=500) if "not" in renewed else reply(ANSWER, delay=0.2)
    async with FakeUpstream(reply(ANSWER), reply(ANSWER) if renewed == "in no time" else again) as up:
        caller = await cached(up, above=ACCOUNT, ttl="1ms", stale_while_revalidate="1h")
        await caller.say()
        await asyncio.sleep(0.01)
        assert (await caller.say()).cache == "stale"
        await up.call(1)
        await settled(caller)
        paid = 1 if "not" in renewed else 2
        assert sums(caller) == Sums(calls=3, cached=1, cost=paid * COST, priced=2)
        made, _ = rows(caller)
        assert [bool(row["flags"] & FAILED) for row in made].count(True) == (paid == 1)


async def test_what_was_tried_in_vain_before_a_stale_answer_is_paid_and_no_further_call(cached):
    async with FakeUpstream(reply(ANSWER), close("in_body")) as up:
        caller = await cached(up, above=ACCOUNT, ttl="1ms", stale_if_error="1h")
        await caller.say()
        await asyncio.sleep(0.01)
        assert (await caller.say()).cache == "stale"
        await settled(caller)
        found = sums(caller)
        assert (found.calls, found.cached) == (2, 1)
        assert found.cost > COST
