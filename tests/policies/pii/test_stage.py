"""The policy in streams: per channel, however the tokens are cut, with tails flushed in time."""

from __future__ import annotations

import json
import timeit
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.exchange import Answer, Exchange
from proxy.policies.pii.policy import Pii
from proxy.policies.pii.vault import Vault
from proxy.policy import Stage, Stop
from proxy.stream.sse import Event
from proxy.testing import exchange_builder, policy_builder
from proxy.testing.building import dialect_named

CHAT = dialect_named("openai_chat")


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None) -> Event:
    return Event.made(
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "model": "m",
            "created": 1,
            "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
        }
    )


def says(text: str, index: int = 0) -> Event:
    return chunk({"content": text}, index)


def calls(text: str) -> Event:
    return chunk({"tool_calls": [{"index": 0, "function": {"arguments": text}}]})


DONE = Event.made(b"[DONE]")


def opened(text: str = "I am ann@x.io", **options: Any) -> tuple[Pii, Exchange, Stage]:
    policy: Pii = policy_builder(Pii, options)
    exchange = exchange_builder(
        {"model": "m", "stream": True, "messages": [{"role": "user", "content": text}]}, dialect=CHAT
    )
    policy.on_request(exchange)
    stage = policy.open_stream(exchange, Answer(200, [], origin="upstream", events=True))
    assert stage is not None
    return policy, exchange, stage


def run(stage: Stage, events: Sequence[Event], *, finish: bool = True) -> list[Event]:
    out: list[Event] = []
    for event in events:
        # Each event as bytes again: what was edited is read from what would be sent.
        got = stage.feed(Event(event.encode()))
        assert not isinstance(got, Stop), got
        out.extend(Event(e.encode()) for e in got)
    if finish:
        out.extend(Event(e.encode()) for e in stage.end("finished"))
    return out


def contents(events: Sequence[Event], index: int = 0) -> str:
    out = ""
    for event in events:
        for choice in (event.json or {}).get("choices", ()):
            if choice["index"] == index:
                out += choice["delta"].get("content") or ""
    return out


def arguments(events: Sequence[Event]) -> str:
    out = ""
    for event in events:
        for choice in (event.json or {}).get("choices", ()):
            for call in choice["delta"].get("tool_calls") or ():
                out += call["function"]["arguments"]
    return out


def test_a_token_cut_across_events_is_restored() -> None:
    _, _, stage = opened()
    out = run(stage, [says("to <EM"), says("AIL"), says("_1>"), says(" ok"), chunk({}, finish="stop"), DONE])
    assert contents(out) == "to ann@x.io ok"


def test_an_event_of_no_interest_leaves_as_its_bytes() -> None:
    _, _, stage = opened()
    event = says(" the quick")
    assert list(stage.feed(event)) == [event]
    assert not event.edited


def test_the_tail_leaves_before_the_finish() -> None:
    _, _, stage = opened()
    out = run(stage, [says("to <EMAIL_1"), chunk({}, finish="stop"), DONE])
    assert contents(out) == "to ann@x.io"
    finished = next(i for i, e in enumerate(out) if e.json and e.json["choices"][0]["finish_reason"])
    assert contents(out[finished + 1 :]) == ""


def test_the_tail_leaves_when_the_stream_breaks_off() -> None:
    _, _, stage = opened()
    out = run(stage, [says("to <EMA")], finish=False)
    out += list(stage.end("upstream_failed"))
    assert contents(out) == "to <EMA"
    assert list(stage.end("upstream_failed")) == []


def test_choices_are_restored_apart() -> None:
    _, _, stage = opened()
    out = run(
        stage,
        [says("<EMA", 0), says("IL_1> no", 1), says("IL_1>", 0), chunk({}, 0, "stop"), chunk({}, 1, "stop"), DONE],
    )
    assert contents(out, 0) == "ann@x.io"
    assert contents(out, 1) == "IL_1> no"


