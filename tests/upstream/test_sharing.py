"""Notes and leases between the replicas of one circuit."""

from __future__ import annotations

import pytest

from proxy.clock import FakeClock
from proxy.state.memory import MemoryState
from proxy.upstream.sharing import ASK_EVERY, LOOK_EVERY, News, Sharing


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def pair(clock: FakeClock) -> tuple[Sharing, Sharing, MemoryState]:
    state = MemoryState(clock)
    return Sharing("x", state, clock), Sharing("x", state, clock), state


def test_news_comes_once_and_only_from_others(pair: tuple[Sharing, Sharing, MemoryState], clock: FakeClock) -> None:
    one, other, _ = pair
    one.opened(30.0, "it failed")
    assert one.news(clock.monotonic()) is None
    clock.advance(10.0)
    assert other.news(clock.monotonic()) == News(pytest.approx(20.0, abs=0.01), "another replica: it failed")  # type: ignore[arg-type]
    clock.advance(1.0)
    assert other.news(clock.monotonic()) is None
    one.closed()
    clock.advance(1.0)
    assert other.news(clock.monotonic()) == News(None, "another replica's probe was answered")
    assert one.news(clock.monotonic()) is None


def test_the_shared_picture_is_looked_at_now_and_then(
    pair: tuple[Sharing, Sharing, MemoryState], clock: FakeClock
) -> None:
    one, other, _ = pair
    assert other.news(clock.monotonic()) is None
    one.opened(30.0, "r")
    assert other.news(clock.monotonic()) is None
    assert other.news(clock.monotonic(), at_once=True) is not None
    one.opened(31.0, "r")
    clock.advance(LOOK_EVERY)
    assert other.news(clock.monotonic()) is not None


def test_the_echo_of_a_note_that_was_taken_down_is_no_news(
    pair: tuple[Sharing, Sharing, MemoryState], clock: FakeClock
) -> None:
    one, _, state = pair
    one.opened(30.0, "r")
    echo = state.read("x")
    assert echo is not None
    one.closed()
    state.post("x", echo, 60.0)
    assert one.news(clock.monotonic()) is None


@pytest.mark.parametrize("note", [b"", b"nonsense", b"\xff\xfe 1", b"soon because"])
def test_a_note_that_is_none_is_passed_over(
    pair: tuple[Sharing, Sharing, MemoryState], clock: FakeClock, note: bytes
) -> None:
    one, _, state = pair
    state.post("x", note, 60.0)
    assert one.news(clock.monotonic()) is None


async def test_one_replica_has_the_lease(pair: tuple[Sharing, Sharing, MemoryState], clock: FakeClock) -> None:
    one, other, _ = pair
    await one.ask(30.0)
    await other.ask(30.0)
    assert one.leased(clock.monotonic())
    assert not other.leased(clock.monotonic())
    assert not other.may_ask(clock.monotonic())
    clock.advance(ASK_EVERY)
    assert other.may_ask(clock.monotonic())
    one.give_back()
    await other.ask(30.0)
    assert other.leased(clock.monotonic())
    clock.advance(30.0)
    assert not other.leased(clock.monotonic())
