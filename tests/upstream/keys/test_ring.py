"""The key ring: which key, within which limits, and how keys go out and come back."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.clock import FakeClock
from proxy.state import NEVER, MemoryState
from proxy.upstream.keys import Key, KeyRing, KeyRings
from proxy.upstream.keys.key import Life


class Pool:
    """A ring on a fake clock, with short words for what tests do."""

    def __init__(self, *keys, strategies=("task", "priority", "least_loaded"), **options):
        self.clock = FakeClock()
        self.state = MemoryState(self.clock)
        self.ring = KeyRing("pool", keys, strategies, self.state, self.clock, **options)

    async def use(self, **call):
        lease = await self.ring.choose(**call)
        return lease.key.id if lease else lease

    async def call(self, status=200, failure=None, call=None, **end):
        lease = await self.ring.choose(**(call or {}))
        assert lease, lease
        end.setdefault("outcome", "answered" if failure is None else "failed")
        self.ring.end(lease, sent=1, status=status, failure=failure, **end)
        return lease.key.id

    def described(self, key_id):
        return next(key for key in self.ring.snapshot() if key["id"] == key_id)


def key(key_id, **options):
    return Key(key_id, f"secret-of-{key_id}", **options)


# --- strategies ----------------------------------------------------------------------------------


async def test_a_key_for_the_task_comes_first_then_a_general_one():
    pool = Pool(
        key("general"), key("text", task_types=["text"], max_concurrent=1), key("images", task_types=["images"])
    )
    assert [await pool.use(task="text") for _ in range(3)] == ["text", "general", "general"]
    assert await pool.use(task="other") == "general"
    assert await pool.use() == "general"


async def test_keys_of_other_tasks_help_only_where_no_general_key_is():
    pool = Pool(key("text", task_types=["text"]), key("images", task_types=["images"], max_concurrent=1))
    assert [await pool.use(task="images") for _ in range(2)] == ["images", "text"]


async def test_the_highest_priority_comes_first_and_the_next_when_it_is_full():
    pool = Pool(key("low", priority=1), key("high", priority=3, max_rpm=2), key("middle", priority=2, max_rpm=1))
    assert [await pool.use() for _ in range(4)] == ["high", "high", "middle", "low"]


async def test_round_robin_takes_turns():
    pool = Pool(key("a"), key("b"), key("c"), strategies=["round_robin"])
    assert [await pool.use() for _ in range(6)] == ["a", "b", "c"] * 2


async def test_weighted_spreads_evenly():
    pool = Pool(key("a", weight=5), key("b", weight=1), key("c", weight=1), strategies=["weighted"])
    used = [await pool.use() for _ in range(14)]
    assert used[:7].count("a") == 5 and used.count("b") == 2 and used.count("c") == 2
    assert "".join(used[:7]) != "aaaaabc"


async def test_least_loaded_counts_the_used_share():
    pool = Pool(key("small", max_rpm=10), key("large", max_rpm=100), strategies=["least_loaded"])
    used = [await pool.use() for _ in range(55)]
    assert used.count("small") == 5


async def test_least_loaded_without_limits_counts_calls_in_flight():
    pool = Pool(key("a"), key("b"), strategies=["least_loaded"])
    first = await pool.ring.choose()
    assert first.key.id == "a"
    assert [await pool.use() for _ in range(2)] == ["b", "a"]


async def test_cheapest_prefers_free_then_the_lower_price():
    pool = Pool(
        key("dear", cost_per_token=0.1),
        key("cheap", max_concurrent=1),
        key("free", tier="free", max_concurrent=1),
        strategies=["cheapest"],
        price=lambda key, model: {("cheap", "gpt"): 0.001}.get((key, model)),
    )
    assert [await pool.use(model="gpt") for _ in range(3)] == ["free", "cheap", "dear"]


async def test_fastest_follows_the_moving_average_and_tries_unknown_keys():
    pool = Pool(key("a"), key("b"), strategies=["fastest"])
    assert await pool.call(first_byte=0.5) == "a"
    assert await pool.call(first_byte=0.1) == "b"
    assert await pool.call(first_byte=3.0) == "b"  # average now 0.68
    assert await pool.call(first_byte=0.5) == "a"
    pool.clock.advance(61)
    assert {await pool.call(first_byte=0.5) for _ in range(2)} == {"a", "b"}


async def test_sticky_keeps_a_conversation_on_its_key_until_that_is_limited():
    pool = Pool(*[key(name, max_rpm=3) for name in "abcdef"], strategies=["sticky"])
    homes = {name: await pool.use(sticky=name) for name in ("x", "v", "w")}
    assert [await pool.use(sticky="x") for _ in range(2)] == [homes["x"]] * 2
    moved = await pool.use(sticky="x")
    assert moved != homes["x"]
    pool.clock.advance(62)
    assert await pool.use(sticky="x") == homes["x"]
    spread = Pool(*[key(name) for name in "abcdef"], strategies=["sticky"])
    used = [await spread.use(sticky=f"conversation-{number}") for number in range(600)]
    assert min(used.count(name) for name in "abcdef") > 60


async def test_equal_keys_take_turns():
    pool = Pool(key("a"), key("b"), strategies=["task", "priority"])
    assert [await pool.use() for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_word_that_is_no_strategy_is_refused():
    with pytest.raises(ValueError, match="'fair' is not known; allowed: task, priority"):
        Pool(key("a"), strategies=["fair"])


# --- limits --------------------------------------------------------------------------------------


async def test_200_concurrent_calls_stay_within_every_limit():
    pool = Pool(key("a", max_rpm=30, max_tpm=2000, max_concurrent=25), key("b", max_rpm=40))
    leases = await asyncio.gather(*[pool.ring.choose(tokens=100) for _ in range(200)])
    taken = [lease.key.id for lease in leases if lease]
    assert (taken.count("a"), taken.count("b")) == (20, 40)


async def test_tokens_are_settled_from_what_was_used():
    pool = Pool(key("a", max_tpm=1000))
    lease = await pool.ring.choose(tokens=900)
    refused = await pool.ring.choose(tokens=900)
    assert not refused and 60 < refused.retry_after <= 62
    pool.ring.end(lease, sent=1, outcome="answered", status=200, tokens=100)
    assert pool.described("a")["tpm"] == 100
    assert await pool.use(tokens=900) == "a"


async def test_an_attempt_that_was_never_sent_gives_everything_back():
    pool = Pool(key("a", max_rpm=1, max_tpm=10, max_concurrent=1))
    lease = await pool.ring.choose(tokens=10)
    pool.ring.end(lease, sent=0, outcome="vetoed")
    pool.ring.end(lease, sent=1, outcome="answered", status=200)  # a second end is none
    described = pool.described("a")
    assert (described["rpm"], described["tpm"], described["in_flight"], described["requests"]) == (0, 0, 0, 0)
    assert await pool.use(tokens=10) == "a"


async def test_a_call_above_every_limit_is_told_that_waiting_does_not_help():
    pool = Pool(key("a", max_tpm=100))
    refused = await pool.ring.choose(tokens=101)
    assert refused.retry_after == NEVER
    assert "101 tokens" in refused.why


async def test_the_providers_figures_correct_the_picture():
    pool = Pool(key("a", max_rpm=100, max_tpm=10_000), key("b"), strategies=["priority"])
    headers = [
        (b"X-RateLimit-Remaining-Requests", b"2"), (b"x-ratelimit-reset-requests", b"30s"),
        (b"x-ratelimit-remaining-tokens", b"150"), (b"x-ratelimit-reset-tokens", b"6m0s"),
    ]  # fmt: skip
    only_a = {"only": "a"}
    await pool.call(call=only_a, headers=headers)
    assert pool.described("a")["rpm"] == 98
    assert pool.described("a")["tpm"] == 9850
    assert [await pool.use(**only_a) for _ in range(2)] == ["a", "a"]
    refused = await pool.ring.choose(**only_a)
    assert 29 < refused.retry_after <= 32


async def test_a_key_without_limits_of_its_own_believes_the_provider():
    pool = Pool(key("a"), key("b"), strategies=["priority"])
    assert await pool.call(headers=[(b"anthropic-ratelimit-requests-remaining", b"0")]) == "a"
    assert {await pool.use() for _ in range(3)} == {"b"}
    pool.clock.advance(60)
    assert {await pool.use() for _ in range(3)} == {"a", "b"}


async def test_more_room_at_the_provider_raises_nothing():
    pool = Pool(key("a", max_rpm=2))
    await pool.call(headers=[(b"x-ratelimit-remaining-requests", b"5000")])
    assert pool.described("a")["rpm"] == 1


async def test_figures_of_a_provider_that_was_silent_are_seen_at_once_where_headers_are_more_and_else_in_a_second():
    date, figure = (b"date", b"x"), (b"x-ratelimit-remaining-requests", b"2")
    pool = Pool(key("a", max_rpm=100))
    await pool.call(headers=[date])
    await pool.call(headers=[date, figure])
    assert pool.described("a")["rpm"] == 98
    pool = Pool(key("a", max_rpm=100))
    await pool.call(headers=[date, date])
    await pool.call(headers=[date, figure])
    assert pool.described("a")["rpm"] == 2
    pool.clock.advance(1)
    await pool.call(headers=[date, figure])
    assert pool.described("a")["rpm"] == 98


# --- health --------------------------------------------------------------------------------------


async def test_a_429_cools_the_key_until_its_retry_after():
    pool = Pool(key("a", priority=1), key("b"))
    assert await pool.call(429, "rate_limited", retry_after=2.5) == "a"
    assert await pool.use() == "b"
    assert pool.described("a")["state"] == "cooling"
    assert pool.described("a")["returns_in"] == 2.5
    pool.clock.advance(2.5)
    assert await pool.use() == "a"


async def test_the_later_deadline_wins():
    pool = Pool(key("a"))
    first, second = await pool.ring.choose(), await pool.ring.choose()
    pool.ring.end(first, sent=1, status=429, failure="rate_limited", retry_after=10)
    pool.ring.end(second, sent=1, status=429, failure="rate_limited", retry_after=3)
    assert (await pool.ring.choose()).retry_after == 10


async def test_429s_without_a_time_back_off_and_a_success_forgets_them():
    pool = Pool(key("a"))
    for expected in (1, 2, 4):
        await pool.call(429, "rate_limited")
        assert (await pool.ring.choose()).retry_after == expected
        pool.clock.advance(expected)
    await pool.call()
    await pool.call(429, "rate_limited")
    assert (await pool.ring.choose()).retry_after == 1


async def test_a_429_is_about_the_model_until_a_second_model_meets_it():
    pool = Pool(key("a"))
    await pool.call(429, "rate_limited", call={"model": "large"}, retry_after=30)
    assert not await pool.use(model="large")
    assert pool.described("a")["cooling_models"] == {"large": 30}
    await pool.call(429, "rate_limited", call={"model": "small"}, retry_after=20)
    assert (await pool.ring.choose(model="tiny")).retry_after == 20


async def test_a_refused_key_is_out_and_probed_by_one_call_later():
    pool = Pool(key("a", priority=1), key("b"))
    assert await pool.call(401, "auth") == "a"
    assert await pool.use() == "b"
    pool.clock.advance(60)
    probe = await pool.ring.choose()
    assert probe.key.id == "a"
    assert [await pool.use() for _ in range(3)] == ["b"] * 3
    pool.ring.end(probe, sent=1, status=401, failure="auth", outcome="failed")
    assert pool.described("a")["returns_in"] == 120
    pool.clock.advance(120)
    assert await pool.call() == "a"
    assert [await pool.use() for _ in range(2)] == ["a", "a"]


async def test_a_cancelled_probe_leaves_the_place_to_the_next():
    pool = Pool(key("a"))
    await pool.call(403, "auth")
    pool.clock.advance(60)
    probe = await pool.ring.choose()
    assert not await pool.use()
    pool.ring.end(probe, sent=1, outcome="cancelled")
    assert await pool.use() == "a"


@pytest.mark.parametrize(
    ("window", "seconds"),
    [("hour", 2800), ("day", 6400), ("week", 5 * 86400 + 6400), ("month", 16 * 86400 + 6400), (18000.0, 18000)],
)
async def test_a_spent_quota_takes_the_key_out_until_its_window_ends(window, seconds):
    pool = Pool(key("a", quota_window=window))  # the fake clock stands at 2023-11-14 22:13:20 UTC
    await pool.call(402, "quota")
    assert (await pool.ring.choose()).retry_after == seconds
    assert "quota" in pool.described("a")["why"]


async def test_the_provider_says_until_when_a_quota_is_spent():
    pool = Pool(key("a", quota_window="month"))
    await pool.call(402, "quota", retry_after=90)
    assert (await pool.ring.choose()).retry_after == 90


def test_a_quota_window_of_the_pool_holds_for_keys_without_one():
    from pydantic import ValidationError

    from proxy.config.keys import KeyPool

    keys = [{"id": "own", "secret": "s", "quota_window": "month"}, {"id": "other", "secret": "s"}]
    pool = KeyPool.model_validate({"quota_window": "5h", "keys": keys})
    ring = KeyRings({"p": pool}, MemoryState(FakeClock()), FakeClock()).get("p")
    assert [one.quota_window for one in ring.keys] == ["month", 18000.0]
    for wrong in ("year", 30, "0s", True, ["day"]):
        with pytest.raises(ValidationError, match=r"hour, day, week or month .*or a number with a unit"):
            KeyPool.model_validate({"keys": [{"id": "a", "secret": "s", "quota_window": wrong}]})


async def test_failures_of_the_upstream_take_no_key_out():
    pool = Pool(key("a"))
    for failure, status in (
        ("server_error", 500),
        ("timeout", None),
        ("client_error", 400),
        ("unreachable", None),
    ) * 20:
        await pool.call(status, failure)
    assert pool.described("a")["state"] == "ready"
    assert pool.described("a")["success_rate"] == 0


async def test_disabling_and_enabling_work_at_once():
    pool = Pool(key("a", priority=1), key("b", enabled=False))
    assert pool.ring.switch("a", on=False)
    refused = await pool.ring.choose()
    assert refused.retry_after == NEVER
    assert pool.ring.switch("b", on=True)
    assert await pool.use() == "b"
    await pool.call(429, "rate_limited", retry_after=500)
    assert pool.ring.switch("b", on=True)  # enabling ends a cooldown too
    assert await pool.use() == "b"
    assert not pool.ring.switch("nobody", on=True)
    assert pool.described("a")["why"] == "disabled by hand"


async def test_excluded_keys_and_the_only_key():
    pool = Pool(key("a"), key("b"), key("c"))
    assert await pool.use(excluded={"a", "c"}) == "b"
    assert await pool.use(only="c") == "c"
    assert (await pool.ring.choose(only="c", excluded={"c"})).retry_after == NEVER


async def test_the_earliest_return_of_all_keys_is_told():
    pool = Pool(key("a", max_rpm=1), key("b"), key("c", enabled=False))
    await pool.call(call={"only": "a"})
    await pool.call(429, "rate_limited", call={"only": "b"}, retry_after=7)
    assert (await pool.ring.choose()).retry_after == 7


# --- waiting -------------------------------------------------------------------------------------


async def test_a_waiting_call_is_woken_when_a_slot_comes_free():
    pool = Pool(key("a", max_concurrent=1))
    lease = await pool.ring.choose()
    waiting = asyncio.create_task(pool.ring.wait(30))
    await asyncio.sleep(0)
    pool.ring.end(lease, sent=1, status=200, outcome="answered")
    await waiting
    assert await pool.use() == "a"


async def test_a_waiting_call_ends_with_its_time_and_leaves_no_trace():
    pool = Pool(key("a", max_concurrent=1))
    tasks = [asyncio.create_task(pool.ring.wait(5)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    await pool.clock.run(5)
    assert all(task.done() for task in tasks)
    assert not pool.ring._waiting.turns


# --- life ----------------------------------------------------------------------------------------


async def test_history_survives_a_reload():
    lives: dict[str, Life] = {}
    pool = Pool(key("a"), lives=lives)
    await pool.call(call={"task": "text"})
    pool.ring.switch("a", on=False)
    again = KeyRing("pool", [key("a")], ["priority"], pool.state, pool.clock, lives=lives)
    assert again.snapshot()[0]["requests"] == 1
    assert again.snapshot()[0]["tasks"] == {"text": 1}
    assert not await again.choose()


async def test_pools_from_the_configuration():
    from proxy.config.keys import KeyPool

    first = {"id": "k1", "secret": "sk-1", "max_rpm": 5, "task_types": ["t"], "header": "api-key"}
    pool = KeyPool.model_validate({"keys": [first, {"id": "k2", "secret": "sk-2"}]})
    rings = KeyRings({"openai": pool}, MemoryState(FakeClock()), FakeClock())
    ring = rings.get("openai")
    lease = await ring.choose(task="t", tokens=5)
    assert (lease.key.id, lease.key.header, lease.key.reveal()) == ("k1", "api-key", "sk-1")
    assert rings.switch("k2", on=False) and not rings.switch("k3", on=False)
    text = repr(rings) + repr(ring) + repr(lease) + repr(lease.key) + str(rings.snapshot())
    assert "sk-1" not in text and "sk-2" not in text


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 60))
def test_nothing_is_left_and_no_window_is_exceeded_for_random_ends(seed, calls):
    """Random arrivals, ends and cancels; counted at the upstream, apart from the ring's own books."""

    async def run():
        dice = random.Random(seed)
        clock = FakeClock(monotonic=dice.random() * 100)
        state = MemoryState(clock)
        keys = [key("a", max_rpm=5, max_tpm=300, max_concurrent=3), key("b", max_rpm=8, max_tpm=500)]
        ring = KeyRing("pool", keys, ["least_loaded"], state, clock)
        seen: list[tuple[str, float, int]] = []

        async def one(estimate):
            lease = None
            sent = 0
            try:
                for _ in range(5):
                    lease = await ring.choose(tokens=estimate, sticky="s")
                    if lease:
                        break
                    await ring.wait(min(lease.retry_after, 20))
                if not lease:
                    return
                await clock.sleep(dice.random() * 0.2)
                sent = 1
                used = dice.randint(0, estimate)
                seen.append((lease.key.id, clock.monotonic(), used))
                await clock.sleep(dice.random() * 90)
                failure = dice.choice([None, None, None, "rate_limited", "server_error"])
                ring.end(lease, sent=1, status=429 if failure else 200, failure=failure, tokens=used)
            finally:
                if lease:
                    ring.end(lease, sent=sent, outcome="cancelled")

        tasks = []
        for _ in range(calls):
            tasks.append(asyncio.create_task(one(dice.randint(1, 150))))
            await clock.run(dice.random() * 5)
            if dice.random() < 0.3:
                dice.choice(tasks).cancel()
        for task in tasks:
            if dice.random() < 0.3:
                task.cancel()
        await clock.run(1000)
        await asyncio.gather(*tasks, return_exceptions=True)
        limits = {"a": (5, 300), "b": (8, 500)}
        for name, start, _ in seen:
            inside = [used for other, at, used in seen if other == name and start <= at < start + 60]
            assert len(inside) <= limits[name][0]
            assert sum(inside) <= limits[name][1]
        assert not ring._waiting.turns
        assert all(one.life.in_flight == 0 for one in keys)
        clock.advance(200)
        assert [state.usage(one.rpm).used + state.usage(one.tpm).used for one in keys] == [0, 0]
        for one in keys:
            one.joint.close()
        state.sweep(10_000)
        assert state.meters == {}

    asyncio.run(run())
