"""Server-sent events: framing that occurs in the field, and the promise that bytes survive."""

from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.stream.sse import Event, EventTooLargeError, Parser


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({place % (len(stream) + 1) for place in cuts})
    borders = [0, *places, len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(borders)]


def parse(chunks: list[bytes]) -> list[Event]:
    parser = Parser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.end()


def datas(stream: bytes) -> list[bytes | None]:
    return [event.data for event in parse([stream]) if event.data is not None]


PARTS = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\r\n",
        b"data: ",
        b"data:",
        b"data",
        b"event: x",
        b": hi",
        b"id:1",
        b"a",
        b"{}",
        b"\xe2\x80\xa8",
        b" ",
    ]
)
STREAMS = st.lists(PARTS, max_size=30).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=12))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [10])
@example(b"data: a\n\n\ndata: b\n\n", [8])
def test_any_split_of_any_stream_gives_back_its_bytes_and_the_same_data(stream: bytes, cuts: list[int]) -> None:
    whole = parse([stream])
    pieces = parse(cut(stream, cuts))
    assert b"".join(event.raw for event in pieces) == stream
    assert b"".join(event.encode() for event in pieces) == stream

    def told(events: list[Event]) -> list[tuple[bytes | None, str | None]]:
        return [(event.data, event.name) for event in events if event.data is not None]

    assert told(pieces) == told(whole)


