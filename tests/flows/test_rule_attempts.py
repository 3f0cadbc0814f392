"""Rule 2: attempts, their order of help, and an end for every beginning."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from proxy.errors import ProxyError
from proxy.exchange import Target
from proxy.policy import Fallback, Retry, Veto, Wait
from proxy.testing import FakeUpstream, chat_answer, chat_events, events, hang, reply, reset

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = BODY | {"stream": True}
OK = reply(chat_answer("Hi"))


class Key:
    """A key as an attempt takes it."""

    def __init__(self, name: str) -> None:
        self.id = name

    def reveal(self) -> str:
        return f"sk-{self.id}"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watch(policy: Callable[..., str], said: list[str]) -> Callable[..., str]:
    """A policy that writes down begins and ends; ``on_attempt`` replaces its own."""

    def make(mark: str, on_attempt: Any = None, **phases: Any) -> str:
        async def begin(self: Any, exchange: Any, attempt: Any) -> Any:
            said.append(f"{mark} begin")
            return None if on_attempt is None else await on_attempt(exchange, attempt)

        async def end(self: Any, exchange: Any, attempt: Any) -> None:
            said.append(f"{mark} end {attempt.outcome}")

        return policy(mark, on_attempt=begin, on_attempt_end=end, **phases)

    return make


def keys(*names: str) -> Any:
    """An on_attempt that gives the first key that is not excluded, else vetoes the target."""

    async def choose(exchange: Any, attempt: Any) -> Veto | None:
        for name in names:
            if name not in exchange.excluded_keys:
                attempt.key = Key(name)
                return None
        return Veto("target", ProxyError("no_key_available", "All keys are used up.", retry_after=7))

    return choose


async def _again(self: Any, exchange: Any, attempt: Any, verdict: Any) -> Retry | None:
    return Retry(0.0) if verdict.failure is not None and attempt.try_number < 3 else None


async def test_every_begin_has_one_end_innermost_first(sidecar, setting, upstream, wire, watch, said):
    proxy = await sidecar(setting(upstream, watch("a"), watch("b")))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    assert (await client.answer()).status == 200
    assert said == ["a begin", "b begin", "b end answered", "a end answered"]


async def test_a_veto_ends_only_those_that_returned(sidecar, setting, upstream, wire, watch, said):
    async def veto(exchange: Any, attempt: Any) -> Veto:
        return Veto("target", ProxyError("circuit_open", "It is open.", retry_after=12))

    proxy = await sidecar(setting(upstream, watch("a"), watch("b", veto), watch("c")))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (503, "circuit_open")
    assert (answer.header("retry-after"), answer.header("x-sidecar-policy")) == ("12", "b")
    assert said == ["a begin", "b begin", "b end vetoed", "a end vetoed"]
    assert upstream.calls == []
    assert answer.header("x-sidecar-attempts") == "0"


async def test_a_veto_by_exception_ends_those_that_returned(sidecar, setting, upstream, wire, watch, said):
    async def veto(exchange: Any, attempt: Any) -> None:
        raise ProxyError("insufficient_quota", "Spent.")

    proxy = await sidecar(setting(upstream, watch("a"), watch("b", veto)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert (answer.status, answer.error["code"], answer.header("x-sidecar-policy")) == (429, "insufficient_quota", "b")
    assert said == ["a begin", "b begin", "a end vetoed"]


async def test_a_vetoed_key_is_replaced_at_once_and_counts_as_no_try(sidecar, setting, upstream, wire, watch, said):
    async def veto_first(exchange: Any, attempt: Any) -> Veto | None:
        if attempt.key.id == "one":
            return Veto("key", ProxyError("circuit_open", "This key rests."))
        return None

    proxy = await sidecar(setting(upstream, watch("keys", keys("one", "two")), watch("breaker", veto_first)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert (answer.status, answer.header("x-sidecar-key"), answer.header("x-sidecar-attempts")) == (200, "two", "1")
    assert (await upstream.call()).header("authorization") == "Bearer sk-two"
    assert said.count("keys end vetoed") == said.count("breaker end vetoed") == 1
    assert proxy.exchanges[0].attempts[0].try_number == 1


async def test_with_all_excluded_the_earliest_time_is_told(sidecar, setting, upstream, wire, watch):
    times = {"one": 30.0, "two": 4.0}

    async def veto(exchange: Any, attempt: Any) -> Veto:
        return Veto("key", ProxyError("circuit_open", "It rests.", retry_after=times[attempt.key.id]))

    proxy = await sidecar(setting(upstream, watch("keys", keys("one", "two")), watch("breaker", veto)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert (answer.status, answer.header("retry-after")) == (503, "4")


@pytest.mark.parametrize("status", [401, 402, 403, 429])
async def test_a_refused_key_is_followed_by_another_without_retry(sidecar, setting, wire, watch, said, status):
    async with FakeUpstream(reply({"error": {"message": "no"}}, status=status), OK) as upstream:
        proxy = await sidecar(setting(upstream, watch("keys", keys("one", "two"))))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        answer = await client.answer()
        assert [call.header("authorization") for call in upstream.calls] == ["Bearer sk-one", "Bearer sk-two"]
    assert (answer.status, answer.header("x-sidecar-attempts")) == (200, "2")
    assert [line for line in said if "vetoed" not in line][-1] == "keys end answered"
    begun, ended = (Counter(word for line in said if word in line.split()) for word in ("begin", "end"))
    assert begun["begin"] == ended["end"]


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_other_failures_do_not_change_the_key(sidecar, setting, wire, watch, status):
    async with FakeUpstream(reply({"error": {"message": "no"}}, status=status), OK) as upstream:
        proxy = await sidecar(setting(upstream, watch("keys", keys("one", "two"))))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        assert (await client.answer()).status == status
        assert len(upstream.calls) == 1


async def test_all_keys_refused_is_the_last_vetos_error(sidecar, setting, wire, watch):
    no = reply({"error": {"message": "bad key", "code": "invalid_api_key"}}, status=401)
    async with FakeUpstream(no, no) as upstream:
        proxy = await sidecar(setting(upstream, watch("keys", keys("one", "two"))))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        answer = await client.answer()
        assert len(upstream.calls) == 2
    assert (answer.status, answer.error["code"], answer.header("retry-after")) == (503, "no_key_available", "7")


@pytest.mark.parametrize("gzip", [False, True])
async def test_a_key_that_the_provider_repeats_in_its_error_is_not_told(sidecar, setting, wire, watch, gzip):
    said = reply(
        {"error": {"message": "Incorrect API key provided: sk-number-one."}},
        status=401,
        headers={"x-debug": "Bearer sk-number-one"},
        gzip=gzip,
    )
    async with FakeUpstream(said) as upstream:
        proxy = await sidecar(setting(upstream, watch("keys", keys("number-one"))))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        answer = await client.answer()
        assert upstream.calls[0].header("authorization") == "Bearer sk-number-one"
    assert answer.error["message"] == "Incorrect API key provided: [secret]."
    assert answer.header("x-debug") == "Bearer [secret]"


async def test_key_then_retry_then_fallback(sidecar, setting, wire, policy, watch):
    order: list[str] = []

    async def choose(exchange: Any, attempt: Any) -> Veto | None:
        order.append(f"{attempt.upstream} try {attempt.try_number}")
        return await keys("one", "two")(exchange, attempt) if attempt.upstream == "up" else None

    async def retry(self: Any, exchange: Any, attempt: Any, verdict: Any) -> Retry | None:
        order.append(f"retry? {verdict.status}")
        return Retry(0.0) if attempt.upstream == "up" and attempt.try_number < 2 else None

    async def fall_back(self: Any, exchange: Any, attempt: Any, verdict: Any) -> Fallback | None:
        order.append(f"fallback? {verdict.status}")
        return Fallback(Target("other", "small")) if attempt.upstream == "up" else None

    limited = reply({"error": {"message": "slow"}}, status=429)
    async with FakeUpstream(default=limited) as upstream, FakeUpstream(OK) as other:
        chain = [policy(on_result=fall_back), policy(on_result=retry), watch("keys", choose)]
        more = {"other": {"api": "openai", "base_url": other.url}}
        proxy = await sidecar(setting(upstream, *chain, upstreams=more))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        answer = await client.answer()
        assert other.calls[0].json["model"] == "small"
        assert [call.header("authorization") for call in upstream.calls][:2] == ["Bearer sk-one", "Bearer sk-two"]
    assert (answer.status, answer.header("x-sidecar-upstream")) == (200, "other")
    assert [line for line in order if "try " in line][-1] == "other try 1"
    assert order.index("retry? 429") < order.index("fallback? 429")
    assert proxy.exchanges[0].attempts[-1].try_number == 1
    tries = [(attempt.upstream, attempt.try_number) for attempt in proxy.exchanges[0].attempts]
    assert tries[:2] == [("up", 1), ("up", 1)]


async def test_retry_sends_the_same_bytes_again(sidecar, setting, wire, policy, watch, said):
    failed = reply({"error": {"message": "broken"}}, status=500)
    async with FakeUpstream(failed, failed, OK) as upstream:
        proxy = await sidecar(setting(upstream, policy(on_result=_again, late_commit=True), watch("a")))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", b'{"model": "gpt-4o",   "messages": []}')
        assert (await client.answer()).status == 200
        assert {call.body for call in upstream.calls} == {b'{"model": "gpt-4o",   "messages": []}'}
    assert said == ["a begin", "a end failed"] * 2 + ["a begin", "a end answered"]


async def test_when_nobody_helps_the_upstreams_error_is_unchanged(sidecar, setting, wire, policy):
    body = b'{"error":   {"message":"broken","code":"x"}}'
    failed = reply(body=body, status=503, headers={"x-should-retry": "true", "retry-after": "3", "X-Own": "1"})
    async with FakeUpstream(default=failed) as upstream:
        proxy = await sidecar(setting(upstream, policy(on_result=_again, late_commit=True)))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        answer = await client.answer()
        assert len(upstream.calls) == 3
    assert (answer.status, answer.body, answer.header("x-should-retry")) == (503, body, "true")
    assert (answer.header("retry-after"), answer.header("x-own")) == ("3", "1")


async def test_our_error_after_several_tries_tells_the_client_not_to_retry(sidecar, setting, wire, policy):
    async with FakeUpstream(default=reset()) as upstream:
        proxy = await sidecar(setting(upstream, policy(on_result=_again, late_commit=True)))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        answer = await client.answer()
    assert (answer.status, answer.header("x-should-retry")) == (502, "false")


async def test_one_try_leaves_the_retry_to_the_client(sidecar, setting, wire):
    async with FakeUpstream(default=reset()) as upstream:
        proxy = await sidecar(setting(upstream))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        answer = await client.answer()
    assert (answer.status, answer.header("x-should-retry")) == (502, None)


async def test_a_streamed_body_is_sent_once_only(sidecar, setting, wire, policy):
    async with FakeUpstream(default=reply({"error": {"message": "broken"}}, status=500)) as upstream:
        proxy = await sidecar(setting(upstream, policy(on_result=_again, late_commit=True)))
        client = await wire(proxy.port)
        await client.post("/v1/files", b"--x--", "Content-Type: multipart/form-data; boundary=x")
        assert (await client.answer()).status == 500
        assert len(upstream.calls) == 1


async def test_a_wait_holds_nothing_and_starts_from_the_outside(sidecar, setting, upstream, wire, watch, said):
    gate = asyncio.Event()
    waits: list[int] = []

    async def until() -> None:
        waits.append(len(said))
        await gate.wait()

    async def wait(exchange: Any, attempt: Any) -> Wait | None:
        return None if gate.is_set() else Wait(until)

    proxy = await sidecar(setting(upstream, watch("a"), watch("b", wait)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    async with asyncio.timeout(2):
        while not waits:
            await asyncio.sleep(0.005)
    assert said == ["a begin", "b begin", "b end vetoed", "a end vetoed"]
    gate.set()
    assert (await client.answer()).status == 200
    assert said[4:] == ["a begin", "b begin", "b end answered", "a end answered"]


async def test_a_wait_ends_when_the_client_leaves(sidecar, setting, upstream, wire, watch, said):
    ended = asyncio.Event()

    async def until() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def wait(exchange: Any, attempt: Any) -> Wait:
        return Wait(until)

    proxy = await sidecar(setting(upstream, watch("a", wait)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    async with asyncio.timeout(2):
        while "a end vetoed" not in said:
            await asyncio.sleep(0.005)
    await client.hang_up()
    await asyncio.wait_for(ended.wait(), 0.5)
    assert upstream.calls == []


async def test_a_wait_that_gives_up_is_a_veto(sidecar, setting, upstream, wire, watch):
    async def until() -> None:
        raise ProxyError("rate_limit_exceeded", "Waited in vain.", retry_after=9)

    async def wait(exchange: Any, attempt: Any) -> Wait:
        return Wait(until)

    proxy = await sidecar(setting(upstream, watch("a", wait)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert (answer.status, answer.error["code"], answer.header("retry-after")) == (429, "rate_limit_exceeded", "9")


async def test_a_vetoed_target_falls_back(sidecar, setting, upstream, wire, policy, watch):
    async def veto(exchange: Any, attempt: Any) -> Veto | None:
        return Veto("target", ProxyError("circuit_open", "Open.")) if attempt.upstream == "up" else None

    async def fall_back(self: Any, exchange: Any, attempt: Any, verdict: Any) -> Fallback | None:
        assert verdict.veto is not None
        return Fallback(Target("other"))

    more = {"other": {"api": "openai", "base_url": upstream.url}}
    proxy = await sidecar(
        setting("http://127.0.0.1:9/v1", policy(on_result=fall_back), watch("a", veto), upstreams=more)
    )
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert (answer.status, answer.header("x-sidecar-upstream"), answer.header("x-sidecar-attempts")) == (
        200,
        "other",
        "1",
    )


@pytest.mark.parametrize("scope", ["key", "target", "call"])
async def test_a_policy_that_vetoes_for_ever_is_no_endless_loop(sidecar, setting, upstream, wire, policy, watch, scope):
    async def veto(exchange: Any, attempt: Any) -> Veto:
        return Veto(scope, ProxyError("circuit_open", "Open."))

    async def again(self: Any, exchange: Any, attempt: Any, verdict: Any) -> Retry:
        return Retry(0.0)

    proxy = await sidecar(setting(upstream, policy(on_result=again), watch("a", veto)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    assert (await client.answer()).status in (500, 503)
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("step", "stream", "outcome", "failure"),
    [
        (OK, False, "answered", None),
        (reply({"error": {}}, status=500), False, "failed", "server_error"),
        (reset(), False, "failed", "unreachable"),
        (reset("in_body"), False, "truncated", "truncated"),
        (events(*chat_events(["x"])), True, "answered", None),
        (events(*chat_events(["x"], finish=None, done=False), then="reset"), True, "truncated", "truncated"),
        (events(*chat_events(["x"], finish=None, done=False), then="end"), True, "truncated", "truncated"),
        (events(*chat_events(["x"], finish=None, done=False), then="hang"), True, "stalled", "stalled"),
    ],
)
async def test_each_end_has_its_outcome(sidecar, setting, wire, watch, said, step, stream, outcome, failure):
    async def settle(self: Any, exchange: Any) -> None:
        pass

    async with FakeUpstream(step, default=reset()) as upstream:
        up = {"timeouts": {"idle": "200ms"}}
        proxy = await sidecar(setting(upstream, watch("a", on_settle=settle), up=up))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM if stream else BODY)
        await client.answer()
    assert said == ["a begin", f"a end {outcome}"]
    assert proxy.exchanges[0].attempts[-1].failure == failure


async def test_a_client_that_leaves_ends_the_attempt_as_cancelled(sidecar, setting, wire, watch, said):
    async with FakeUpstream(hang()) as upstream:
        proxy = await sidecar(setting(upstream, watch("a"), watch("b")))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        call = await upstream.call()
        await client.hang_up()
        await asyncio.wait_for(call.disconnected, 0.5)
        async with asyncio.timeout(1):
            while not proxy.exchanges:
                await asyncio.sleep(0.005)
    assert said == ["a begin", "b begin", "b end cancelled", "a end cancelled"]


async def test_a_calls_deadline_bounds_all_tries(sidecar, setting, wire, policy):
    async def deadline(self: Any, exchange: Any) -> None:
        exchange.deadline = asyncio.get_running_loop().time() + 0.3

    async def again(self: Any, exchange: Any, attempt: Any, verdict: Any) -> Retry:
        return Retry(0.1)

    async with FakeUpstream(default=reply({"error": {"message": "x"}}, status=500)) as upstream:
        proxy = await sidecar(setting(upstream, policy(on_request=deadline, on_result=again, late_commit=True)))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        answer = await client.answer(timeout=2)
        assert 2 <= len(upstream.calls) <= 4
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
