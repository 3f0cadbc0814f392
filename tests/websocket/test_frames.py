"""Frames of one direction: what a relay must know of them, however they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.websocket.frames import NO_STATUS, FrameError, Frames, close_frame
from tests.websocket_peers import close, frame

pieces = st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300), st.booleans())


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes], bool]:
    """(frames as bytes, the text messages in them, masked): messages in fragments, pings in between."""
    masked = draw(st.booleans())
    out, texts = [], []
    for kind, payload, fragments in draw(st.lists(pieces, max_size=8)):
        cuts = draw(st.lists(st.integers(0, len(payload)), max_size=3)) if fragments else []
        places = [0, *sorted(cuts), len(payload)]
        for number, (start, end) in enumerate(pairwise(places)):
            last = number == len(places) - 2
            out.append(frame(payload[start:end], kind if not number else 0, masked=masked, last=last))
            if draw(st.booleans()):
                out.append(frame(draw(st.binary(max_size=125)), draw(st.sampled_from([9, 10])), masked=masked))
        if kind == 1:
            texts.append(payload)
    return b"".join(out), texts, masked


@given(streams(), st.lists(st.integers(1, 40), min_size=1, max_size=50), st.integers(1000, 4999))
def test_any_frames_cut_anywhere(stream, sizes, code):
    data, texts, masked = stream
    whole = data + close(code, b"reason", masked=masked)
    heard: list[bytes] = []
    frames = Frames(masked=masked, reads=None if masked else heard.append)
    at, place, counted = 0, 0, 0
    while at < len(whole):
        size = sizes[place % len(sizes)]
        piece = whole[at : at + size] + (b"what follows" if at + size >= len(whole) else b"")
        counted += frames.feed(piece)
        at, place = at + size, place + 1
    assert counted == len(whole)
    assert frames.closed == code
    assert frames.between
    assert frames.close_size == len(close(code, b"reason", masked=masked))
    if not masked:
        assert heard == texts


def test_where_a_frame_may_follow():
    frames = Frames(masked=False)
    data = frame(b"x" * 200)
    assert frames.between
    for place in range(len(data) - 1):
        frames.feed(data[place : place + 1])
        assert not frames.between
    frames.feed(data[-1:])
    assert frames.between
    assert frames.messages == 1


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536, 3_000_000])
def test_lengths(size):
    frames = Frames(masked=True)
    data = frame(b"x" * size, 2, masked=True)
    assert frames.feed(data) == len(data)
    assert frames.messages == 1


def test_a_message_that_is_too_long_is_not_kept_and_those_after_it_are():
    heard: list[bytes] = []
    frames = Frames(masked=False, reads=heard.append, most=100)
    frames.feed(frame(b"x" * 60, last=False) + frame(b"y" * 60, 0))
    frames.feed(frame(b"z" * 101)[:50])
    frames.feed(frame(b"z" * 101)[50:])
    frames.feed(frame(b"fits"))
    assert heard == [b"fits"]
    assert frames.messages == 3


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa0bye"])
@pytest.mark.parametrize("masked", [True, False])
def test_goodbyes(payload, masked):
    frames = Frames(masked=masked)
    frames.feed(frame(payload, 8, masked=masked))
    assert frames.closed == (int.from_bytes(payload[:2], "big") if payload else NO_STATUS)
    assert frames.feed(b"anything") == 0


@pytest.mark.parametrize("masked", [True, False])
def test_a_goodbye_of_our_own_can_be_read(masked):
    frames = Frames(masked=masked)
    data = close_frame(1011, "é" * 200, masked=masked)
    assert frames.feed(data) == len(data)
    assert frames.closed == 1011


@pytest.mark.parametrize(
    "bad",
    [
        b"\x81\x01x",  # not masked
        b"\xc1\x81abcdx",  # reserved bits
        b"\x83\x81abcdx",  # no such opcode
        b"\x8b\x80abcd",
        b"\x08\x82abcdxx",  # a control frame in fragments
        b"\x89\xfe\x00\x7eabcd",  # one that is too long
        b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffabcd",  # a negative length
        b"\x88\x81abcdx",  # half a code
    ],
)
def test_what_is_no_frame(bad):
    with pytest.raises(FrameError):
        Frames(masked=True).feed(bad)
    with pytest.raises(FrameError):
        frames = Frames(masked=True)
        for place in range(len(bad)):
            frames.feed(bad[place : place + 1])
