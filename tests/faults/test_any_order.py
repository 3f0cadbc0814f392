"""Any interleaving of outcomes, cancellations and deadlines: each attempt ends once, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.testing import FakeUpstream, chat_answer, chat_events, close, events, garbage, hang, reply, reset

ERROR = b'data: {"error": {"message": "overloaded", "code": "server_error"}}\n\n'
STEPS = {
    "good": reply(chat_answer()),
    "stream": events(*chat_events(), gap=0.003),
    "slow": reply(chat_answer(), delay=0.03),
    "500": reply({"error": {"message": "no"}}, status=500),
    "429": reply({"error": {"message": "no"}}, status=429, headers={"retry-after-ms": "10"}),
    "400": reply({"error": {"message": "no"}}, status=400),
    "reset": reset(),
    "close": close("in_body"),
    "garbage": garbage(),
    "hang": hang(),
    "half": hang("in_body"),
    "cut early": events(chat_events()[0], then="close"),
    "cut late": events(*chat_events(done=False, finish=None), then="reset"),
    "error event": events(ERROR),
}
POLICIES: dict[str, dict[str, Any]] = {
    "retry": {"retry": {"attempts": 3, "backoff": {"initial": "2ms", "max": "5ms"}, "deadline": "150ms"}},
    "fallback": {"fallback": {"targets": [{"upstream": "second"}]}},
    "hedge": {"hedge": {"after": "8ms", "max_ratio": 1}},
    "breaker": {"circuit_breaker": {"fail_max": 2, "reset": "10ms"}},
    "rate": {"circuit_breaker": {"per": "model", "fail_max": 3, "error_rate": 0.5, "min_calls": 2, "reset": "5ms"}},
}
Calls = list[tuple[bool, float | None]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    chain=st.lists(st.sampled_from(sorted(POLICIES)), unique=True, max_size=5),
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=12),
    calls=st.lists(st.tuples(st.booleans(), st.one_of(st.none(), st.floats(0.0, 0.04))), min_size=1, max_size=8),
    wobbly=st.booleans(),
)
def test_every_attempt_ends_once_and_nothing_is_left(
    opened: Callable[..., Any],
    tmp_path_factory: Any,
    chain: list[str],
    steps: list[str],
    calls: Calls,
    wobbly: bool,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    asyncio.run(_run(opened, folder, [POLICIES[name] for name in chain], steps, calls, wobbly))


async def _run(
    opened: Callable[..., Any], folder: Path, chain: list[Any], steps: list[str], calls: Calls, wobbly: bool
) -> None:
    scripted = [STEPS[name] for name in steps]
    timeouts = {"timeouts": {"connect": "1s", "first_byte": "40ms", "idle": "40ms"}}
    if wobbly:
        chain = [*chain, "faults_recorder:Wobbly"]
    async with FakeUpstream(*scripted, default=STEPS["good"]) as first, FakeUpstream(default=STEPS["500"]) as second:
        second.script(*reversed(scripted))
        async with opened(folder, chain, options=timeouts, first=first.url, second=second.url) as proxy:

            async def call(stream: bool, leaves: float | None) -> None:
                body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hello"}]}
                try:
                    async with asyncio.timeout(leaves):
                        answer = await proxy.post(body)
                except (TimeoutError, aiohttp.ClientConnectionError):
                    assert leaves is not None
                else:
                    assert answer.status in (200, 400, 429, 500, 502, 503, 504), answer

            async with asyncio.timeout(20.0):
                await asyncio.gather(*(call(*one) for one in calls))
            await proxy.at_rest()
            assert len(proxy.recorder.done) <= len(calls)
            assert all(one.outcome is not None for one in proxy.recorder.done)
        await asyncio.sleep(0)
        own = {asyncio.current_task()}
        left = {
            task.get_coro().__qualname__  # type: ignore[union-attr]
            for task in asyncio.all_tasks() - own
            if "Connection._serve" not in task.get_coro().__qualname__  # type: ignore[union-attr]
        }
        assert not left
    gc.collect()
