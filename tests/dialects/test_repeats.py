"""A stream's reader says of every event what the dialect says of it alone, however little it parses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import anthropic_messages, openai_chat
from proxy.dialects.base import Reading
from proxy.stream.sse import Event

TEXT = st.text(max_size=12) | st.sampled_from(
    ['"', "\\", '","content":"x', "a\nb", "\u2028", "é", "", " hello", "\\u0041"]
)


def chunk(
    text: str,
    *,
    channel: str = "content",
    choice: int = 0,
    more: dict[str, Any] | None = None,
    ascii_: bool = False,
    spaced: bool = False,
) -> bytes:
    tree = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "m",
        "choices": [{"index": choice, "delta": {channel: text}, "logprobs": None, "finish_reason": None}],
        **(more or {}),
    }
    separators = None if spaced else (",", ":")
    return b"data: " + json.dumps(tree, ensure_ascii=ascii_, separators=separators).encode() + b"\n\n"


def told(reading: Reading) -> tuple[Any, ...]:
    pieces = [(p.text, p.key, p.kind, p.role, p.path, p.channel, p.whole) for p in reading.pieces]
    closes = None if reading.closes is None else tuple(reading.closes)
    rest = (closes, reading.commits, reading.finish, reading.usage, reading.final, reading.error)
    return (pieces, *rest, reading.usage_only, reading.model)


def frames(reader: Any) -> list[bool]:
    return [event._span is not None for event in reader]


STREAMS = st.lists(
    st.builds(
        chunk,
        TEXT,
        channel=st.sampled_from(["content", "content", "content", "reasoning_content", "refusal"]),
        choice=st.sampled_from([0, 0, 0, 1]),
        more=st.sampled_from(
            [{}, {}, {"obfuscation": "aXy9"}, {"obfuscation": "b"}, {"usage": None, "obfuscation": "Zq"}]
        ),
        ascii_=st.booleans(),
        spaced=st.booleans(),
    ),
    max_size=12,
)


@given(STREAMS)
def test_every_event_means_what_it_means_alone(stream: list[bytes]) -> None:
    read = openai_chat.reader().read
    for raw in stream:
        event, alone = Event(raw), Event(raw)
        assert told(read(event)) == told(openai_chat.read(alone))
        assert event.encode() == raw
        assert event.json == alone.json
        assert told(event.reading) == told(alone.reading)


@given(STREAMS, TEXT)
def test_an_edited_piece_is_what_is_written(stream: list[bytes], new: str) -> None:
    read = openai_chat.reader().read
    for raw in stream:
        event, alone = Event(raw), Event(raw)
        for one in (event, alone):
            for piece in read(event).pieces if one is event else openai_chat.read(alone).pieces:
                piece.text = new
                one.touch()
        assert json.loads(event.encode()[6:]) == json.loads(alone.encode()[6:])
        assert event.data is not None and json.loads(event.data) == alone.json
        assert event.json == alone.json
        assert event.fork().json == alone.json


@given(STREAMS, TEXT, TEXT)
def test_the_tree_and_the_piece_stay_one_also_when_the_tree_is_asked_for_between_two_edits(
    stream: list[bytes], first: str, second: str
) -> None:
    read = openai_chat.reader().read
    for raw in stream:
        event = Event(raw)
        for piece in read(event).pieces:
            piece.text = first
            event.touch()
            assert event.json["choices"][0]["delta"][piece.key] == first
            piece.text = second
            event.touch()
            assert json.loads(event.encode()[6:])["choices"][0]["delta"][piece.key] == second
            assert event.json["choices"][0]["delta"][piece.key] == second


def test_the_second_event_of_a_frame_is_not_parsed() -> None:
    read = openai_chat.reader().read
    events = [Event(chunk(text)) for text in ("Hel", "lo", ' "you"\n', "é")]
    for event in events:
        read(event)
    assert frames(events) == [False, True, True, True]


def test_padding_of_any_length_is_part_of_the_frame() -> None:
    read = openai_chat.reader().read
    events = [Event(chunk("x", more={"usage": None, "obfuscation": word})) for word in ("ab", "c", "dEf9", "")]
    for event in events:
        read(event)
    assert frames(events) == [False, True, True, True]


@pytest.mark.parametrize(
    "second",
    [
        chunk('a"},"finish_reason":"stop","x":{"y":"b').replace(b"\\", b""),  # another object between the same ends
        chunk("").replace(b'"content":""', b'"content":"a","tool_calls":"b"'),
        chunk("x").replace(b'"finish_reason":null', b'"finish_reason":"stop"'),
        chunk("x", more={"obfuscation": "a"}).replace(b'"a"', b'"a","error":"b"'),
        b"data: [DONE]\n\n",
    ],
)
def test_what_only_looks_like_the_frame_is_read_whole(second: bytes) -> None:
    read = openai_chat.reader().read
    read(Event(chunk("first", more={"obfuscation": "z"} if b"obfus" in second else None)))
    event = Event(second)
    assert told(read(event)) == told(openai_chat.read(Event(second)))
    assert event._span is None


def test_a_frame_with_a_key_twice_is_never_learned() -> None:
    read = openai_chat.reader().read
    raw = chunk("one").replace(b'"content":"one"', b'"content":"hidden","content":"one"')
    events = [Event(raw), Event(raw)]
    for event in events:
        read(event)
    assert frames(events) == [False, False]


def test_a_stream_whose_frames_all_differ_stops_being_learned() -> None:
    read = openai_chat.reader().read
    events = [Event(chunk("x", more={"created": n})) for n in range(50)]
    for event in events:
        read(event)
    again = [Event(chunk("x", more={"created": 7})) for _ in range(2)]
    for event in again:
        read(event)
    assert frames(again) == [False, False]


@given(st.lists(TEXT, max_size=8), TEXT)
def test_frames_with_a_name_line_are_read_and_edited_the_same_way(texts: list[str], new: str) -> None:
    read = anthropic_messages.reader().read
    for text in texts:
        tree = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        raw = b"event: content_block_delta\ndata: " + json.dumps(tree, ensure_ascii=False).encode() + b"\n\n"
        event, alone = Event(raw), Event(raw)
        assert told(read(event)) == told(anthropic_messages.read(alone))
        assert event.name == "content_block_delta"
        for piece in event.reading.pieces:
            piece.text = new
            event.touch()
        if event.reading.pieces:
            tree["delta"]["text"] = new  # type: ignore[index]
        assert event.name == "content_block_delta"
        assert Event(event.encode()).json == tree
        assert event.json == tree
        assert event.data is not None and json.loads(event.data) == tree


@given(STREAMS, st.lists(st.integers(1, 4), max_size=12))
def test_what_is_skimmed_is_as_long_as_what_is_read(stream: list[bytes], reads: list[int]) -> None:
    """However many events come in one read, and whatever stands between them."""
    reader = openai_chat.reader()
    for count in [*reads, *([1] * len(stream))]:
        taken, stream = stream[:count], stream[count:]
        texts = [len(p.text) for raw in taken for p in openai_chat.read(Event(raw)).pieces]
        events, chars = reader.skim(b"".join(taken))
        if events:
            assert (events, chars) == (len(taken), sum(texts))
            continue
        for raw in taken:
            reader.read(Event(raw))


def test_reads_of_one_event_and_of_several_are_skimmed_once_the_frame_is_known() -> None:
    reader = openai_chat.reader()
    assert reader.skim(chunk("one")) == (0, 0)
    reader.read(Event(chunk("one")))
    assert reader.skim(chunk("four")) == (1, 4)
    assert reader.skim(chunk("a") + chunk('"b"') + chunk("cd")) == (3, 6)
    assert reader.model == "m"


@pytest.mark.parametrize(
    "data",
    [
        chunk("x")[:-1],  # not whole
        chunk("x") + chunk("y")[:20],
        chunk("x") + b"data: [DONE]\n\n",
        chunk("x").replace(b'"finish_reason":null', b'"finish_reason":"stop"'),
        chunk("x", more={"usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
        chunk("x", choice=1),
        b": still here\n\n" + chunk("x"),
        chunk(""),
        b"",
    ],
)
def test_what_says_more_than_a_text_is_not_skimmed(data: bytes) -> None:
    reader = openai_chat.reader()
    reader.read(Event(chunk("one")))
    assert reader.skim(data) == (0, 0)
