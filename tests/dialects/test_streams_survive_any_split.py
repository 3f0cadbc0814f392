"""A replayed stream, cut anywhere on its way, is collected to the same answer."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects import anthropic_messages, openai_chat, openai_responses
from proxy.dialects.base import Dialect
from proxy.stream.sse import Event, Parser

TEXT = st.text(min_size=1, max_size=30)
CUTS = st.lists(st.integers(0, 4000), max_size=20)


def through_the_wire(events: list[Event], cuts: list[int]) -> list[Event]:
    stream = b"".join(event.encode() for event in events)
    parser = Parser()
    borders = [0, *sorted({cut % len(stream) for cut in cuts}), len(stream)]
    found = [event for a, b in itertools.pairwise(borders) for event in parser.feed(stream[a:b])]
    assert parser.end() == []
    return found


def added_up(dialect: Dialect, events: list[Event]) -> dict[object, str]:
    said: dict[object, str] = {}
    for event in events:
        for piece in dialect.read(event).pieces:
            if not piece.whole:
                said[piece.channel] = said.get(piece.channel, "") + piece.text
    return said


@settings(deadline=None)
@given(content=TEXT, arguments=TEXT, cuts=CUTS)
def test_chat(content: str, arguments: str, cuts: list[int]) -> None:
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": content, "tool_calls": [call]}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    body["choices"] = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    events = through_the_wire(openai_chat.replay(body, include_usage=True), cuts)
    assert openai_chat.collect(events) == body
    said = added_up(openai_chat, events)
    assert said == {(0, "content"): content, (0, "tool_calls", 0, "function", "arguments"): arguments}


@settings(deadline=None)
@given(text=TEXT, cuts=CUTS)
def test_anthropic(text: str, cuts: list[int]) -> None:
    body = {"id": "m", "type": "message", "role": "assistant", "model": "c", "stop_reason": "end_turn"}
    body |= {"stop_sequence": None, "content": [{"type": "text", "text": text}], "usage": {"output_tokens": 3}}
    events = through_the_wire(anthropic_messages.replay(body, include_usage=True), cuts)
    assert anthropic_messages.collect(events) == body
    assert added_up(anthropic_messages, events) == {(0, "text"): text}


@settings(deadline=None)
@given(text=TEXT, cuts=CUTS)
def test_responses(text: str, cuts: list[int]) -> None:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [part]}
    body = {"id": "r", "object": "response", "model": "m", "status": "completed", "output": [item]}
    events = through_the_wire(openai_responses.replay(body, include_usage=True), cuts)
    assert openai_responses.collect(events) == body
    assert added_up(openai_responses, events) == {(0, "output_text", 0): text}
