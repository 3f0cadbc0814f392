"""Lines: turns, moves to the limit that is really in the way, and leaving at any moment."""

import asyncio

import pytest

from proxy.clock import FakeClock, settle_loop
from proxy.state import MemoryState, Slots
from proxy.waiting_lines import WaitingLines


class Bench:
    def __init__(self):
        self.clock = FakeClock()
        self.state = MemoryState(self.clock)
        self.lines = WaitingLines(self.state, self.clock)

    async def wait(self, limit, *others, owner="anna", seconds=60):
        claims = tuple((one, 1) for one in (limit, *others))
        task = asyncio.create_task(self.lines.wait(limit.name, claims, owner, "normal", seconds))
        await settle_loop()
        return task

    def take(self, *limits):
        return self.state.try_reserve((tuple((limit, 1) for limit in limits),))

    async def free(self, grant):
        self.state.free(grant)
        self.lines.stir(grant.claims)
        await settle_loop()


async def test_who_waits_is_served_when_something_is_given_back():
    bench, one = Bench(), Slots("one", 1)
    held = bench.take(one)
    first, second = await bench.wait(one), await bench.wait(one, owner="ben")
    assert bench.lines and bench.lines.before(((one, 1),)) == "one"
    await bench.free(held)
    assert first.done() and not second.done()
    await bench.free(await first)
    await bench.free(await second)
    assert not bench.lines and bench.lines.before(((one, 1),)) is None


async def test_who_waits_for_another_limit_by_now_holds_up_nobody():
    bench, one, own = Bench(), Slots("one", 1), Slots("own", 1)
    held, mine = bench.take(one), bench.take(own)
    stuck, quick = await bench.wait(one, own), await bench.wait(one, owner="ben")
    await bench.free(held)
    assert quick.done() and not stuck.done()
    await bench.free(await quick)
    await bench.free(mine)
    assert (await stuck).open


async def test_time_ends_a_wait_and_cancelling_leaves_nothing():
    bench, one = Bench(), Slots("one", 1)
    held = bench.take(one)
    short, left = await bench.wait(one, seconds=2), await bench.wait(one)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    await bench.clock.run(2)
    assert await short is None
    await bench.free(held)
    assert not bench.lines and bench.state.usage(one).held == 0


async def test_a_grant_in_the_moment_of_leaving_goes_to_the_next():
    bench, one = Bench(), Slots("one", 1)
    held = bench.take(one)
    first, second = await bench.wait(one), await bench.wait(one, owner="ben")
    bench.state.free(held)
    bench.lines.stir(held.claims)
    while not first.done() and not bench.state.usage(one).held:
        await asyncio.sleep(0)
    first.cancel()
    await settle_loop()
    assert first.cancelled()
    assert (await second).open
    bench.lines.stop()