@given(STREAMS)
def test_byte_by_byte_is_the_same_as_whole(stream: bytes) -> None:
    pieces = parse([stream[i : i + 1] for i in range(len(stream))])
    assert b"".join(event.raw for event in pieces) == stream
    assert [e.data for e in pieces if e.data is not None] == datas(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_kind_of_line_end(end: bytes) -> None:
    stream = b"event: ping" + end + b"data: 1" + end + end + b"data: 2" + end + end
    events = parse([stream])
    assert [(event.name, event.data) for event in events] == [("ping", b"1"), (None, b"2")]


def test_mixed_line_ends() -> None:
    assert datas(b"data: 1\r\n\ndata: 2\n\r\ndata: 3\r\rdata: 4\n\n") == [b"1", b"2", b"3", b"4"]


def test_an_event_leaves_when_its_empty_line_is_seen_and_a_late_newline_passes_alone() -> None:
    parser = Parser()
    first = parser.feed(b"data: 1\r\n\r")
    assert [event.data for event in first] == [b"1"]
    late = parser.feed(b"\ndata: 2\r\n\r\n")
    assert [(event.raw, event.data) for event in late] == [(b"\n", None), (b"data: 2\r\n\r\n", b"2")]


def test_several_data_lines_are_joined_and_no_space_is_needed() -> None:
    assert datas(b"data: a\ndata:b\ndata:  c\ndata\n\n") == [b"a\nb\n c\n"]


def test_comments_and_bare_newlines_have_no_data() -> None:
    events = parse([b": keep-alive\n\n\nretry: 5\n\n"])
    assert [event.data for event in events] == [None, None, None]
    assert b"".join(event.raw for event in events) == b": keep-alive\n\n\nretry: 5\n\n"


def test_a_byte_order_mark_does_not_hide_the_first_event() -> None:
    event = parse([b'\xef\xbb\xbfdata: {"a":1}\n\n'])[0]
    assert event.json == {"a": 1}
    event.json["a"] = 2
    event.touch()
    assert event.encode() == b'\xef\xbb\xbfdata: {"a":2}\n\n'


def test_line_separators_inside_a_string_do_not_split() -> None:
    text = "a\u2028b\u0085c\x0bd\x0ce\x1cf"
    stream = b"data: " + orjson.dumps({"t": text}) + b"\n\n"
    events = parse([stream[i : i + 3] for i in range(0, len(stream), 3)])
    assert [event.json for event in events] == [{"t": text}]


def test_a_large_event_in_small_chunks_stays_linear() -> None:
    class Counting(bytearray):
        """A buffer that counts how many bytes its searches may look at."""

        looked = 0

        def find(self, sub: bytes, start: int = 0) -> int:  # type: ignore[override]
            Counting.looked += len(self) - start
            return super().find(sub, start)

    parser = Parser()
    parser.held = Counting()
    stream = b"data: " + b"x" * 2_000_000 + b"\n\n"
    events = [event for i in range(0, len(stream), 1000) for event in parser.feed(stream[i : i + 1000])]
    assert [event.raw for event in events] == [stream]
    assert Counting.looked < 2 * len(stream)


def test_what_is_held_is_bounded() -> None:
    parser = Parser(max_event=100)
    parser.feed(b"data: " + b"x" * 90)
    assert parser.pending == 96
    with pytest.raises(EventTooLargeError) as caught:
        parser.feed(b"y" * 90)
    assert caught.value.code == "upstream_invalid_response"
    assert "186 bytes" in str(caught.value)
    with pytest.raises(EventTooLargeError):
        Parser(max_event=100).feed(b"x" * 101)


def test_an_unterminated_rest_passes_as_its_bytes() -> None:
    parser = Parser()
    assert parser.feed(b"data: 1\n\ndata: {") != []
    assert [event.raw for event in parser.end()] == [b"data: {"]
    assert parser.pending == 0
    assert parser.end() == []


def test_an_edited_event_keeps_its_other_lines() -> None:
    event = Event(b': note\r\nid: 7\r\nevent: x\r\ndata: {"a":\r\ndata: 1}\r\nretry: 9\r\n\r\n')
    event.json["a"] = "é"
    event.touch()
    assert event.encode() == ': note\r\nid: 7\r\nevent: x\r\ndata: {"a":"é"}\r\nretry: 9\r\n\r\n'.encode()
    assert event.data == '{"a":"é"}'.encode()
    event.json["a"] = 2
    event.touch()
    assert event.data == b'{"a":2}'


def test_an_event_without_json_cannot_be_edited() -> None:
    event = Event(b"data: [DONE]\n\n")
    assert event.done
    assert event.json is None
    event.touch()
    assert event.encode() == b"data: [DONE]\n\n"


@pytest.mark.parametrize("data", [b"[DONE]", b"garbage", b"", b"{", b'{"a":' * 5000])
def test_what_is_no_json_is_none(data: bytes) -> None:
    assert Event(b"data: " + data + b"\n\n").json is None


def test_a_surrogate_cut_in_two_and_nan_are_still_read_and_written() -> None:
    event = Event(b'data: {"t":"\\ud83d","p":NaN}\n\n')
    assert event.json["t"] == "\ud83d"
    event.touch()
    assert event.encode() == event.raw


def test_a_fork_shares_nothing_that_can_be_edited() -> None:
    event = Event(b'data: {"a":[1]}\n\n')
    event.json["a"].append(2)
    event.touch()
    fork = event.fork()
    fork.json["a"].append(3)
    fork.touch()
    assert event.encode() == b'data: {"a":[1,2]}\n\n'
    assert fork.encode() == b'data: {"a":[1,2,3]}\n\n'


@given(st.binary(max_size=40).filter(lambda data: b"\r" not in data))
def test_made_events_read_back(data: bytes) -> None:
    assert [event.data for event in parse([Event.made(data).raw])] == [data]


def test_made_events_carry_a_name_and_json() -> None:
    event = Event.made({"a": 1}, "ping")
    assert event.raw == b'event: ping\ndata: {"a":1}\n\n'
    assert (event.name, event.json) == ("ping", {"a": 1})


def test_the_name_of_an_edited_event_is_read_without_undoing_the_edit() -> None:
    event = Event(b'event: x\ndata: {"a":1}\n\n')
    event.json["a"] = 2
    event.touch()
    assert event.name == "x"
    assert event.encode() == b'event: x\ndata: {"a":2}\n\n'
