"""A half-open circuit under load: one probe, whatever its client does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.testing import Call, FakeUpstream, chat_answer, chat_events, reply, reset

RESET = 0.15
RETRY = ({"retry": {"attempts": 3, "backoff": {"initial": "1ms", "max": "1ms"}}},)
BREAKER = {"circuit_breaker": {"fail_max": 1, "reset": f"{RESET * 1000:.0f}ms"}}


class Held:
    """A provider's answer that waits for its turn."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        await self.open.wait()
        await reply(chat_answer())(call)


async def broken(start: Any, first: FakeUpstream, *chain: Any) -> tuple[Any, Held]:
    """A proxy whose circuit has just become due for a probe, and the answer the probe will wait for."""
    first.script(reset())
    proxy = await start([*chain, BREAKER], first=first.url, options={"timeouts": {"first_byte": "10s"}})
    assert (await proxy.post()).status == (503 if chain == RETRY else 502)  # the second try is vetoed
    refused = await proxy.post()
    assert (refused.status, refused.code) == (503, "circuit_open")
    assert refused.headers["retry-after"] == "1"
    assert len(first.calls) == 1
    held = Held()
    first.default = held
    await asyncio.sleep(RESET)
    return proxy, held


async def test_fifty_calls_at_once_send_one_probe(start: Any, first: FakeUpstream) -> None:
    proxy, held = await broken(start, first)
    calls = [asyncio.create_task(proxy.post()) for _ in range(50)]
    await first.call(1)
    async with asyncio.timeout(5.0):
        while sum(call.done() for call in calls) < 49:
            await asyncio.sleep(0.005)
    assert len(first.calls) == 2
    held.open.set()
    statuses = sorted([(await call).status for call in calls])
    assert statuses == [200] + [503] * 49
    assert (await proxy.post()).status == 200
    await proxy.at_rest()


@pytest.mark.parametrize("chain", [(), RETRY])
async def test_a_probe_whose_client_leaves_frees_its_place_at_once(
    start: Any, first: FakeUpstream, chain: tuple[Any, ...]
) -> None:
    proxy, held = await broken(start, first, *chain)
    for number in range(1, 4):
        probe = asyncio.create_task(proxy.post())
        call = await first.call(number)
        others = await asyncio.gather(*(proxy.post() for _ in range(10)))
        assert {other.status for other in others} == {503}
        probe.cancel()
        await asyncio.wait_for(call.disconnected, 5.0)
        await asyncio.sleep(0.02)
    assert len(first.calls) == 4
    held.open.set()
    assert (await proxy.post()).status == 200
    assert (await proxy.post()).status == 200
    await proxy.at_rest()
    assert "cancelled" in proxy.recorder.outcomes


async def test_a_probe_that_streams_for_long_lets_others_in_from_its_first_event(
    start: Any, first: FakeUpstream
) -> None:
    from proxy.testing import events

    proxy, _ = await broken(start, first, {"retry": {"attempts": 1}})
    first.default = None
    first.script(events(*chat_events(), held=True), reply(chat_answer()))
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    probe = asyncio.create_task(proxy.post(body))
    call = await first.call(1)
    assert (await proxy.post()).status == 503
    call.release(2)  # the role and the first words
    async with asyncio.timeout(2.0):
        while (await proxy.post()).status != 200:
            await asyncio.sleep(0.01)
    call.release(10)
    assert (await probe).status == 200
    await proxy.at_rest()


async def test_when_both_targets_are_open_the_first_is_probed_before_its_time(
    start: Any, first: FakeUpstream, second: FakeUpstream
) -> None:
    first.script(reset())
    second.script(reset())
    chain = [
        {"fallback": {"targets": [{"upstream": "second"}]}},
        {"circuit_breaker": {"fail_max": 1, "reset": "60s"}},
    ]
    proxy = await start(chain, first=first.url, second=second.url)
    assert (await proxy.post()).status == 502
    assert (len(first.calls), len(second.calls)) == (1, 1)
    answer = await proxy.post()
    assert (answer.status, answer.headers["x-sidecar-upstream"]) == (200, "first")
    await proxy.at_rest()
