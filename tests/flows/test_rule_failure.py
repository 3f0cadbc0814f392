"""Rules 7 and 8: what happens when a policy breaks, and the options every entry has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.config import ConfigError
from proxy.policy import Stage
from proxy.testing import FakeUpstream, chat_events, events

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = BODY | {"stream": True}


async def _break(self: Any, *_: Any) -> None:
    raise RuntimeError("the text of a body: secret-value")


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.message = record.getMessage()
        self.records.append(record)


@pytest.fixture
def log() -> Iterator[Callable[[], list[Any]]]:
    """What was logged of broken policies."""
    kept = Kept()
    logging.getLogger("llm_sidecar.chain").addHandler(kept)
    yield lambda: [record for record in kept.records if record.message == "policy failed"]
    logging.getLogger("llm_sidecar.chain").removeHandler(kept)


@pytest.mark.parametrize("phase", ["on_request", "on_attempt", "on_response"])
@pytest.mark.parametrize(("protects", "on_error"), [(True, None), (False, "closed")])
async def test_a_closed_policy_that_breaks_refuses_the_call(
    sidecar, setting, upstream, wire, policy, log, phase, protects, on_error
):
    made = policy("guard", protects=protects, **{phase: _break})
    entry = made if on_error is None else {made: {"on_error": on_error}}
    proxy = await sidecar(setting(upstream, entry))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert (answer.status, answer.error["code"], answer.header("x-sidecar-policy")) == (500, "policy_failed", "guard")
    assert "secret-value" not in answer.body.decode()
    assert [(line.policy, line.phase, line.on_error) for line in log()] == [("guard", phase, "closed")]
    if phase != "on_response":
        assert upstream.calls == []


@pytest.mark.parametrize(
    "phase", ["on_request", "on_attempt", "on_result", "on_attempt_end", "on_response", "on_settle", "on_done"]
)
@pytest.mark.parametrize(("protects", "on_error"), [(False, None), (True, "open")])
async def test_an_open_policy_that_breaks_is_passed_by(
    sidecar, setting, upstream, wire, policy, log, phase, protects, on_error
):
    made = policy("guest", protects=protects, **{phase: _break})
    entry = made if on_error is None else {made: {"on_error": on_error}}
    proxy = await sidecar(setting(upstream, entry))
    client = await wire(proxy.port)
    for _ in range(2):
        await client.post("/v1/chat/completions", BODY)
        assert (await client.answer()).status == 200
    assert {(line.policy, line.phase, line.on_error) for line in log()} == {("guest", phase, "open")}
    assert all("secret-value" not in str(line.__dict__) for line in log())


class Breaks(Stage):
    """Breaks at the second text."""

    def feed(self, event: Any) -> Any:
        if b"two" in event.raw:
            raise RuntimeError("secret-value")
        return (event,)


class BreaksAtEnd(Stage):
    """Breaks when it has to flush."""

    def end(self, reason: str) -> Any:
        raise RuntimeError("secret-value")


async def test_a_closed_stage_that_breaks_ends_the_stream(sidecar, setting, wire, policy, log):
    async with FakeUpstream(events(*chat_events(["one", "two", "three"]))) as upstream:
        made = policy("guard", protects=True, open_stream=lambda self, exchange, answer: Breaks())
        proxy = await sidecar(setting(upstream, made))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
    assert b"one" in answer.body
    assert b"two" not in answer.body
    assert b"three" not in answer.body
    assert b"policy_failed" in answer.body
    assert b"[DONE]" not in answer.body
    assert [(line.policy, line.phase) for line in log()] == [("guard", "stream")]


@pytest.mark.parametrize("stage", [Breaks, BreaksAtEnd])
async def test_an_open_stage_that_breaks_is_taken_out(sidecar, setting, wire, policy, log, stage):
    sent = chat_events(["one", "two", "three"])
    async with FakeUpstream(events(*sent)) as upstream:
        proxy = await sidecar(setting(upstream, policy("guest", open_stream=lambda *_: stage())))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        assert (await client.answer()).body == b"".join(sent)
    assert len(log()) == 1


@pytest.mark.parametrize("protects", [True, False])
async def test_a_stage_that_cannot_be_opened(sidecar, setting, wire, policy, protects):
    def broken(self: Any, exchange: Any, answer: Any) -> None:
        raise RuntimeError("no")

    async with FakeUpstream(events(*chat_events(["one"]))) as upstream:
        proxy = await sidecar(setting(upstream, policy("guard", protects=protects, open_stream=broken)))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
    if protects:
        assert (answer.status, answer.error["code"]) == (500, "policy_failed")
    else:
        assert answer.body == b"".join(chat_events(["one"]))


async def test_an_attempt_is_ended_although_an_inner_end_breaks(sidecar, setting, upstream, wire, policy):
    ended: list[str] = []

    async def end(self: Any, exchange: Any, attempt: Any) -> None:
        ended.append(attempt.outcome)

    proxy = await sidecar(setting(upstream, policy(on_attempt_end=end), policy(on_attempt_end=_break)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    assert (await client.answer()).status == 200
    assert ended == ["answered"]


async def test_others_are_done_although_one_breaks(sidecar, setting, upstream, wire, policy):
    done: list[str] = []

    async def finished(self: Any, exchange: Any) -> None:
        done.append(exchange.outcome)

    proxy = await sidecar(setting(upstream, policy(on_done=finished), policy(on_done=_break, on_settle=_break)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    assert (await client.answer()).status == 200
    await client.post("/v1/chat/completions", BODY)
    assert (await client.answer()).status == 200
    assert done == ["answered"] * 2


# --- when, mode, name ---------------------------------------------------------------------------------


async def test_when_decides_for_all_phases(sidecar, setting, upstream, wire, policy):
    seen: list[str] = []

    def note(name: str) -> Any:
        async def phase(self: Any, exchange: Any, *_: Any) -> None:
            seen.append(f"{name} {exchange.request.header('x-who')}")

        return phase

    phases = ["on_request", "on_attempt", "on_result", "on_attempt_end", "on_response", "on_settle", "on_done"]
    made = policy(**{name: note(name) for name in phases})
    proxy = await sidecar(setting(upstream, {made: {"when": {"headers": {"x-who": "me"}}}}))
    client = await wire(proxy.port)
    for who in ("you", "me"):
        await client.post("/v1/chat/completions", BODY, f"X-Who: {who}")
        assert (await client.answer()).status == 200
    assert seen == [f"{name} me" for name in phases]


@pytest.mark.parametrize(
    ("when", "entered"),
    [
        ({"model": "gpt-4*"}, True),
        ({"model": ["claude-*", "gpt-4o"]}, True),
        ({"model": "claude-*"}, False),
        ({"not": {"model": "claude-*"}}, True),
        ({"method": "post", "path": "/v1/chat/*"}, True),
        ({"method": "GET"}, False),
        ({"tags": {"team": "re*"}}, True),
        ({"task": "billing"}, False),
        ({"project": "alpha", "principal": "anonymous"}, True),
        ({"ip": "127.0.0.0/8"}, True),
        ({"ip": "10.0.0.0/8"}, False),
        ({"tokens": ">= 1000"}, False),
    ],
)
async def test_when_by_everything_it_can_ask(sidecar, setting, upstream, wire, policy, when, entered):
    seen: list[str] = []

    async def note(self: Any, exchange: Any) -> None:
        seen.append("entered")

    proxy = await sidecar(setting(upstream, {policy(on_request=note): {"when": when}}))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY, "X-Sidecar-Tags: team=red,b=c", "X-Sidecar-Project: alpha")
    assert (await client.answer()).status == 200
    assert bool(seen) is entered


async def test_a_when_that_reads_a_bad_body_is_a_clear_400(sidecar, setting, upstream, wire, policy):
    async def note(self: Any, exchange: Any) -> None: ...

    proxy = await sidecar(setting(upstream, {policy(on_request=note): {"when": {"model": "gpt*"}}}))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", b"{broken")
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")


async def test_off_is_not_there_and_observe_is_told(sidecar, setting, upstream, wire, policy):
    seen: list[bool] = []

    async def note(self: Any, exchange: Any) -> None:
        seen.append(self.observe)

    made = policy(on_request=note)
    for mode in ("off", "observe", "enforce"):
        proxy = await sidecar(setting(upstream, {made: {"mode": mode}}))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        assert (await client.answer()).status == 200
    assert seen == [True, False]


async def test_a_name_is_what_answers_and_logs_say(sidecar, setting, upstream, wire, policy, log):
    proxy = await sidecar(setting(upstream, {policy("guard", protects=True, on_request=_break): {"name": "door"}}))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    assert (await client.answer()).header("x-sidecar-policy") == "door"
    assert log()[0].policy == "door"


async def test_a_policy_that_cannot_observe_says_so(sidecar, setting, upstream, policy):
    made = policy("strict", observable=False)
    with pytest.raises(ConfigError) as caught:
        await sidecar(setting(upstream, {made: {"mode": "observe"}}))
    assert "observe" in str(caught.value.problems[0])


@pytest.mark.parametrize("entry", ["no_such_module:Thing", "tests.conftest:Wire", "validat"])
async def test_a_policy_that_does_not_exist_is_a_mistake_with_a_place(sidecar, setting, upstream, entry):
    with pytest.raises(ConfigError) as caught:
        await sidecar(setting(upstream, entry))
    assert "chains.main" in str(caught.value.problems[0])
