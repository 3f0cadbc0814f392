"""The pipe: bytes in, events through the stages, bytes out; held before the commit, ended once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import DIALECTS
from proxy.errors import ProxyError
from proxy.policy import Stage, Stop
from proxy.stream.pipe import HELD_BYTES, Pipe
from proxy.stream.sse import Event
from proxy.testing import chat_events
from proxy.upstream.transport import Truncated

SENT = chat_events(["one", " two", " three"], usage=(3, 4))
WHOLE = b"".join(SENT)


class Source:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, sink: Any) -> None: ...

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")

    def abort(self) -> None:
        self.told.append("abort")


class Out:
    """Keeps what was written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class Marks(Stage):
    """Adds a mark to each text, holds nothing."""

    def __init__(self, said: list[str], mark: str) -> None:
        self.said, self.mark = said, mark

    def feed(self, event: Event) -> Sequence[Event]:
        return (event,)

    def end(self, reason: str) -> Sequence[Event]:
        self.said.append(f"{self.mark} {reason}")
        return ()


class Late(Stage):
    """Lets each event go when the next one comes."""

    def __init__(self) -> None:
        self.held: list[Event] = []

    def feed(self, event: Event) -> Sequence[Event]:
        if event.data == b"[DONE]":
            return (event,)
        out, self.held = self.held, [event]
        return out

    def end(self, reason: str) -> Sequence[Event]:
        out, self.held = self.held, []
        return out


class Halt(Stage):
    """Stops at a word."""

    def __init__(self, word: bytes) -> None:
        self.word = word

    def feed(self, event: Event) -> Sequence[Event] | Stop:
        return Stop(ProxyError("pii_refused", "No.")) if self.word in event.raw else (event,)


@pytest.fixture
def make() -> Callable[..., tuple[Pipe, Source, Out]]:
    def build(**options: Any) -> tuple[Pipe, Source, Out]:
        source = Source()
        return Pipe(DIALECTS["openai_chat"], source, **options), source, Out()

    return build


@given(st.lists(st.integers(1, len(WHOLE) - 1), max_size=12), st.integers(0, 12), st.integers(0, 3))
def test_any_cut_and_any_moment_of_attaching_gives_the_same_bytes(cuts, attach_after, stages):
    pipe, out = Pipe(DIALECTS["openai_chat"], Source()), Out()
    edges = [0, *sorted(set(cuts)), len(WHOLE)]
    pieces = [WHOLE[a:b] for a, b in pairwise(edges)]
    for number, piece in enumerate(pieces):
        if number == attach_after:
            pipe.attach([Late() for _ in range(stages)], out)
        pipe.feed(piece)
    if attach_after >= len(pieces):
        pipe.attach([Late() for _ in range(stages)], out)
    assert b"[DONE]" not in out.data
    pipe.finish()
    pipe.release()
    assert out.data == WHOLE
    assert pipe.end is not None
    assert pipe.end.reason == "finished"
    assert (pipe.usage.input, pipe.usage.output, pipe.chars, pipe.finish_reason) == (3, 4, 13, "stop")


def test_done_waits_for_the_release(make):
    pipe, _, out = make()
    pipe.attach([], out)
    pipe.feed(WHOLE)
    assert out.data == b"".join(SENT[:-1])
    pipe.release()
    assert out.data == WHOLE


def test_a_hidden_usage_event_stays_here(make):
    pipe, _, out = make(hide_usage=True)
    pipe.attach([], out)
    pipe.feed(WHOLE)
    pipe.finish()
    pipe.release()
    assert b"prompt_tokens" not in out.data
    assert pipe.usage.input == 3


@pytest.mark.parametrize(
    ("finish", "reason"), [(lambda p: p.finish(), "truncated"), (lambda p: p.fail(Truncated("x")), "truncated"),
                           (lambda p: p.fail(ValueError("x")), "upstream_failed"), (lambda p: p.cancel(), "cancelled")]
)  # fmt: skip
def test_every_stage_ends_once_with_the_reason(make, finish, reason):
    said: list[str] = []
    pipe, source, out = make()
    pipe.attach([Marks(said, "inner"), Marks(said, "outer")], out)
    pipe.feed(b"".join(SENT[:2]))
    finish(pipe)
    pipe.finish()
    pipe.cancel()
    assert said == [f"inner {reason}", f"outer {reason}"]
    assert pipe.end.reason == reason
    assert ("abort" in source.told) or reason != "cancelled"


