"""rate_limit: limits hold, those who wait are served fairly, nothing is left after any way to end."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.accounting.usage import Usage
from proxy.clock import FakeClock
from proxy.errors import ProxyError
from proxy.exchange import Answer, Principal
from proxy.policies.rate_limit import RateLimit
from proxy.state import MemoryState
from proxy.testing import called, exchange_builder, policy_builder, services_builder


class Limiter:
    """The policy on a fake clock."""

    def __init__(self, observe=False, **options):
        self.clock = FakeClock()
        self.state = MemoryState(self.clock)
        services = services_builder(self.clock)
        services.offer("state", lambda _: self.state)
        self.policy = policy_builder(RateLimit, options, services=services, observe=observe)

    def call(self, principal="anna", body=None, **options):
        return exchange_builder(
            body or {"model": "m", "max_tokens": 10, "messages": []}, principal=Principal(principal), **options
        )

    async def enter(self, principal="anna", **options):
        exchange = self.call(principal, **options)
        await called(self.policy.on_request(exchange))
        return exchange

    async def refused(self, principal="anna", **options):
        with pytest.raises(ProxyError) as caught:
            await self.enter(principal, **options)
        return caught.value

    async def end(self, exchange, usage=None):
        exchange.attempts = exchange.attempts or [object()]
        exchange.usage = usage
        await called(self.policy.on_done(exchange))

    def idle(self):
        self.clock.advance(10_000)
        self.state.sweep(10_000)
        self.state.sweep(10_000)
        return self.state.meters == {} and not self.policy.lines


async def test_a_full_minute_is_usable_at_once_and_refills():
    limiter = Limiter(rpm=60)
    for _ in range(60):
        await limiter.enter()
    error = await limiter.refused()
    assert (error.code, error.policy) == ("rate_limit_exceeded", "rate_limit")
    assert error.retry_after == pytest.approx(1.0)
    limiter.clock.advance(1.0)
    await limiter.enter()
    await limiter.refused()


async def test_principals_do_not_share_but_projects_do():
    limiter = Limiter(per="principal", rpm=1)
    await limiter.enter("anna")
    await limiter.enter("ben")
    together = Limiter(per=["project", "tag:team"], rpm=1)
    await together.enter("anna", project="p", tags={"team": "x"})
    await together.enter("anna", project="p", tags={"team": "y"})
    await together.refused("ben", project="p", tags={"team": "x"})


async def test_tokens_are_estimated_then_settled():
    limiter = Limiter(tpm=1000)
    body = {"model": "m", "max_tokens": 900, "messages": [{"role": "user", "content": "hello"}]}
    exchange = await limiter.enter(body=body)
    assert (await limiter.refused(body=body)).retry_after > 45
    await limiter.end(exchange, Usage(input=10, output=20))
    await limiter.enter(body=body)


async def test_what_reached_no_provider_costs_no_tokens():
    limiter = Limiter(tpm=1000)
    body = {"model": "m", "max_tokens": 900, "messages": []}
    exchange = await limiter.enter(body=body)
    exchange.usage = Usage(input=10, output=890)
    exchange.cache_status = "hit"
    await called(limiter.policy.on_done(exchange))
    await limiter.enter(body=body)


async def test_a_request_larger_than_the_bucket_is_refused_and_not_invited_again():
    limiter = Limiter(tpm=100, on_limit="wait", max_wait="1h")
    error = await limiter.refused(body={"model": "m", "max_tokens": 101, "messages": []})
    assert error.retry_after is None and error.should_retry is False
    assert "can never fit" in error.message


async def test_several_limits_are_reserved_together_or_not_at_all():
    limiter = Limiter(rpm=100, limits=[{"per": "all", "rpm": 3}, {"per": "project", "max_concurrent": 2}])
    first, _ = await limiter.enter("anna", project="p"), await limiter.enter("ben", project="p")
    await limiter.refused("cleo", project="p")
    await limiter.enter("cleo", project="q")
    await limiter.end(first)
    error = await limiter.refused("cleo", project="p")
    assert error.retry_after == pytest.approx(20)
    limits = {
        (*limit["per"], limit["unit"]): limit["remaining"] for limit in limiter.policy.limits(limiter.call("cleo"))
    }
    assert limits["principal", "requests a minute"] == 99
    assert limits["all", "requests a minute"] == 0


async def test_burst_bounds_what_goes_at_once():
    limiter = Limiter(rpm=600, tpm=6000, burst=10)
    for _ in range(10):
        await limiter.enter(body={"model": "m", "max_tokens": 1, "messages": []})
    error = await limiter.refused()
    assert error.retry_after == pytest.approx(0.1)
    assert (await limiter.refused("ben", body={"model": "m", "max_tokens": 101, "messages": []})).retry_after is None


async def test_answers_and_refusals_carry_the_usual_headers():
    limiter = Limiter(rpm=60, tpm=6000)
    exchange = await limiter.enter()
    theirs = [(b"X-RateLimit-Remaining-Requests", b"9999"), (b"content-type", b"application/json")]
    answer = Answer(200, theirs, origin="upstream")
    await called(limiter.policy.on_response(exchange, answer))
    assert dict(answer.headers) == {
        b"content-type": b"application/json",
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"1000ms",
        b"x-ratelimit-limit-tokens": b"6000",
        b"x-ratelimit-remaining-tokens": b"5987",
        b"x-ratelimit-reset-tokens": b"129ms",
    }
    streamed = Answer(200, [], origin="upstream", events=True)
    assert limiter.policy.open_stream(exchange, streamed) is None
    assert (b"x-ratelimit-limit-requests", b"60") in streamed.headers
    for _ in range(59):
        await limiter.enter()
    assert (b"x-ratelimit-remaining-requests", b"0") in (await limiter.refused()).headers


async def test_observe_counts_but_never_refuses():
    limiter = Limiter(observe=True, rpm=1)
    await limiter.enter()
    exchange = await limiter.enter()
    assert exchange.notes == [("rate_limit", "would reject: too many requests a minute")]


# --- waiting -------------------------------------------------------------------------------------


async def start(limiter, *calls):
    tasks = [asyncio.create_task(limiter.enter(principal, **options)) for principal, options in calls]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_a_call_waits_for_its_turn():
    limiter = Limiter(rpm=60, burst=1, on_limit="wait", max_wait="5s")
    await limiter.enter()
    (task,) = await start(limiter, ("anna", {}))
    await limiter.clock.run(0.9)
    assert not task.done()
    await limiter.clock.run(0.2)
    assert (await task).notes[0][1].startswith("waited 1.0")


async def test_a_wait_that_cannot_succeed_is_refused_at_once_and_others_after_max_wait():
    limiter = Limiter(rpm=6, burst=1, on_limit="wait", max_wait="15s")
    await limiter.enter()
    tasks = await start(limiter, *[("anna", {})] * 3)
    await limiter.clock.run(10.1)
    assert [task.done() for task in tasks] == [True, False, False]
    await limiter.clock.run(5)
    for task in tasks[1:]:
        with pytest.raises(ProxyError) as caught:
            await task
        assert caught.value.retry_after > 0
    strict = Limiter(rpm=1, burst=1, on_limit="wait", max_wait="15s")
    await strict.enter()
    assert (await strict.refused()).retry_after == pytest.approx(60)


async def test_the_more_urgent_goes_first_and_principals_take_turns():
    limiter = Limiter(per="all", rpm=60, burst=1, on_limit="wait", max_wait="60s")
    await limiter.enter()
    order = []

    async def one(name, principal, priority):
        await limiter.enter(principal, priority=priority)
        order.append(name)

    calls = [("a1", "anna", "normal"), ("a2", "anna", "normal"), ("a3", "anna", "normal")]
    calls += [("b1", "ben", "normal"), ("bg", "cleo", "background"), ("c", "dora", "critical"), ("h", "dora", "high")]
    tasks = [asyncio.create_task(one(*call)) for call in calls]
    await limiter.clock.run(20)
    await asyncio.gather(*tasks)
    assert order == ["c", "h", "a1", "b1", "a2", "a3", "bg"]


async def test_a_new_call_does_not_overtake_those_who_wait():
    limiter = Limiter(per="all", rpm=60, burst=2, on_limit="wait", max_wait="60s")
    big = {"model": "m", "messages": []}
    await limiter.enter(body=big)
    await limiter.enter(body=big)
    first, second = await start(limiter, ("anna", {}), ("ben", {}))
    await limiter.clock.run(1.01)
    assert first.done() and not second.done()
    (late,) = await start(limiter, ("cleo", {}))
    await limiter.clock.run(1.0)
    assert second.done() and not late.done()
    await limiter.clock.run(1.0)
    assert late.done()


async def test_who_waits_for_his_own_bucket_holds_up_nobody():
    limiter = Limiter(rpm=60, burst=1, limits=[{"per": "all", "rpm": 600, "burst": 2}], on_limit="wait", max_wait="60s")
    await limiter.enter("anna")
    await limiter.enter("ben")
    tasks = await start(limiter, ("anna", {}), ("cleo", {}), ("dora", {}))
    await limiter.clock.run(0.25)
    assert [task.done() for task in tasks] == [False, True, True]
    await limiter.clock.run(1)
    assert tasks[0].done()


async def test_a_client_that_leaves_gives_his_place_to_the_next():
    limiter = Limiter(per="all", max_concurrent=1, on_limit="wait", max_wait="60s")
    held = await limiter.enter()
    tasks = await start(limiter, ("anna", {}), ("ben", {}))
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    await limiter.end(held)
    ben = await tasks[1]
    await limiter.end(ben)
    assert limiter.idle()


async def test_twenty_principals_share_fairly():
    """500 callers of 20 principals, one of them with far more callers: Jain's index of what each got."""
    limiter = Limiter(per="all", rpm=6000, burst=1, on_limit="wait", max_wait="1h")
    got = dict.fromkeys(range(20), 0)

    async def caller(principal):
        while True:
            exchange = await limiter.enter(f"p{principal}")
            await limiter.end(exchange)
            got[principal] += 1

    owners = list(range(20)) * 15 + [0] * 200
    tasks = [asyncio.create_task(caller(owner)) for owner in owners]
    await limiter.clock.run(10)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    total = sum(got.values())
    assert 990 <= total <= 1010
    assert total**2 / (20 * sum(count**2 for count in got.values())) > 0.99
    await limiter.clock.run(2)
    assert limiter.idle()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_is_left_after_random_ends_and_no_limit_is_exceeded(seed):
    async def run():
        dice = random.Random(seed)
        limiter = Limiter(
            rpm=30, tpm=3000, burst=5, max_concurrent=3, on_limit="wait", max_wait="20s",
            limits=[{"per": "all", "rpm": 60, "burst": 6, "max_concurrent": 5}],
        )  # fmt: skip
        running = 0
        entered: list[float] = []

        async def one():
            nonlocal running
            body = {"model": "m", "max_tokens": dice.randint(1, 200), "messages": []}
            exchange = limiter.call(
                dice.choice(["anna", "ben", "cleo"]), body, priority=dice.choice(["high", "normal"])
            )
            await called(limiter.policy.on_request(exchange))
            running += 1
            entered.append(limiter.clock.monotonic())
            assert running <= 5
            try:
                await limiter.clock.sleep(dice.random() * 5)
            finally:
                running -= 1
                await limiter.end(exchange, Usage(input=1, output=dice.randint(0, 200)))

        tasks = []
        for _ in range(60):
            tasks.append(asyncio.create_task(one()))
            await limiter.clock.run(dice.random())
            if dice.random() < 0.3:
                dice.choice(tasks).cancel()
            if dice.random() < 0.1:
                limiter.clock.jump(dice.choice([-3600, 3600]))
        await limiter.clock.run(120)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, ProxyError | asyncio.CancelledError) for result in results)
        for start_of in entered:
            for seconds in (1, 10, 60):
                inside = sum(start_of <= moment <= start_of + seconds for moment in entered)
                assert inside <= 6 + seconds + 1
        assert limiter.idle()

    asyncio.run(run())


async def test_a_million_idle_principals_leave_no_handles():
    limiter = Limiter(rpm=60)
    for number in range(11_000):
        await limiter.end(await limiter.enter(f"p{number}"))
    assert limiter.idle()
    assert limiter.policy._accounts == {}
    assert len(limiter.state.sweeper) == 0


async def test_the_figures_of_everybody():
    limiter = Limiter(rpm=60)
    await limiter.enter()
    (told,) = limiter.policy.snapshot()
    assert (told["per"], told["value"], told["unit"], told["used"], told["limit"]) == (
        ["principal"],
        "anna",
        "requests a minute",
        1,
        60,
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "at least one of rpm, tpm, max_concurrent"),
        ({"burst": 5, "max_concurrent": 2}, "burst needs rpm or tpm"),
        ({"rpm": 5, "per": "team"}, "allowed are principal, project"),
        ({"rpm": 5, "per": []}, "at least one dimension"),
        ({"rpm": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_options_are_refused_at_load(options, said):
    with pytest.raises(ValidationError, match=said):
        RateLimit.Options.model_validate(options)