def test_tool_arguments_stay_json() -> None:
    _, _, stage = opened('T"1 here', entities=["TAG"], custom=[{"type": "TAG", "pattern": r'T"\d'}])
    out = run(stage, [calls('{"x": "<TA'), calls('G_1>"}'), chunk({}, finish="tool_calls"), DONE])
    assert json.loads(arguments(out)) == {"x": 'T"1'}


def test_leaks_are_masked_and_restored_values_are_not() -> None:
    _, _, stage = opened(direction=["request", "response"])
    text = "Dear <EMAIL_1>, please do ask eve@z.io about it, and no one else, thank you very much indeed"
    out = run(stage, [*(says(text[i : i + 5]) for i in range(0, len(text), 5)), chunk({}, finish="stop"), DONE])
    assert contents(out) == text.replace("<EMAIL_1>", "ann@x.io").replace("eve@z.io", "<EMAIL_2>")


def test_a_blocked_leak_stops_the_stream() -> None:
    _, _, stage = opened(direction=["request", "response"], actions={"PHONE": "block"})
    got: Any = ()
    for piece in ("call +49 30 901820 ", "or " * 40):
        got = stage.feed(says(piece))
    assert isinstance(got, Stop)
    assert got.error.code == "pii_refused"
    assert "901820" not in got.error.message


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(["<EMAIL_1>", "<email_1", " x ", "EMAIL", "_1", ">", "&lt;", "hi ", "\\u003c"]), max_size=10
    ),
    st.integers(1, 7),
)
def test_any_split_gives_what_the_whole_gives(parts: list[str], size: int) -> None:
    policy, exchange, stage = opened()
    text = "".join(parts)
    out = run(stage, [*(says(text[i : i + size]) for i in range(0, len(text), size)), chunk({}, finish="stop"), DONE])
    assert contents(out) == exchange.local[policy].restore(text)


def test_held_tails_are_bounded() -> None:
    policy, exchange, stage = opened()
    longest = exchange.local[policy].grammar.longest
    text = "<EMAIL_" * 200 + "<" * 200 + "&lt;" * 100
    gone = 0
    for i, c in enumerate(text):
        got = stage.feed(says(c))
        assert not isinstance(got, Stop)
        gone += len(contents(got))
        assert i + 1 - gone <= longest


TEXT = "Dear <EMAIL_1>, (<email_1) and EMAIL_1."
WHOLE: dict[str, dict[str, Any]] = {
    "openai_chat": {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}],
    },
    "openai_completions": {
        "id": "c", "object": "text_completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "text": TEXT}],
    },
    "openai_responses": {
        "id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed",
        "output": [{"type": "message", "id": "m", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": TEXT, "annotations": []}]}],
    },
    "anthropic_messages": {
        "id": "a", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": TEXT}], "usage": {"input_tokens": 1, "output_tokens": 1},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_every_dialects_stream_is_restored_in_all_its_places(name: str) -> None:
    dialect = dialect_named(name)
    policy: Pii = policy_builder(Pii, {})
    vault = Vault()
    vault.placeholder("EMAIL", "ann@x.io")
    exchange = exchange_builder({"model": "m", "stream": True}, dialect=dialect)
    exchange.local[policy] = vault
    stage = policy.open_stream(exchange, Answer(200, [], origin="upstream", events=True))
    assert stage is not None
    out = run(stage, dialect.replay(WHOLE[name], include_usage=False))
    sent = b"".join(event.encode() for event in out)
    assert b"mail_1" not in sent.lower()
    whole = dialect.collect(out)
    assert [slot.text for slot in dialect.answer_texts(whole) if "Dear" in slot.text] == [
        "Dear ann@x.io, (ann@x.io) and ann@x.io."
    ]


def test_a_stage_is_cheap_where_nothing_happens() -> None:
    _, _, stage = opened()
    event = says(" quick")
    CHAT.read(event)
    seconds = min(timeit.repeat(lambda: stage.feed(event), number=2000, repeat=5)) / 2000
    assert seconds < 50e-6  # 1 us when the machine is idle; the bound only catches a change of order
