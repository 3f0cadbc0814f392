"""One stream, many readers: each from the start, at its own speed, and none in another's way."""

from __future__ import annotations

import asyncio

import pytest

from proxy.policy import Stage
from proxy.stream.fanout import KEPT, FanOut, LaggingReaderError, Replay, Subscription, Tap
from proxy.stream.sse import Event, Parser


class Reader:
    """A sink that keeps what it gets, and pauses when told to."""

    def __init__(self, subscription: Subscription | Replay, *, room: int | None = None) -> None:
        self.got: list[bytes] = []
        self.end: object = None
        self.room = room
        self.source = subscription
        subscription.start(self)

    def feed(self, data: bytes) -> None:
        self.got.append(data)
        if self.room is not None:
            self.room -= 1
            if self.room <= 0:
                self.source.pause()

    def finish(self) -> None:
        assert self.end is None
        self.end = "finished"

    def fail(self, error: Exception) -> None:
        assert self.end is None
        self.end = error


class EventReader(Reader):
    """A sink that takes events, as a pipe does."""

    def take(self, events: list[Event]) -> None:
        self.got.append(b"".join(event.encode() for event in events))
        self.events = events


class Upstream:
    """What can be paused."""

    def __init__(self) -> None:
        self.paused = False
        self.told = 0

    def pause(self) -> None:
        self.paused = True
        self.told += 1

    def resume(self) -> None:
        self.paused = False
        self.told += 1


@pytest.fixture
def left() -> list[str]:
    return []


@pytest.fixture
def fan(left: list[str]) -> FanOut:
    made = FanOut(lambda: left.append("empty"))
    made.source = Upstream()
    return made


def test_every_reader_gets_everything_from_the_start(fan):
    first = Reader(fan.subscribe())
    fan.write(b"a")
    second = Reader(fan.subscribe())
    fan.write(b"b")
    fan.end()
    third = Reader(fan.subscribe())
    assert [reader.got for reader in (first, second, third)] == [[b"a", b"b"]] * 3
    assert [reader.end for reader in (first, second, third)] == ["finished"] * 3
    assert fan.whole == b"ab"


def test_a_failure_comes_after_what_came_before_it(fan):
    reader = Reader(fan.subscribe(), room=1)
    fan.write(b"a")
    fan.write(b"b")
    error = ConnectionError()
    fan.fail(error)
    assert reader.end is None
    reader.room = None
    reader.source.resume()
    assert (reader.got, reader.end) == ([b"a", b"b"], error)
    assert not fan.joinable
    assert fan.whole is None


def test_the_source_pauses_only_when_every_reader_has(fan):
    one, two = Reader(fan.subscribe()), Reader(fan.subscribe())
    one.source.pause()
    assert not fan.source.paused
    two.source.pause()
    assert fan.source.paused
    one.source.resume()
    assert not fan.source.paused
    assert fan.source.told == 2


def test_a_paused_reader_that_leaves_does_not_hold_the_source(fan):
    one, two = Reader(fan.subscribe()), Reader(fan.subscribe())
    one.source.pause()
    two.source.pause()
    two.source.abort()
    assert fan.source.paused
    three = Reader(fan.subscribe())
    assert not fan.source.paused
    assert three.end is None


def test_the_last_reader_that_leaves_is_told_of(fan, left):
    one, two = Reader(fan.subscribe()), Reader(fan.subscribe())
    one.source.abort()
    assert left == []
    two.source.abort()
    two.source.abort()
    assert left == ["empty"]


def test_readers_that_reach_the_end_are_no_departure(fan, left):
    Reader(fan.subscribe())
    fan.write(b"a")
    fan.end()
    assert left == []


