"""What takes a link down, what does not, and what an operator is told."""

from __future__ import annotations

import asyncio
import logging

import pytest

from proxy.policies.cache.link import Link, Valve
from proxy.state.servers import Server
from tests.policies.cache.conftest import Told, until


class NoError(Exception):
    """An answer that says no."""


async def fine() -> str:
    return "fine"


async def never() -> None:
    await asyncio.Event().wait()


async def no() -> None:
    raise NoError


async def gone() -> None:
    raise ConnectionResetError


@pytest.fixture
def log(told: Told) -> logging.Logger:
    made = logging.Logger("of the link")
    made.addHandler(told)
    return made


@pytest.fixture
async def link(log):
    made = Link(fine, Server(), log, (NoError,))
    yield made
    await made.close()


async def test_an_answer_that_says_no_is_no_trouble(link, told):
    with pytest.raises(NoError):
        await link.ask(no, 1.0)
    assert (link.up, link.errors, told.events) == (True, 1, [])
    assert await link.ask(fine, 1.0) == "fine"


@pytest.mark.parametrize("trouble", [gone, never])
async def test_trouble_is_told_of_once_and_nobody_is_asked_until_it_is_over(link, told, trouble):
    assert await link.ask(trouble, 0.02) is None
    assert await link.ask(fine, 1.0) is None
    assert told.events == ["cache_store_unavailable"]
    await until(lambda: link.up)
    assert told.events == ["cache_store_unavailable", "cache_store_restored"]
    assert await link.ask(fine, 1.0) == "fine"


async def test_a_wait_that_was_not_for_redis_alone_says_nothing_of_it(link, told):
    assert await link.ask(never, 0.01, alone=False) is None
    assert (link.up, told.events) == (True, [])


async def test_what_comes_first_when_redis_is_back_is_tried_until_it_could_be_done(link):
    tries: list[bool] = []

    async def first() -> None:
        tries.append(link.up)
        if len(tries) == 1:
            raise NoError

    link.first = first
    link.fell(ConnectionError())
    await until(lambda: link.up)
    assert tries == [False, False]


async def test_a_valve_is_shut_for_a_pause_and_tells_once(log, told):
    valve = Valve("writes", log)
    assert valve.open
    assert valve.well
    valve.refused(NoError())
    assert not valve.open
    await until(lambda: valve.open)
    assert not valve.well
    valve.refused(NoError())
    assert told.events == ["cache_store_refuses_writes"]
    valve.passed()
    valve.passed()
    assert valve.open
    assert told.events == ["cache_store_refuses_writes", "cache_store_restored"]
