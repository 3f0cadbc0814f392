"""Calls that come close together go on together, and a call that is alone waits for nobody."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from proxy.lockstep import CLOSE, COMPANY, NEXT_TURN, Border
from proxy.policy import Policy
from proxy.testing import FakeUpstream, chat_answer, reply

HERE = __name__


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("proxy.lockstep.monotonic", lambda: now[0])
    return now


def test_a_call_in_company_is_in_step_with_the_one_before_it(clock):
    border = Border()
    company = range(COMPANY)
    assert not border.crowded(company)
    clock[0] += CLOSE / 2
    assert border.crowded(company)
    clock[0] += CLOSE / 2
    assert border.crowded(company)
    clock[0] += CLOSE * 2
    assert not border.crowded(company)


def test_few_calls_never_wait(clock):
    border = Border()
    assert not any(border.crowded(range(COMPANY - 1)) for _ in range(10))


async def test_who_waits_for_the_next_turn_comes_after_all_who_are_ready():
    order: list[tuple[str, int]] = []

    async def call(number: int) -> None:
        order.append(("first stage", number))
        await NEXT_TURN
        order.append(("second stage", number))

    await asyncio.gather(*(call(number) for number in range(3)))
    assert order == [(f"{stage} stage", number) for stage in ("first", "second") for number in range(3)]


class Log(Policy):
    """Writes down which stage of which call was run."""

    name = "log"
    order: list = []  # noqa: RUF012 - what the test looks at

    def on_request(self, exchange):
        self.order.append("down")

    def on_attempt(self, exchange, attempt):
        self.order.append("attempt")

    def on_response(self, exchange, answer):
        self.order.append("up")

    def on_settle(self, exchange):
        self.order.append("settle")


class Nothing(Policy):
    """Makes a chain longer."""

    name = "nothing"


@pytest.mark.parametrize(("stage", "length"), [("down", 5), ("attempt", 5), ("up", 5), ("settle", 5), ("down", 4)])
async def test_calls_that_come_together_on_a_long_chain_go_stage_by_stage(sidecar, monkeypatch, stage, length):
    import sys

    monkeypatch.setitem(sys.modules, "lockstep_policies", sys.modules[HERE])
    monkeypatch.setattr("proxy.lockstep.CLOSE", 1.0)
    Log.order = []
    count = 12
    barrier = asyncio.Barrier(count)
    async with FakeUpstream(*[reply(chat_answer("Hi"))] * 2 * count) as upstream, aiohttp.ClientSession() as session:
        proxy = await sidecar(
            {
                "upstreams": {"up": {"api": "openai", "base_url": upstream.url}},
                "routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"}],
                "chains": {"main": ["lockstep_policies:Log", *["lockstep_policies:Nothing"] * (length - 1)]},
            }
        )

        async def post() -> int:
            await barrier.wait()
            body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
            async with session.post(proxy.base_url + "/chat/completions", json=body) as answer:
                await answer.read()
                return answer.status

        await asyncio.gather(*(post() for _ in range(count)))  # connections are open now
        Log.order.clear()
        assert await asyncio.gather(*(post() for _ in range(count))) == [200] * count
    assert Log.order.count(stage) == count
    # In step, a stage is followed by itself more often than not.
    in_step = sum(a == b == stage for a, b in zip(Log.order, Log.order[1:], strict=False)) >= count // 2
    assert in_step is (length == 5)
