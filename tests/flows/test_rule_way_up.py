"""Rule 1: whatever is answered goes up through exactly those policies that were entered above it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.policy import Stage, Stop
from proxy.stream.sse import Event
from proxy.testing import FakeUpstream, chat_events, events, hang, reply, reset

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = BODY | {"stream": True}


@pytest.fixture
def said() -> list[str]:
    """What the probes were called with, in order."""
    return []


@pytest.fixture
def probe(policy: Callable[..., str], said: list[str]) -> Callable[..., str]:
    """A policy that writes down every phase it sees; phases given replace its own."""

    def make(mark: str, **phases: Any) -> str:
        class Watch(Stage):
            def feed(self, event: Event) -> Sequence[Event]:
                if event.data == b"[DONE]":
                    said.append(f"{mark} done event")
                return (event,)

            def end(self, reason: str) -> Sequence[Event]:
                said.append(f"{mark} end {reason}")
                return ()

        async def on_request(self: Any, exchange: Any) -> None:
            said.append(f"{mark} request")

        async def on_response(self: Any, exchange: Any, answer: Answer) -> None:
            said.append(f"{mark} response {answer.origin} {answer.status}")

        def open_stream(self: Any, exchange: Any, answer: Answer) -> Stage:
            said.append(f"{mark} stream")
            return Watch()

        async def on_settle(self: Any, exchange: Any) -> None:
            said.append(f"{mark} settle {exchange.outcome}")

        async def on_done(self: Any, exchange: Any) -> None:
            said.append(f"{mark} finished {exchange.outcome}")

        usual = {
            "on_request": on_request,
            "on_response": on_response,
            "open_stream": open_stream,
            "on_settle": on_settle,
            "on_done": on_done,
        }
        return policy(mark, **{**usual, **phases})

    return make


async def _refuse(self: Any, exchange: Any) -> None:
    raise ProxyError("policy_refused", "Not today.")


async def _answer(self: Any, exchange: Any) -> Answer:
    return Answer(200, [(b"content-type", b"application/json")], origin="policy", body=Document(b'{"made": "here"}'))


async def test_an_upstreams_answer_passes_every_policy_inside_out(sidecar, setting, upstream, wire, probe, said):
    proxy = await sidecar(setting(upstream, probe("a"), probe("b")))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    assert (await client.answer()).status == 200
    assert said[:8] == [
        "a request", "b request", "b response upstream 200", "a response upstream 200",
        "b settle answered", "a settle answered", "b finished answered", "a finished answered",
    ]  # fmt: skip
    assert len(said) == 8


@pytest.mark.parametrize(("phase", "origin", "status"), [(_refuse, "policy", 403), (_answer, "policy", 200)])
async def test_what_a_policy_answers_passes_only_those_above_it(
    sidecar, setting, upstream, wire, probe, said, phase, origin, status
):
    proxy = await sidecar(setting(upstream, probe("a"), probe("b", on_request=phase), probe("c")))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    assert (await client.answer()).status == status
    assert [line.split()[0] for line in said] == ["a"] * 4
    assert said[1] == f"a response {origin} {status}"
    assert upstream.calls == []


async def test_an_upstreams_error_goes_up_as_it_is(sidecar, setting, wire, probe, said):
    async with FakeUpstream(reply({"error": {"message": "no"}}, status=418, headers={"x-own": "1"})) as upstream:
        proxy = await sidecar(setting(upstream, probe("a")))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        answer = await client.answer()
    assert (answer.status, answer.error["message"], answer.header("x-own")) == (418, "no", "1")
    assert "a response upstream 418" in said


async def test_our_own_error_goes_up_through_all(sidecar, setting, wire, probe, said):
    async with FakeUpstream(reset()) as upstream:
        upstream.script(reset())
        proxy = await sidecar(setting(upstream, probe("a"), probe("b")))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", BODY)
        answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert [line for line in said if "response" in line] == ["b response sidecar 502", "a response sidecar 502"]
    assert said[-1] == "a finished failed"


async def test_a_policy_may_put_another_answer_in_the_place_of_one(sidecar, setting, upstream, wire, probe, said):
    async def replace(self: Any, exchange: Any, answer: Answer) -> Answer:
        return Answer(202, [(b"content-type", b"application/json")], origin="policy", raw=b'{"other": 1}')

    proxy = await sidecar(setting(upstream, probe("a"), probe("b", on_response=replace)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert (answer.status, answer.json) == (202, {"other": 1})
    assert "a response policy 202" in said


async def test_a_refusal_on_the_way_up_is_the_answer_for_those_above(sidecar, setting, upstream, wire, probe, said):
    async def refuse(self: Any, exchange: Any, answer: Answer) -> None:
        raise ProxyError("pii_refused", "It holds a name.")

    proxy = await sidecar(setting(upstream, probe("a"), probe("b", on_response=refuse), probe("c")))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert (answer.status, answer.error["code"], answer.header("x-sidecar-policy")) == (403, "pii_refused", "b")
    assert [line for line in said if "response" in line] == ["c response upstream 200", "a response policy 403"]


async def test_an_edited_answer_is_what_the_client_gets(sidecar, setting, upstream, wire, policy):
    async def shout(self: Any, exchange: Any, answer: Answer) -> None:
        tree = answer.body.lenient()
        tree["choices"][0]["message"]["content"] = "HI"
        answer.body.touch()

    proxy = await sidecar(setting(upstream, policy(on_response=shout)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", BODY)
    answer = await client.answer()
    assert answer.json["choices"][0]["message"]["content"] == "HI"
    assert len(answer.body) == int(answer.header("content-length"))


# --- streams -------------------------------------------------------------------------------------------


async def test_stages_end_once_before_the_last_event_leaves(sidecar, setting, wire, probe, said):
    async with FakeUpstream(events(*chat_events(["x"]))) as upstream:
        proxy = await sidecar(setting(upstream, probe("a"), probe("b")))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
    assert answer.complete
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert sorted(line for line in said if "end" in line.split()) == ["a end finished", "b end finished"]
    assert said[-4:] == ["b settle answered", "a settle answered", "b finished answered", "a finished answered"]


async def test_what_a_stage_still_holds_leaves_before_done(sidecar, setting, wire, policy):
    class Hold(Stage):
        def __init__(self) -> None:
            self.held: list[Event] = []

        def feed(self, event: Event) -> Sequence[Event]:
            if event.data == b"[DONE]":
                return (event,)
            self.held.append(event)
            return ()

        def end(self, reason: str) -> Sequence[Event]:
            return self.held

    sent = chat_events(["one", "two"])
    async with FakeUpstream(events(*sent)) as upstream:
        proxy = await sidecar(setting(upstream, policy(open_stream=lambda self, exchange, answer: Hold())))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
    assert answer.body == b"".join(sent)


@pytest.mark.parametrize(
    ("then", "reason", "outcome"), [("reset", "truncated", "truncated"), ("end", "truncated", "truncated")]
)
async def test_a_stream_that_breaks_off_tells_the_stages_and_the_client(
    sidecar, setting, wire, probe, said, then, reason, outcome
):
    async with FakeUpstream(events(*chat_events(["x"], finish=None, done=False), then=then)) as upstream:
        proxy = await sidecar(setting(upstream, probe("a")))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
    assert b'"error"' in answer.body.split(b"\n\n")[-2]
    assert f"a end {reason}" in said
    assert said[-1] == f"a finished {outcome}"


async def test_a_stage_that_stops_cancels_the_upstream_and_those_above_flush(sidecar, setting, wire, probe, said):
    class Halt(Stage):
        def feed(self, event: Event) -> Sequence[Event] | Stop:
            if b"secret" in event.raw:
                return Stop(ProxyError("pii_refused", "A name."))
            return (event,)

    sent = [*chat_events(["fine"], finish=None, done=False), *chat_events(["secret"], done=False)]
    async with FakeUpstream(events(*sent, then="hang")) as upstream:
        chain = [probe("a"), probe("b", open_stream=lambda self, exchange, answer: Halt())]
        proxy = await sidecar(setting(upstream, *chain))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
        call = await upstream.call()
        await asyncio.wait_for(call.disconnected, 1)
    assert b"fine" in answer.body
    assert b"secret" not in answer.body
    assert b"pii_refused" in answer.body
    assert "a end stopped" in said
    assert said[-1] == "a finished refused"
    assert proxy.exchanges[0].attempts[0].outcome == "stopped"


async def test_a_stop_while_others_flush_still_reaches_the_client(sidecar, setting, wire, policy):
    class Hold(Stage):
        def __init__(self) -> None:
            self.held: list[Event] = []

        def feed(self, event: Event) -> Sequence[Event]:
            if event.data == b"[DONE]":
                return (event,)
            self.held.append(event)
            return ()

        def end(self, reason: str) -> Sequence[Event]:
            return self.held

    class Halt(Stage):
        def feed(self, event: Event) -> Sequence[Event] | Stop:
            return Stop(ProxyError("pii_refused", "A name.")) if b"secret" in event.raw else (event,)

    async with FakeUpstream(events(*chat_events(["a", "secret", "b"]))) as upstream:
        outer = policy(open_stream=lambda self, exchange, answer: Halt())
        inner = policy(open_stream=lambda self, exchange, answer: Hold())
        proxy = await sidecar(setting(upstream, outer, inner))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        answer = await client.answer()
    assert b"secret" not in answer.body
    assert b"pii_refused" in answer.body
    assert b"[DONE]" not in answer.body
    assert proxy.exchanges[0].outcome == "refused"


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_a_client_that_leaves_settles_and_finishes_everything(sidecar, setting, wire, probe, said, body):
    step = events(*chat_events(["x"], finish=None, done=False), then="hang") if "stream" in body else hang()
    async with FakeUpstream(step) as upstream:
        proxy = await sidecar(setting(upstream, probe("a")))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", body)
        call = await upstream.call()
        if "stream" in body:
            await client.head()
            await client.chunk()
        await client.hang_up()
        await asyncio.wait_for(call.disconnected, 1)
        async with asyncio.timeout(2):
            while not proxy.exchanges:
                await asyncio.sleep(0.005)
    assert said[-1] == "a finished cancelled"
    assert "a settle cancelled" in said
    assert said.count("a finished cancelled") == 1
    if "stream" in body:
        assert "a end cancelled" in said
    assert [attempt.outcome for attempt in proxy.exchanges[0].attempts] == ["cancelled"]


async def test_settling_comes_before_the_last_piece_of_a_plain_body(sidecar, setting, wire, policy):
    gate = asyncio.Event()

    async def settle(self: Any, exchange: Any) -> None:
        await gate.wait()

    data = b"x" * 300_000
    async with FakeUpstream(reply(body=data, content_type="audio/mpeg", pieces=30)) as upstream:
        proxy = await sidecar(setting(upstream, policy(on_settle=settle)))
        client = await wire(proxy.port)
        await client.get("/v1/files/f/content")
        head = await client.head()
        assert head.header("content-length") == str(len(data))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.readexactly(len(data)), 0.3)
        gate.set()


async def test_settling_comes_before_the_done_event(sidecar, setting, wire, policy):
    gate = asyncio.Event()

    async def settle(self: Any, exchange: Any) -> None:
        assert exchange.outcome == "answered"
        await gate.wait()

    async with FakeUpstream(events(*chat_events(["x"]))) as upstream:
        proxy = await sidecar(setting(upstream, policy(on_settle=settle)))
        client = await wire(proxy.port)
        await client.post("/v1/chat/completions", STREAM)
        await client.head()
        seen = b""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    seen += await client.chunk()
        assert b'"stop"' in seen
        assert b"[DONE]" not in seen
        gate.set()
        async with asyncio.timeout(2):
            while piece := await client.chunk():
                seen += piece
        assert seen.endswith(b"data: [DONE]\n\n")


async def test_a_whole_answer_of_a_policy_may_be_a_stream_too(sidecar, setting, upstream, wire, policy):
    class Source:
        def start(self, sink: Any) -> None:
            sink.feed(b"".join(chat_events(["made", " here"])))
            sink.finish()

        def pause(self) -> None: ...

        def resume(self) -> None: ...

        def abort(self) -> None: ...

    async def answer(self: Any, exchange: Any) -> Answer:
        return Answer(200, [(b"content-type", b"text/event-stream")], origin="policy", source=Source(), events=True)

    proxy = await sidecar(setting(upstream, policy(on_settle=_nothing), policy(on_request=answer)))
    client = await wire(proxy.port)
    await client.post("/v1/chat/completions", STREAM)
    found = await client.answer()
    assert b"made" in found.body
    assert found.body.endswith(b"[DONE]\n\n")
    assert upstream.calls == []


async def _nothing(self: Any, exchange: Any) -> None:
    return None