def test_what_is_held_leaves_when_the_upstream_breaks_off(make):
    pipe, _, out = make()
    pipe.attach([Late()], out)
    pipe.feed(b"".join(SENT[:3]))
    pipe.fail(ValueError("reset"))
    pipe.release()
    assert out.data == b"".join(SENT[:3])


def test_nothing_is_held_back_for_a_client_that_left(make):
    pipe, _, out = make()
    pipe.attach([Late()], out)
    pipe.feed(b"".join(SENT[:3]))
    before = out.data
    pipe.cancel()
    pipe.feed(SENT[3])
    pipe.release()
    assert out.data == before


@pytest.mark.parametrize("stages", [[Halt(b"two")], [Late(), Halt(b"two")], [Halt(b"two"), Late()]])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_stop_is_the_end_whatever_else_came(make, stages, at_once):
    pipe, source, out = make()
    stages = [Late() if isinstance(stage, Late) else stage for stage in stages]
    pipe.attach(stages, out)
    for piece in [WHOLE] if at_once else SENT:
        pipe.feed(piece)
    pipe.release()
    assert (pipe.end.reason, pipe.end.error.code) == ("stopped", "pii_refused")
    assert source.told == ["abort"]
    assert out.data == b"".join(SENT[:2])


def test_a_stop_on_the_last_held_event_is_a_stop(make):
    pipe, source, out = make()
    pipe.attach([Late(), Halt(b'"stop"')], out)
    pipe.feed(b"".join(chat_events(["one"])))
    pipe.release()
    assert pipe.end.reason == "stopped"
    assert b"[DONE]" not in out.data
    assert source.told == ["abort"]


def test_texts_after_the_end_do_not_leave_unseen(make):
    pipe, _, out = make()
    pipe.attach([Halt(b"two")], out)
    pipe.feed(b"".join(chat_events(["one"])))
    pipe.feed(b": bye\n\n" + SENT[2])
    pipe.finish()
    pipe.release()
    assert out.data == b"".join(chat_events(["one"])) + b": bye\n\n"


def test_a_stage_that_swallows_everything_leaves_the_end(make):
    class Nothing(Stage):
        def feed(self, event: Event) -> Sequence[Event]:
            return () if event.data != b"[DONE]" else (event,)

    pipe, _, out = make()
    pipe.attach([Nothing()], out)
    pipe.feed(WHOLE)
    pipe.release()
    assert out.data == SENT[-1]


async def test_the_commit_comes_with_content(make):
    pipe, _, _ = make()
    waiting = asyncio.ensure_future(pipe.wait_commit())
    pipe.feed(b": ping\n\n" + SENT[0])
    await asyncio.sleep(0)
    assert not waiting.done()
    pipe.feed(SENT[1])
    await asyncio.wait_for(waiting, 1)
    assert pipe.committed


def test_what_is_held_is_bounded(make):
    pipe, source, out = make()
    comment = b": " + b"x" * 65_000 + b"\n\n"
    for _ in range(HELD_BYTES // len(comment) + 1):
        pipe.feed(comment)
    assert (pipe.committed, source.told) == (True, ["pause"])
    pipe.attach([], out)
    assert source.told == ["pause", "resume"]
    assert out.data == comment * (HELD_BYTES // len(comment) + 1)


def test_the_receiver_slows_the_source(make):
    pipe, source, _ = make()
    pipe.pause()
    pipe.resume()
    assert source.told == ["pause", "resume"]


def test_an_error_event_is_the_providers_own_end(make):
    pipe, _, out = make()
    error = b'data: {"error": {"message": "x"}}\n\n'
    pipe.attach([], out)
    pipe.feed(SENT[1] + error)
    pipe.finish()
    pipe.release()
    assert pipe.end.reason == "upstream_failed"
    assert pipe.error_event is not None
    assert out.data == SENT[1] + error
