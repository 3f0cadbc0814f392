"""An outage is not multiplied: counted at the provider."""

from __future__ import annotations

import asyncio
from typing import Any

from openai import APIConnectionError, AsyncOpenAI, InternalServerError, OpenAIError

from proxy.testing import FakeUpstream, chat_answer, hang, reply, reset

FAST = {"initial": "1ms", "max": "5ms"}


async def test_retries_stay_under_their_share_of_the_calls(start: Any, first: FakeUpstream) -> None:
    first.default = reply({"error": {"message": "down"}}, status=503)
    proxy = await start([{"retry": {"attempts": 5, "backoff": FAST, "max_retry_ratio": 0.2}}], first=first.url)
    answers = await asyncio.gather(*(proxy.post() for _ in range(200)))
    assert {answer.status for answer in answers} == {503}
    await proxy.at_rest()
    assert 200 < len(first.calls) <= 200 + 0.2 * 200 + 10


async def test_hedges_stay_under_their_share_of_the_calls(start: Any, first: FakeUpstream) -> None:
    first.default = hang()
    proxy = await start([{"hedge": {"after": "50ms", "max_ratio": 0.1}}], first=first.url)
    await asyncio.gather(*(proxy.post() for _ in range(90)))
    await proxy.at_rest()
    assert 90 < len(first.calls) <= 90 + 0.1 * 90 + 2


async def test_a_hedge_that_is_faster_serves_the_call_and_the_other_is_lost(start: Any, first: FakeUpstream) -> None:
    first.script(hang(), reply(chat_answer("from the second request")))
    proxy = await start([{"hedge": {"after": "50ms"}}], first=first.url)
    answer = await proxy.post()
    assert b"from the second request" in answer.body
    assert answer.seconds < 0.28  # the first request's own patience is 300 ms
    await asyncio.wait_for((await first.call(0)).disconnected, 5.0)
    await proxy.at_rest()
    assert proxy.recorder.outcomes == ["lost", "answered"]


async def test_a_hedge_may_go_to_another_target(start: Any, first: FakeUpstream, second: FakeUpstream) -> None:
    first.default = hang()
    proxy = await start(
        [{"hedge": {"after": "50ms", "target": {"upstream": "second"}}}], first=first.url, second=second.url
    )
    answer = await proxy.post()
    assert (answer.status, answer.headers["x-sidecar-upstream"]) == (200, "second")
    await proxy.at_rest()


async def test_the_sdks_retries_do_not_multiply_with_ours(start: Any, first: FakeUpstream) -> None:
    first.default = reply({"error": {"message": "down"}}, status=500)
    proxy = await start([{"retry": {"attempts": 3, "backoff": FAST}}], first=first.url)
    async with AsyncOpenAI(base_url=proxy.url, api_key="k", max_retries=2) as client:
        try:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
        except InternalServerError:
            pass
        else:
            raise AssertionError("the provider answers 500")
    await proxy.at_rest()
    assert [call.header("x-stainless-retry-count") for call in first.calls] == ["0", "0", "0", "1", "2"]


async def test_the_sdk_stops_when_the_proxy_has_spent_its_tries(start: Any, first: FakeUpstream) -> None:
    first.default = reset()
    proxy = await start([{"retry": {"attempts": 3, "backoff": FAST}}], first=first.url)
    async with AsyncOpenAI(base_url=proxy.url, api_key="k", max_retries=2) as client:
        try:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
        except APIConnectionError:
            raise AssertionError("the proxy must answer") from None
        except OpenAIError:
            pass
    await proxy.at_rest()
    assert len(first.calls) == 3


async def test_a_deadline_ends_the_call_with_all_its_tries(start: Any, first: FakeUpstream) -> None:
    first.default = hang()
    proxy = await start([{"retry": {"attempts": 10, "backoff": FAST, "deadline": "700ms"}}], first=first.url)
    answer = await proxy.post()
    await proxy.at_rest()
    assert (answer.status, answer.code) == (504, "upstream_timeout")
    assert 0.6 < answer.seconds < 1.1
    assert len(first.calls) == 3


async def test_a_client_that_leaves_during_a_backoff_ends_the_call(start: Any, first: FakeUpstream) -> None:
    first.default = reply({}, status=429, headers={"retry-after": "20"})
    proxy = await start([{"retry": {"attempts": 3}}], first=first.url)
    call = asyncio.create_task(proxy.post())
    await first.call(0)
    await asyncio.sleep(0.05)
    call.cancel()
    await proxy.at_rest()
    assert len(first.calls) == 1
    assert [one.outcome for one in proxy.recorder.done] == ["cancelled"]
