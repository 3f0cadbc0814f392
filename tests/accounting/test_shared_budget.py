"""One budget over two replicas: the counters are in a real Redis."""

from __future__ import annotations

import asyncio
import socket
import subprocess

import pytest

from proxy.accounting.books import Books
from proxy.accounting.usage import Usage
from proxy.chain import Chain, Step
from proxy.clock import SystemClock
from proxy.config.model import Config
from proxy.errors import ProxyError
from proxy.exchange import Attempt, Target
from proxy.policies.budget import Budget
from proxy.policy import Veto, called
from proxy.state import open_state
from proxy.testing import exchange_builder, policy_builder, services_builder

BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}


@pytest.fixture
async def redis_url(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                break
            except ConnectionError:
                await asyncio.sleep(0.01)
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait()


async def replica(url, options):
    [policy] = await replica_of_several(url, options)
    return policy


async def replica_of_several(url, *several):
    """Budgets of one chain in one process."""
    clock = SystemClock()
    services = services_builder(clock)
    state = open_state(url, clock)
    await state.start()
    books = Books(Config(), dry=True)
    services.offer("accounting", lambda _: books)
    services.offer("state", lambda _: state)
    return [policy_builder(Budget, options, services=services) for options in several]


async def call(policy):
    """One call of the attempt loop; whether it was sent."""
    exchange = exchange_builder(BODY)
    try:
        while True:
            attempt = Attempt(1, 1, Target("openai"), "openai", 0.0)
            said = await called(policy.on_attempt(exchange, attempt))
            if said is None:
                break
            attempt.outcome = "vetoed"
            await called(policy.on_attempt_end(exchange, attempt))
            if isinstance(said, Veto):
                return False
            try:
                await said.until()
            except ProxyError:
                return False
        await asyncio.sleep(0.005)
        attempt.sent, attempt.outcome = True, "answered"
        attempt.usage = Usage(input=exchange.input_estimate(), output=100)
        await called(policy.on_attempt_end(exchange, attempt))
        return True
    finally:
        await called(policy.on_done(exchange))


async def test_two_replicas_never_overspend_together(redis_url):
    options = {"calls": 50, "max_wait": "1s"}
    replicas = [await replica(redis_url, options) for _ in range(2)]
    sent = await asyncio.gather(*(call(policy) for policy in replicas for _ in range(100)))
    assert sum(sent) == 50
    for policy in replicas:
        assert not policy.lines
        await policy.state.close()


async def test_a_call_waits_for_the_reservation_of_another_replica(redis_url):
    exchange = exchange_builder(BODY)
    one_call = exchange.input_estimate() + 100
    options = {"tokens": int(one_call * 1.5), "max_wait": "3s"}
    first, second = [await replica(redis_url, options) for _ in range(2)]
    attempt = Attempt(1, 1, Target("openai"), "openai", 0.0)
    assert await called(first.on_attempt(exchange, attempt)) is None
    waiting = asyncio.create_task(call(second))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    attempt.outcome = "vetoed"
    await called(first.on_attempt_end(exchange, attempt))
    assert await asyncio.wait_for(waiting, 3) is True
    for policy in (first, second):
        await policy.state.close()


class AsOne:
    """A chain of budgets with the hooks of one policy, for `call`."""

    def __init__(self, policies):
        self.chain = Chain("made", [Step(policy, True, None) for policy in policies])
        self.on_attempt, self.on_attempt_end = self.chain.begin_attempt, self.chain.end_attempt
        self._policies = policies

    def on_done(self, exchange):
        for policy in self._policies:
            policy.on_done(exchange)


async def test_the_budgets_of_a_chain_are_asked_in_one_round_trip(redis_url):
    policies = await replica_of_several(redis_url, {"calls": 10}, {"per": "model", "tokens": 10_000}, {"usd": 10})
    state, chain = policies[0].state, AsOne(policies)
    while not state.up:
        await asyncio.sleep(0.01)
    asked = []
    send = state.link._send

    async def sending(ops):
        asked.append([op.message[0] for op in ops])
        return await send(ops)

    state.link._send = sending
    attempt = Attempt(1, 1, Target("openai"), "openai", 0.0)
    assert await called(chain.on_attempt(exchange_builder(BODY), attempt)) is None
    assert [ops.count("reserve") for ops in asked if "reserve" in ops] == [3]
    await state.close()


async def test_budgets_that_are_asked_together_hold_each_and_leave_nothing_reserved(redis_url):
    small, large = {"calls": 20, "max_wait": "1s"}, {"per": "model", "calls": 30, "max_wait": "1s"}
    replicas = [await replica_of_several(redis_url, *both) for both in ((small, large), (large, small))]
    sent = await asyncio.gather(*(call(AsOne(policies)) for policies in replicas for _ in range(60)))
    assert sum(sent) == 20
    await asyncio.sleep(0.6)  # what was settled is known everywhere
    for policies in replicas:
        for policy in policies:
            value = "all" if policy.budget.per == ("all",) else "gpt-4o-mini"
            [(_, counter)] = policy.budget.bucket(value, policy.services.clock.now()).counters
            usage = policy.state.usage(counter)
            assert (usage.used, usage.held) == (20, 0)
            assert not policy.lines
    for policies in replicas:
        await policies[0].state.close()