def test_beyond_what_is_kept_nobody_joins_and_who_lags_is_ended(fan):
    fast, slow = Reader(fan.subscribe()), Reader(fan.subscribe(), room=1)
    piece = b"x" * (KEPT // 4)
    for _ in range(4):
        fan.write(piece)
    assert fan.joinable
    for _ in range(2):
        fan.write(piece)
    assert not fan.joinable
    assert isinstance(slow.end, LaggingReaderError)
    assert len(fast.got) == 6
    fan.end()
    assert fast.end == "finished"
    assert fan.whole is None


def test_a_reader_that_lagged_before_it_began_is_told_when_it_does(fan):
    Reader(fan.subscribe())
    late = fan.subscribe()
    for _ in range(6):
        fan.write(b"x" * (KEPT // 4))
    assert isinstance(Reader(late).end, LaggingReaderError)


def test_what_a_long_stream_keeps_is_bounded_when_all_keep_up(fan):
    Reader(fan.subscribe())
    for _ in range(40):
        fan.write(b"x" * (KEPT // 4))
    assert fan._size <= KEPT


def test_a_stream_nobody_may_join_keeps_nothing(left):
    fan = FanOut(lambda: left.append("empty"), keep=False)
    fan.write(b"early")
    reader = Reader(fan.subscribe())
    fan.write(b"a")
    fan.write(b"b")
    assert reader.got == [b"early", b"a", b"b"]
    assert fan._size == 0
    assert not fan.joinable


def test_a_reader_that_breaks_does_not_harm_the_others(fan):
    class Broken(Reader):
        def feed(self, data: bytes) -> None:
            raise RuntimeError("stage")

    broken, good = Broken(fan.subscribe()), Reader(fan.subscribe())
    fan.write(b"a")
    assert isinstance(broken.end, RuntimeError)
    assert good.got == [b"a"]


def test_a_reader_that_leaves_while_it_is_fed_gets_nothing_more(fan, left):
    class Leaver(Reader):
        def feed(self, data: bytes) -> None:
            super().feed(data)
            self.source.abort()

    fan.write(b"a")
    fan.write(b"b")
    assert Leaver(fan.subscribe()).got == [b"a"]
    assert left == ["empty"]


# --- events handed over as they are ---------------------------------------------------------------


def written(fan: FanOut, *texts: str) -> bytes:
    tap: Stage = Tap(fan)
    events = [Event.made({"text": text}) for text in texts]
    for event in events:
        tap.feed(event)
    data = b"".join(event.encode() for event in events)
    fan.write(data)
    return data


@pytest.mark.parametrize("keep", [True, False])
def test_a_single_reader_gets_the_events_themselves(left, keep):
    fan = FanOut(lambda: left.append("empty"), keep=keep)
    reader = EventReader(fan.subscribe())
    data = written(fan, "a", "b") + written(fan, "c")
    assert b"".join(reader.got) == data
    assert len(reader.events) == 1
    fan.write(b"data: [DONE]\n\n")
    fan.end()
    assert b"".join(reader.got) == data + b"data: [DONE]\n\n"
    assert reader.end == "finished"


def test_what_a_reader_makes_of_its_events_reaches_nobody_else(fan):
    class Editor(EventReader):
        def take(self, events: list[Event]) -> None:
            for event in events:
                event.json["text"] = "the caller's own"
                event.touch()
            super().take(events)

    first = Editor(fan.subscribe())
    data = written(fan, "masked")
    second = EventReader(fan.subscribe())
    data += written(fan, "again")
    fan.end()
    assert b"the caller's own" in first.got[0]
    assert b"".join(second.got) == data == fan.whole
    assert [event.json for event in Parser().feed(data)] == [{"text": "masked"}, {"text": "again"}]


def test_a_paused_reader_gets_its_events_later_and_in_order(fan):
    reader = EventReader(fan.subscribe())
    data = written(fan, "a")
    reader.source.pause()
    data += written(fan, "b")
    reader.source.resume()
    data += written(fan, "c")
    assert b"".join(reader.got) == data


# --- a replayed hit ---------------------------------------------------------------------------------


async def drained(reader: Reader) -> None:
    async with asyncio.timeout(5):
        while reader.end is None:
            await asyncio.sleep(0)


async def test_a_replay_gives_all_its_events():
    events = [Event.made({"n": number}) for number in range(5000)]
    reader = Reader(Replay.of(events))
    await drained(reader)
    assert b"".join(reader.got) == b"".join(event.encode() for event in events)
    assert 1 < len(reader.got) < 50


async def test_a_replay_waits_while_its_reader_is_full():
    replay = Replay.raw(b"x" * 100_000)
    reader = Reader(replay, room=1)
    await asyncio.sleep(0.01)
    assert len(reader.got) == 1
    reader.room = None
    replay.resume()
    await drained(reader)
    assert sum(map(len, reader.got)) == 100_000


async def test_a_replay_that_is_left_stops():
    replay = Replay.raw(b"x" * 100_000)
    reader = Reader(replay)
    replay.abort()
    await asyncio.sleep(0.01)
    assert (len(reader.got), reader.end) == (1, None)
