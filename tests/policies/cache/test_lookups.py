"""Look-ups travel together, and what waits in line is nobody's fault but ours."""

from __future__ import annotations

import asyncio

from proxy.policies.cache.lookups import AT_A_TIME, Lookups


class Asked:
    """Stands in for Redis: ``asked`` are the questions; each is answered when ``let`` is set."""

    def __init__(self, answer: bytes | None = b"found") -> None:
        self.asked: list[tuple[list[bytes], float, bool]] = []
        self.answer = answer
        self.let = asyncio.Event()

    async def __call__(self, names: list[bytes], seconds: float, alone: bool) -> list[bytes | None] | None:
        self.asked.append((names, seconds, alone))
        await self.let.wait()
        return [None if self.answer is None else self.answer + name for name in names]


def asking(lookups: Lookups, *names: bytes) -> list[asyncio.Task[list[bytes | None] | None]]:
    return [asyncio.ensure_future(lookups.ask([name])) for name in names]


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def filled(lookups: Lookups) -> list[asyncio.Task[list[bytes | None] | None]]:
    """As many questions under way as may be."""
    tasks = []
    for number in range(AT_A_TIME):
        tasks += asking(lookups, b"%d" % number)
        await turns()
    return tasks


async def test_look_ups_of_one_turn_are_one_question_and_a_name_is_asked_for_once():
    redis = Asked()
    redis.let.set()
    lookups = Lookups(redis, 1.0)
    found = await asyncio.gather(*asking(lookups, b"a", b"b", b"a"))
    assert found == [[b"founda"], [b"foundb"], [b"founda"]]
    assert redis.asked == [([b"a", b"b"], 1.0, True)]


async def test_what_comes_while_enough_is_under_way_waits_for_the_next_and_goes_together():
    redis = Asked()
    lookups = Lookups(redis, 1.0)
    tasks = await filled(lookups)
    tasks += asking(lookups, b"x", b"y", b"z")
    await turns()
    assert len(redis.asked) == AT_A_TIME
    redis.let.set()
    await asyncio.gather(*tasks)
    assert [names for names, _, _ in redis.asked[AT_A_TIME:]] == [[b"x", b"y", b"z"]]


async def test_time_in_line_counts_and_redis_is_not_to_blame_for_it():
    redis = Asked()
    lookups = Lookups(redis, 0.2)
    tasks = await filled(lookups)
    tasks += asking(lookups, b"late")
    await asyncio.sleep(0.05)
    redis.let.set()
    await asyncio.gather(*tasks)
    names, seconds, alone = redis.asked[-1]
    assert (names, alone) == ([b"late"], False)
    assert seconds < 0.16


async def test_who_has_left_is_not_asked_for():
    redis = Asked()
    lookups = Lookups(redis, 1.0)
    tasks = await filled(lookups)
    [left] = asking(lookups, b"left")
    await turns()
    left.cancel()
    redis.let.set()
    await asyncio.gather(*tasks)
    await turns()
    assert len(redis.asked) == AT_A_TIME


async def test_large_answers_are_asked_for_few_at_a_time():
    redis = Asked(bytes(100_000))
    redis.let.set()
    lookups = Lookups(redis, 1.0)
    before = lookups.most
    await lookups.ask([b"a", b"b"])
    assert lookups.most == 10 < before
    redis.answer = None
    for _ in range(20):
        await lookups.ask([b"a"])
    assert lookups.most == 256


async def test_no_answer_is_nobodys():
    async def silent(names: list[bytes], seconds: float, alone: bool) -> None:
        return None

    assert await Lookups(silent, 1.0).ask([b"a"]) is None


async def test_a_close_leaves_nobody_waiting():
    redis = Asked()
    lookups = Lookups(redis, 1.0)
    tasks = [*await filled(lookups), *asking(lookups, b"in line")]
    await turns()
    await lookups.close()
    assert await asyncio.gather(*tasks) == [None] * (AT_A_TIME + 1)
