"""What is on its way to Redis: together, in order, bounded."""

from __future__ import annotations

import asyncio

import pytest

from proxy.policies.cache.outbox import PENDING_BYTES, Line, Outbox


class Sent:
    """Stands in for Redis: ``batches`` that were sent; each is over when ``let`` is set."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.batches: list[list[tuple[bytes, Line]]] = []
        self.let = asyncio.Event()
        if at_once:
            self.let.set()

    async def __call__(self, batch: list[tuple[bytes, Line]]) -> None:
        self.batches.append(batch)
        await self.let.wait()

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


async def emptied(box: Outbox) -> None:
    async with asyncio.timeout(5):
        while box.lines:
            await asyncio.sleep(0)


@pytest.mark.parametrize(("count", "size", "sizes"), [(3, 10, [3]), (300, 10, [128, 128, 44]), (5, 50_000, [2, 2, 1])])
async def test_what_is_put_in_one_turn_goes_in_pipelines_of_bounded_size(count, size, sizes):
    redis = Sent()
    box = Outbox(redis)
    for number in range(count):
        assert box.put(b"%d" % number, bytes(size), 60)
    await emptied(box)
    assert redis.sizes == sizes


async def test_a_single_large_entry_goes_alone():
    redis = Sent()
    box = Outbox(redis)
    box.put(b"large", bytes(4_000_000), 60)
    box.put(b"small", b"1", 60)
    await emptied(box)
    assert redis.sizes == [1, 1]


async def test_the_last_word_on_a_name_counts_also_while_an_earlier_one_is_under_way():
    redis = Sent(at_once=False)
    box = Outbox(redis)
    box.put(b"name", b"first", 60)
    await asyncio.sleep(0)
    box.put(b"name", b"second", 60)
    box.remove(b"name")
    assert box.lines[b"name"] == (None, 0.0)
    redis.let.set()
    await emptied(box)
    assert redis.batches == [[(b"name", (b"first", 60))], [(b"name", (None, 0.0))]]


async def test_more_than_may_wait_is_not_taken_until_there_is_room_again():
    redis = Sent(at_once=False)
    box = Outbox(redis)
    assert box.put(b"a", bytes(PENDING_BYTES), 60)
    assert not box.put(b"b", b"1", 60)
    redis.let.set()
    await emptied(box)
    assert box.put(b"b", b"1", 60)
    await emptied(box)


async def test_what_is_dropped_is_not_sent_and_what_is_under_way_can_be_waited_for():
    redis = Sent(at_once=False)
    box = Outbox(redis)
    box.put(b"a", b"1", 60)
    await asyncio.sleep(0)
    box.put(b"b", b"2", 60)
    box.drop()
    standing = asyncio.ensure_future(box.stand_still(5))
    await asyncio.sleep(0.01)
    assert not standing.done()
    redis.let.set()
    await standing
    await box.close(1)
    assert redis.batches == [[(b"a", (b"1", 60))]]


async def test_a_close_does_not_wait_for_ever():
    box = Outbox(Sent(at_once=False))
    box.put(b"a", b"1", 60)
    async with asyncio.timeout(2):
        await box.close(0.01)
