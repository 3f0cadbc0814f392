"""Shared limits on a real Redis: atomic, merged after an outage, and never in the way of a call."""

import asyncio
import time

import pytest

from proxy.state import NEVER, Bucket, Counter, Grant, Refusal, Slots, Window


async def until(condition, seconds=5.0):
    """Waits for a condition that the background work brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.005)


async def pair(replicas):
    first, second = replicas(), replicas()
    await asyncio.gather(first.start(), second.start())
    await until(lambda: first.up and second.up)  # a machine that runs many tests may need more than its patience
    return first, second


async def flushed(*states):
    """What was told has reached Redis."""
    for state in states:
        assert await state.get("nothing", "here") is None


async def test_two_replicas_share_one_window(replicas):
    first, second = await pair(replicas)
    rpm = Window("k:rpm", 100)
    taken = await asyncio.gather(*[state.reserve((((rpm, 1),),)) for state in (first, second) * 100])
    assert sum(isinstance(grant, Grant) for grant in taken) == 100


async def test_claims_are_taken_together_or_not_at_all(replicas):
    first, second = await pair(replicas)
    rpm, tpm, slots = Window("k:rpm", 10), Window("k:tpm", 100), Slots("k:slots", 5)
    assert await first.reserve((((rpm, 1), (slots, 1), (tpm, 90)),))
    refused = await second.reserve((((rpm, 1), (slots, 1), (tpm, 20)),))
    assert isinstance(refused, Refusal) and refused.limit is tpm and 58 < refused.wait <= 61.5
    taken = [await second.reserve((((rpm, 1), (slots, 1)),)) for _ in range(5)]
    assert sum(map(bool, taken)) == 4
    assert first.local.usage(rpm).used == 1


async def test_the_first_alternative_that_fits_is_taken(replicas):
    first, second = await pair(replicas)
    one, two = Window("one", 1), Window("two", 1)
    alternatives = (((one, 1),), ((two, 1),))
    assert (await first.reserve(alternatives)).index == 0
    assert (await second.reserve(alternatives)).index == 1
    assert not await second.reserve(alternatives)


async def test_more_than_the_limit_never_fits(replicas):
    first, _ = await pair(replicas)
    for limit in (Window("w", 5), Bucket("b", 1, 5), Counter("c", 5, 60), Slots("s", 5)):
        assert (await first.reserve((((limit, 6),),))).wait == NEVER


async def test_a_settlement_frees_what_was_not_used_for_all(replicas):
    first, second = await pair(replicas)
    tpm = Window("k:tpm", 1000)
    grant = await first.reserve((((tpm, 900),),))
    first.settle(grant, (100,))
    first.settle(grant, (0,))  # a second time does nothing
    await flushed(first)
    assert await second.reserve((((tpm, 900),),))
    assert not await second.reserve((((tpm, 1),),))


async def test_a_bucket_refills_and_counts_settlements(replicas):
    first, second = await pair(replicas)
    bucket = Bucket("b", rate=100, burst=50)
    assert await first.reserve((((bucket, 50),),))
    refused = await second.reserve((((bucket, 10),),))
    assert 0 < refused.wait <= 0.1
    await asyncio.sleep(refused.wait + 0.01)
    grant = await second.reserve((((bucket, 10),),))
    assert grant
    second.settle(grant, (30,))
    await flushed(second)
    assert (await first.reserve((((bucket, 5),),))).wait > 0.1


async def test_a_counter_tells_spent_from_reserved(replicas):
    first, second = await pair(replicas)
    usd = Counter("budget", 9_000_000_000_000_001, ttl=3600)
    grant = await first.reserve((((usd, 9_000_000_000_000_000),),))
    refused = await second.reserve((((usd, 2),),))
    assert (refused.used, refused.held) == (0, 9_000_000_000_000_000)
    first.settle(grant, (9_000_000_000_000_001,))
    await flushed(first)
    refused = await second.reserve((((usd, 1),),))
    assert (refused.used, refused.held) == (9_000_000_000_000_001, 0)
    assert 3500 < refused.wait <= 3600


async def test_a_rolling_counter_forgets(replicas):
    first, second = await pair(replicas)
    calls = Counter("calls", 10, ttl=0, span=0.5, cell=0.1)
    grant = await first.reserve((((calls, 10),),))
    first.settle(grant, (10,))
    await flushed(first)
    assert not await second.reserve((((calls, 1),),))
    await asyncio.sleep(0.65)
    assert await second.reserve((((calls, 10),),))


async def test_slots_come_back_when_calls_end(replicas):
    first, second = await pair(replicas)
    slots = Slots("s", 2)
    grants = [await first.reserve((((slots, 1),),)) for _ in range(2)]
    assert not await second.reserve((((slots, 1),),))
    first.free(grants[0])
    await flushed(first)
    assert await second.reserve((((slots, 1),),))


async def test_a_cancelled_call_leaves_nothing_reserved(replicas):
    first, second = await pair(replicas)
    rpm, slots = Window("rpm", 1000), Slots("slots", 1000)
    for turns in range(12):
        tasks = [asyncio.create_task(first.reserve((((rpm, 1), (slots, 1)),))) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Grant):
                first.free(result)
    await flushed(first)
    probe = await second.reserve((((rpm, 1000), (slots, 1000)),))
    assert probe, probe


async def test_the_later_cooldown_wins_everywhere(replicas):
    first, second = await pair(replicas)
    first.cool("key:a", 30, "429")
    await until(lambda: second.cooling("key:a") > 29)
    assert second.why("key:a") == "429"
    second.cool("key:a", 5, "shorter")
    assert second.cooling("key:a") > 25
    second.cool("key:a", 90, "longer")
    await until(lambda: first.cooling("key:a") > 85)
    first.warm("key:a")
    await until(lambda: second.cooling("key:a") == 0)


async def test_notes_reach_every_replica(replicas):
    first, second = await pair(replicas)
    first.post("breaker:x", b'\xff{"state":"open"}', 60)
    await until(lambda: second.read("breaker:x") == b'\xff{"state":"open"}')
    assert second.notes("breaker:") == {"breaker:x": b'\xff{"state":"open"}'}
    second.post("breaker:x", b"", 0)
    await until(lambda: first.read("breaker:x") is None)
    late = replicas()
    first.post("breaker:y", b"1", 60)
    await flushed(first)
    await late.start()
    await until(lambda: late.up)
    assert late.read("breaker:y") == b"1"


async def test_one_lease_among_all(replicas):
    first, second = await pair(replicas)
    won = await asyncio.gather(*[state.lease("probe", 30) for state in (first, second) * 25])
    assert sum(won) == 1
    first.release("probe")
    second.release("probe")
    await flushed(first, second)
    assert await second.lease("probe", 0.05)
    await asyncio.sleep(0.08)
    assert await first.lease("probe", 30)


async def test_maps_are_shared_and_bounded(replicas):
    first, second = await pair(replicas)
    for number in range(10):
        first.put("files", f"file-{number}", b"key\xfe", 60 + number, bound=4)
    await flushed(first)
    assert [await second.get("files", f"file-{number}") for number in (5, 6, 9)] == [None, b"key\xfe", b"key\xfe"]
    first.drop("files", "file-9")
    await flushed(first)
    assert await replicas_get(replicas, "files", "file-9") is None


async def replicas_get(replicas, space, key):
    third = replicas()
    await third.start()
    await until(lambda: third.up)
    return await third.get(space, key)


async def test_a_dead_replicas_slots_are_freed_and_a_reconnect_states_what_is_held(replicas, redis_server):
    first, second = await pair(replicas)
    slots = Slots("s", 10)
    grants = [await first.reserve((((slots, 1),),)) for _ in range(4)]
    redis_server.kill()
    await until(lambda: not first.up and not second.up)
    first.free(grants[0])
    redis_server.start()
    await until(lambda: first.up and second.up)
    taken = [await second.reserve((((slots, 1),),)) for _ in range(10)]
    assert sum(map(bool, taken)) == 7


async def test_calls_go_on_with_local_shares_while_redis_is_gone_and_merge_later(replicas, redis_server):
    alarms = []
    first, second = replicas(alarm=lambda code, text: alarms.append(code)), replicas()
    await asyncio.gather(first.start(), second.start())
    await until(lambda: first.replicas == second.replicas == 2)
    rpm = Window("rpm", 100)
    for _ in range(10):
        assert await first.reserve((((rpm, 1),),))
        assert await second.reserve((((rpm, 1),),))
    await until(lambda: first.usage(rpm).used == second.usage(rpm).used == 20)
    redis_server.kill()
    await until(lambda: not first.up and not second.up)
    alone = [await state.reserve((((rpm, 1),),)) for state in (first, second) for _ in range(100)]
    assert sum(map(bool, alone)) == 80  # what was left, in equal parts
    assert alarms == ["state_unavailable"]
    redis_server.start()
    await until(lambda: first.up and second.up)
    assert alarms == ["state_unavailable", "state_restored"]
    assert not await first.reserve((((rpm, 1),),))  # the new, empty Redis has learned it all


async def test_the_first_answer_after_a_replica_came_tells_it(replicas, redis_server):
    first, second = replicas(), replicas()
    await first.start()
    await until(lambda: first.up)
    await second.start()
    await until(lambda: second.up)
    rpm = Window("rpm", 40)
    assert await first.reserve((((rpm, 1),),))
    assert first.replicas == 2
    redis_server.kill()
    await until(lambda: not first.up and not second.up)
    alone = [await state.reserve((((rpm, 1),),)) for state in (first, second) for _ in range(40)]
    assert sum(map(bool, alone)) <= 39


async def test_what_others_took_a_moment_ago_counts_when_redis_goes(replicas, redis_server):
    first, second = await pair(replicas)
    await until(lambda: first.replicas == second.replicas == 2)
    rpm, slots = Window("rpm", 40), Slots("slots", 40)
    second.watch((rpm, slots))  # which it has never used
    for _ in range(10):
        assert await first.reserve((((rpm, 1), (slots, 1)),))
    await asyncio.sleep(0.6)
    redis_server.kill()
    await until(lambda: not first.up and not second.up)
    alone = [[await state.reserve((((rpm, 1), (slots, 1)),)) for _ in range(40)] for state in (first, second)]
    assert [sum(map(bool, taken)) for taken in alone] == [
        10,
        15,
    ]  # no more than 20 each, and half of the 30 that are left


async def test_what_others_took_this_very_moment_does_not_lead_above_a_limit(replicas, redis_server):
    first, second = await pair(replicas)
    await until(lambda: first.replicas == second.replicas == 2)
    rpm, slots = Window("rpm", 40), Slots("slots", 40)
    for state in (first, second):
        for _ in range(10):
            assert await state.reserve((((rpm, 1), (slots, 1)),))
    redis_server.kill()  # before the first has heard of what the second took
    await until(lambda: not first.up and not second.up)
    alone = [await state.reserve((((rpm, 1), (slots, 1)),)) for state in (first, second) for _ in range(40)]
    assert sum(map(bool, alone)) == 20


async def test_how_many_share_is_known_as_soon_as_a_replica_comes_or_goes(replicas, redis_server):
    first = replicas()
    await first.start()
    await until(lambda: first.up)
    others = [replicas() for _ in range(2)]
    await asyncio.gather(*[state.start() for state in others])
    await until(lambda: all(state.up for state in others))
    await asyncio.sleep(0.5)
    assert [state.replicas for state in (first, *others)] == [3, 3, 3]
    rpm = Window("rpm", 10)
    redis_server.kill()
    await until(lambda: not any(state.up for state in (first, *others)))
    alone = [await state.reserve((((rpm, 1),),)) for state in (first, *others) for _ in range(10)]
    assert sum(map(bool, alone)) == 10


async def test_every_outage_raises_one_alarm_and_its_end_is_told(replicas, redis_server):
    alarms = []
    state = replicas(alarm=lambda code, text: alarms.append(code))
    await state.start()
    for outage in range(1, 3):
        await until(lambda: state.up)
        redis_server.kill()
        await until(lambda: len(alarms) == 2 * outage - 1)  # noqa: B023 - called in this turn
        await asyncio.sleep(0.5)  # many attempts to connect fail, and raise nothing more
        redis_server.start()
        await until(lambda: len(alarms) == 2 * outage)  # noqa: B023
    assert alarms == ["state_unavailable", "state_restored"] * 2


async def test_a_redis_that_flaps_raises_one_alarm_and_one_that_then_stays_away_another(replicas, redis_server):
    alarms = []
    state = replicas(alarm=lambda code, text: alarms.append(code))
    await state.start()
    await until(lambda: state.up)
    for _ in range(3):
        redis_server.kill()
        await until(lambda: not state.up)
        redis_server.start()
        await until(lambda: state.up)
    assert alarms == ["state_unavailable", "state_restored"]
    redis_server.kill()
    await until(lambda: len(alarms) == 3)
    assert alarms[-1] == "state_unavailable"


async def test_a_stalled_redis_costs_no_call_more_than_50_ms(replicas, redis_server):
    state = replicas(timeout=0.045)
    await state.start()
    await until(lambda: state.up)
    rpm = Window("rpm", 100_000)
    assert await state.reserve((((rpm, 1),),))
    redis_server.stall()
    slowest = 0.0
    refused = 0

    async def call():
        nonlocal slowest, refused
        began = time.monotonic()
        refused += not await state.reserve((((rpm, 1),),))
        slowest = max(slowest, time.monotonic() - began)

    for _ in range(20):
        await asyncio.gather(*[call() for _ in range(10)])
        await asyncio.sleep(0.01)
    redis_server.resume()
    assert refused == 0
    assert slowest < 0.1  # 45 ms, and what a busy machine adds to any timer
    await until(lambda: state.up)
    other = replicas()
    await other.start()
    await until(lambda: other.up)
    await flushed(state)
    assert await other.reserve((((rpm, 100_000 - 201 - 50),),))  # doubtful batches may count twice, never less
    assert not await other.reserve((((rpm, 51),),))


async def test_spent_money_is_counted_once_whatever_happens_to_the_answer(replicas, redis_server):
    first = replicas(timeout=0.045)
    await first.start()
    await until(lambda: first.up)
    usd = Counter("usd", 10**12, ttl=3600)
    spent = 0
    for turn in range(30):
        grants = [await first.reserve((((usd, 100),),)) for _ in range(5)]
        for number, grant in enumerate(grants):
            first.settle(grant, (turn * 10 + number,))
            spent += turn * 10 + number
        if turn % 7 == 3:
            redis_server.stall()
        elif turn % 7 == 6:
            redis_server.resume()
        await asyncio.sleep(0.01)
    redis_server.resume()
    await until(lambda: first.up)
    await flushed(first)
    other = replicas()
    await other.start()
    await until(lambda: other.up)
    refused = await other.reserve((((usd, 10**12),),))
    assert (refused.used, refused.held) == (spent, 0)


async def test_an_attempt_is_one_round_trip_and_settlements_travel_together(replicas):
    state = replicas()
    await state.start()
    await until(lambda: state.up)
    await until(lambda: not state.link._queue)
    rpm = Window("rpm", 100_000)
    before = state.link._number
    grants = await asyncio.gather(*[state.reserve((((rpm, 1),),)) for _ in range(200)])
    assert state.link._number - before <= 4
    for grant in grants:
        state.free(grant)
    await flushed(state)
    assert state.link._number - before <= 9


async def test_no_redis_at_the_start_is_no_reason_to_wait():
    from proxy.state import open_state

    alarms = []
    state = open_state("redis://127.0.0.1:1/0", alarm=lambda code, text: alarms.append(code))
    began = time.monotonic()
    await state.start()
    assert time.monotonic() - began < 1.0
    assert alarms == ["state_unavailable"]
    assert await state.reserve((((Window("rpm", 1), 1),),))
    await state.close()


async def test_words_that_name_no_state_are_refused():
    from proxy.state import open_state

    with pytest.raises(ValueError, match="allowed: memory, redis://"):
        open_state("memcached://x")


async def test_a_server_clock_set_back_does_not_freeze_a_window(replicas, redis_server):
    from redis.asyncio import Redis

    state = replicas()
    await state.start()
    await until(lambda: state.up)
    rpm = Window("rpm", 10)
    assert await state.reserve((((rpm, 10),),))
    client = Redis.from_url(redis_server.url)
    key = f"{state.link.namespace}:w:rpm"
    cells = {k: v for k, v in (await client.hgetall(key)).items() if k.isdigit()}
    (cell,) = cells
    # As if all this had been booked by a clock that ran an hour ahead.
    await client.hdel(key, cell)
    hour = 3600
    last = int(await client.hget(key, "l")) + hour * 1000
    await client.hset(key, mapping={str(int(cell) + hour): cells[cell], "o": int(cell) + hour, "l": last})
    refused = await state.reserve((((rpm, 1),),))
    assert 58 < refused.wait <= 62
    await client.aclose()


async def test_a_call_that_left_late_counts_from_then(replicas):
    first, second = await pair(replicas)
    rpm = Window("rpm", 3, span=2.0, cell=0.1, grace=0.0)
    grant = await first.reserve((((rpm, 3),),))
    await asyncio.sleep(1.0)
    first.settle(grant, (3,), sent_at=first.clock.monotonic())
    await flushed(first)
    await asyncio.sleep(1.3)
    assert not await second.reserve((((rpm, 1),),))
    await asyncio.sleep(1.0)
    assert await second.reserve((((rpm, 3),),))


async def test_corrections_and_ledger_figures_are_shared(replicas):
    first, second = await pair(replicas)
    rpm, usd = Window("rpm", 10), Counter("usd", 100, ttl=60)
    first.book(rpm, 9, age=50)
    first.seed(usd, 95)
    second.seed(usd, 60)
    await flushed(first, second)
    refused = await second.reserve((((rpm, 2),),))
    assert 8 < refused.wait <= 12
    assert await second.reserve((((rpm, 1), (usd, 5)),))
    assert (await first.reserve((((usd, 1),),))).used == 95


async def test_figures_of_the_others_reach_the_local_picture(replicas):
    first, second = await pair(replicas)
    rpm = Window("rpm", 100)
    assert await second.reserve((((rpm, 1),),))
    assert await first.reserve((((rpm, 60),),))
    await until(lambda: second.usage(rpm).used == 61)
    assert second.peek(((rpm, 40),)) > 0
