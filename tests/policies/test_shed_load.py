"""shed_load: places, a short queue by priority, and nothing left after any way to end."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.clock import FakeClock
from proxy.errors import ProxyError
from proxy.exchange import Attempt, Principal, Target
from proxy.policies.shed_load import ShedLoad
from proxy.testing import called, exchange_builder, policy_builder, services_builder


class Gate:
    def __init__(self, observe=False, **options):
        self.clock = FakeClock()
        self.policy = policy_builder(ShedLoad, options, services=services_builder(self.clock), observe=observe)

    async def enter(self, priority="normal", principal="anna", **options):
        exchange = exchange_builder(priority=priority, principal=Principal(principal, method="keys"), **options)
        await called(self.policy.on_request(exchange))
        return exchange

    async def start(self, *priorities, **options):
        tasks = []
        for priority in priorities:
            tasks.append(asyncio.create_task(self.enter(priority, **options)))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return tasks

    async def refused(self, *arguments, **options):
        with pytest.raises(ProxyError) as caught:
            await self.enter(*arguments, **options)
        return caught.value

    async def end(self, exchange):
        await called(self.policy.on_done(exchange))

    def figures(self):
        told = self.policy.snapshot()
        return told["in_flight"], sum(told["waiting"].values())


async def test_what_is_above_the_limit_is_refused_early_and_clearly():
    gate = Gate(max_in_flight=2)
    first, _ = await gate.enter(), await gate.enter()
    error = await gate.refused()
    assert (error.code, error.status, error.retry_after, error.policy) == ("overloaded", 503, 1.0, "shed_load")
    await gate.end(first)
    await gate.end(first)  # a second end frees nothing
    await gate.enter()
    await gate.refused()


async def test_a_stream_counts_until_it_is_done():
    gate = Gate(max_in_flight=1)
    exchange = await gate.enter(body={"model": "m", "stream": True})
    await gate.refused()
    await gate.end(exchange)
    assert gate.figures() == (0, 0)


async def test_waiting_calls_are_served_by_priority():
    gate = Gate(max_in_flight=1, queue=4)
    held = await gate.enter()
    order = ["background", "normal", "critical", "high"]
    tasks = dict(zip(order, await gate.start(*order), strict=True))
    for expected in ("critical", "high", "normal", "background"):
        await gate.end(held)
        held = await tasks[expected]
        assert gate.figures()[0] == 1
    assert gate.policy.in_flight == 1


async def test_when_the_queue_is_full_the_least_urgent_gives_way():
    gate = Gate(max_in_flight=1, queue=2)
    await gate.enter()
    normal, background = await gate.start("normal", "background")
    (high,) = await gate.start("high")
    with pytest.raises(ProxyError, match="more urgent"):
        await background
    assert (await gate.refused("background")).code == "overloaded"
    assert (await gate.refused("normal")).code == "overloaded"
    assert gate.figures() == (1, 2)
    for task in (normal, high):
        task.cancel()


async def test_nobody_waits_past_max_wait_or_his_own_deadline():
    gate = Gate(max_in_flight=1, queue=2, max_wait="5s")
    await gate.enter()
    exchange = exchange_builder()
    exchange.deadline = gate.clock.monotonic() + 2
    hurried = asyncio.create_task(gate.policy.on_request(exchange))
    (patient,) = await gate.start("normal")
    await gate.clock.run(2)
    assert hurried.done() and not patient.done()
    await gate.clock.run(3)
    for task in (hurried, patient):
        with pytest.raises(ProxyError, match="no place came free"):
            await task
    assert gate.figures() == (1, 0)


async def test_a_tag_can_carry_the_priority_within_what_the_key_allows():
    gate = Gate(max_in_flight=1, queue=3, priority_tag="urgency")
    held = await gate.enter()
    plain, urgent = await gate.start("normal"), await gate.start("background", tags={"urgency": "critical"})
    assert gate.policy.snapshot()["waiting"] == {"critical": 0, "high": 0, "normal": 2, "background": 0}
    vip = Principal("vip", priority="critical", method="keys")
    task = asyncio.create_task(gate.policy.on_request(exchange_builder(principal=vip, tags={"urgency": "critical"})))
    await asyncio.sleep(0)
    await gate.end(held)
    await task
    for waiting in (*plain, *urgent):
        waiting.cancel()


async def test_a_client_that_leaves_frees_his_place_in_the_queue():
    gate = Gate(max_in_flight=1, queue=1)
    held = await gate.enter()
    (task,) = await gate.start("normal")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (other,) = await gate.start("normal")
    await gate.end(held)
    await gate.end(await other)
    assert gate.figures() == (0, 0)


async def test_observe_counts_but_refuses_nobody():
    gate = Gate(observe=True, max_in_flight=1)
    await gate.enter()
    exchange = await gate.enter()
    assert exchange.notes == [("shed_load", "would hold back or refuse: 1 calls in flight")]
    assert gate.figures() == (2, 0)


async def test_the_adaptive_limit_follows_the_latency_of_the_upstream():
    gate = Gate(max_in_flight=40, adaptive={"floor": 5, "ceiling": 60})

    async def calls(latency, times, failure=None):
        for _ in range(times):
            exchanges = [await gate.enter() for _ in range(gate.policy.limit)]
            for exchange in exchanges:
                attempt = Attempt(1, 1, Target("openai"), "openai", 100.0)
                attempt.status = None if failure else 200
                attempt.failure = failure
                attempt.first_byte_at = 100.0 + latency
                exchange.served_by = attempt
                await gate.end(exchange)

    await calls(0.1, 5)
    grown = gate.policy.limit
    assert 40 <= grown <= 60
    await calls(2.0, 8)
    assert gate.policy.limit < grown * 0.8
    await calls(0.0, 4, failure="timeout")
    assert gate.policy.limit == 5


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_is_left_after_random_ends(seed):
    async def run():
        dice = random.Random(seed)
        gate = Gate(max_in_flight=3, queue=4, max_wait="4s")
        running = 0

        async def one():
            nonlocal running
            exchange = await gate.enter(dice.choice(["critical", "high", "normal", "background"]))
            running += 1
            assert running <= 3
            try:
                await gate.clock.sleep(dice.random() * 3)
            finally:
                running -= 1
                await gate.end(exchange)

        tasks = []
        for _ in range(50):
            tasks.append(asyncio.create_task(one()))
            if dice.random() < 0.5:
                await gate.clock.run(dice.random())
            if dice.random() < 0.4:
                dice.choice(tasks).cancel()
            for _ in range(dice.randint(0, 3)):
                await asyncio.sleep(0)
        await gate.clock.run(60)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, ProxyError | asyncio.CancelledError) for result in results)
        assert gate.figures() == (0, 0)

    asyncio.run(run())


def test_wrong_options_are_refused_at_load():
    with pytest.raises(ValidationError, match="floor is above its ceiling"):
        ShedLoad.Options.model_validate({"max_in_flight": 3, "adaptive": {"floor": 5}})
