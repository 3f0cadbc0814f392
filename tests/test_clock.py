"""The fake clock: time moves only when told to, and timers fire in order."""

import asyncio

import pytest

from proxy.clock import FakeClock, SystemClock


async def test_timers_fire_in_order_and_see_their_own_deadline():
    clock = FakeClock(monotonic=10.0)
    seen = []
    clock.call_later(2, lambda: seen.append(("b", clock.monotonic())))
    clock.call_later(1, lambda: seen.append(("a", clock.monotonic())))
    clock.call_later(3, lambda: seen.append(("c", clock.monotonic()))).cancel()
    clock.advance(5)
    assert seen == [("a", 11.0), ("b", 12.0)]
    assert clock.monotonic() == 15.0


async def test_run_lets_woken_tasks_sleep_again():
    clock = FakeClock()
    wakes = []

    async def sleeper():
        for _ in range(3):
            await clock.sleep(10)
            wakes.append(clock.now())

    task = asyncio.create_task(sleeper())
    began = clock.now()
    await clock.run(30)
    assert wakes == [began + 10, began + 20, began + 30]
    await task


async def test_a_jump_of_the_wall_clock_wakes_nobody():
    clock = FakeClock()
    task = asyncio.create_task(clock.sleep(10))
    clock.jump(3600)
    await clock.run(9)
    assert not task.done()
    await clock.run(1)
    assert task.done()


async def test_a_cancelled_sleep_ends_at_once():
    clock = FakeClock()
    task = asyncio.create_task(clock.sleep(10))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    clock.advance(20)


async def test_the_system_clock_moves_by_itself():
    clock = SystemClock()
    before, wall = clock.monotonic(), clock.now()
    called = asyncio.Event()
    clock.call_later(0, called.set)
    await called.wait()
    await clock.sleep(0.001)
    assert clock.monotonic() > before
    assert clock.now() >= wall
