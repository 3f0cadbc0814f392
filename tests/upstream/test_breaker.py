"""Circuit breakers against a clock that stands still."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.clock import FakeClock
from proxy.state.memory import MemoryState
from proxy.upstream.breaker import BUSY, Breaker, Pass, Refused, Settings
from proxy.upstream.breakers import Breakers


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def breaker_with(clock: FakeClock, **options: object) -> Breaker:
    return Breaker("breaker:test", Settings(**options), clock)  # type: ignore[arg-type]


def admitted(breaker: Breaker, clock: FakeClock, *, force: bool = False) -> Pass:
    given = breaker.admit(clock.monotonic(), force=force)
    assert isinstance(given, Pass)
    return given


def refused(breaker: Breaker, clock: FakeClock, *, force: bool = False) -> Refused:
    said = breaker.admit(clock.monotonic(), force=force)
    assert isinstance(said, Refused)
    return said


def fail(breaker: Breaker, clock: FakeClock, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(admitted(breaker, clock), clock.monotonic(), "timeout")


def succeed(breaker: Breaker, clock: FakeClock) -> None:
    breaker.succeeded(admitted(breaker, clock), clock.monotonic())


def test_opens_after_fail_max_failures_in_a_row(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=3, reset=30.0)
    fail(breaker, clock, 2)
    succeed(breaker, clock)
    fail(breaker, clock, 2)
    assert breaker.state == "closed"
    fail(breaker, clock)
    assert breaker.state == "open"
    assert refused(breaker, clock).retry_after == 30.0


def test_probe_that_is_answered_closes(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=1, reset=30.0)
    fail(breaker, clock)
    clock.advance(29.0)
    assert refused(breaker, clock).retry_after == pytest.approx(1.0)
    clock.advance(1.0)
    probe = admitted(breaker, clock)
    assert probe.probe
    breaker.succeeded(probe, clock.monotonic())
    assert breaker.state == "closed"
    assert not admitted(breaker, clock).probe


def test_probe_that_fails_opens_for_another_reset(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=5, reset=30.0)
    fail(breaker, clock, 5)
    clock.advance(30.0)
    breaker.failed(admitted(breaker, clock), clock.monotonic(), "server_error")
    assert breaker.state == "open"
    assert refused(breaker, clock).retry_after == 30.0


def test_only_one_of_fifty_calls_is_the_probe(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=1, reset=1.0)
    fail(breaker, clock)
    clock.advance(1.0)
    said = [breaker.admit(clock.monotonic()) for _ in range(50)]
    assert sum(isinstance(one, Pass) for one in said) == 1
    assert {one.retry_after for one in said if isinstance(one, Refused)} == {BUSY}


def test_released_probe_frees_its_place_at_once_and_decides_nothing(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=1, reset=1.0)
    fail(breaker, clock)
    clock.advance(1.0)
    for _ in range(5):
        breaker.end(admitted(breaker, clock), "cancelled", None, clock.monotonic())
        assert breaker.state == "half-open"
    succeed(breaker, clock)
    assert breaker.state == "closed"


def test_as_many_probes_as_configured_must_succeed(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=1, reset=1.0, probes=2)
    fail(breaker, clock)
    clock.advance(1.0)
    first, second = admitted(breaker, clock), admitted(breaker, clock)
    refused(breaker, clock)
    breaker.succeeded(first, clock.monotonic())
    assert breaker.state == "half-open"
    refused(breaker, clock)
    breaker.succeeded(second, clock.monotonic())
    assert breaker.state == "closed"


def test_answer_that_begins_closes_and_breaking_off_opens_again(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=5, reset=1.0)
    fail(breaker, clock, 5)
    clock.advance(1.0)
    probe = admitted(breaker, clock)
    breaker.answering(probe)
    assert breaker.state == "closed"
    breaker.end(probe, "truncated", "truncated", clock.monotonic())
    assert breaker.state == "open"
    assert breaker.history[-1].reason == "the probe failed: truncated"


def test_late_reports_of_an_earlier_state_change_nothing(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=2, reset=1.0)
    late = [admitted(breaker, clock) for _ in range(6)]
    breaker.failed(late[0], clock.monotonic(), "timeout")
    breaker.failed(late[1], clock.monotonic(), "timeout")
    assert breaker.state == "open"
    breaker.succeeded(late[2], clock.monotonic())
    breaker.failed(late[3], clock.monotonic(), "timeout")
    assert breaker.state == "open"
    clock.advance(1.0)
    succeed(breaker, clock)
    breaker.failed(late[4], clock.monotonic(), "timeout")
    breaker.failed(late[5], clock.monotonic(), "timeout")
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    ("outcome", "failure", "counts"),
    [
        ("failed", "unreachable", True),
        ("failed", "timeout", True),
        ("failed", "server_error", True),
        ("failed", "invalid_response", True),
        ("answered", "server_error", True),
        ("stalled", None, True),
        ("truncated", None, True),
        ("failed", "client_error", False),
        ("answered", "client_error", False),
        ("failed", "rate_limited", False),
        ("failed", "auth", False),
        ("failed", "quota", False),
        ("failed", "overloaded", False),
        ("failed", "context_too_long", False),
        ("vetoed", None, False),
        ("cancelled", None, False),
        ("cancelled", "timeout", False),
        ("lost", None, False),
        ("stopped", None, False),
    ],
)
def test_what_counts_against_an_upstream(clock: FakeClock, outcome: str, failure: str | None, counts: bool) -> None:
    breaker = breaker_with(clock, fail_max=2)
    fail(breaker, clock)
    breaker.end(admitted(breaker, clock), outcome, failure, clock.monotonic())  # type: ignore[arg-type]
    assert (breaker.state == "open") is counts
    if not counts:  # nor was it a success, which would begin the count anew
        fail(breaker, clock)
        assert breaker.state == "open"


def test_error_rate_sees_what_consecutive_failures_do_not(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=10, error_rate=0.6, window=30.0, min_calls=12)
    for _ in range(3):
        fail(breaker, clock, 2)
        succeed(breaker, clock)
        clock.advance(1.0)
    assert breaker.state == "closed"
    fail(breaker, clock, 3)
    assert breaker.state == "open"
    assert "9 of 12 calls failed in 30 s" in breaker.history[-1].reason


def test_error_rate_forgets_what_is_past(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=100, error_rate=0.5, window=10.0, min_calls=10)
    fail(breaker, clock, 9)
    clock.advance(11.0)
    fail(breaker, clock, 9)
    assert breaker.state == "closed"


def test_forced_probe_comes_before_its_time_and_not_too_often(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=1, reset=30.0)
    fail(breaker, clock)
    refused(breaker, clock)
    probe = admitted(breaker, clock, force=True)
    refused(breaker, clock, force=True)
    breaker.failed(probe, clock.monotonic(), "timeout")
    refused(breaker, clock, force=True)
    clock.advance(1.0)
    breaker.succeeded(admitted(breaker, clock, force=True), clock.monotonic())
    assert breaker.state == "closed"


def test_hanging_probe_does_not_hold_the_circuit_for_ever(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=1, reset=1.0)
    fail(breaker, clock)
    clock.advance(1.0)
    admitted(breaker, clock)
    clock.advance(29.0)
    refused(breaker, clock)
    clock.advance(1.0)
    succeed(breaker, clock)
    assert breaker.state == "closed"


def test_health_check_serves_as_the_probe(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=2, reset=5.0)
    breaker.checked(False, clock.monotonic())
    breaker.checked(True, clock.monotonic())
    breaker.checked(False, clock.monotonic())
    assert breaker.state == "open"
    breaker.checked(True, clock.monotonic())
    assert breaker.state == "open"
    clock.advance(5.0)
    breaker.checked(True, clock.monotonic())
    assert breaker.state == "closed"


def test_history_tells_when_and_why(clock: FakeClock) -> None:
    breaker = breaker_with(clock, fail_max=2, reset=5.0)
    fail(breaker, clock, 2)
    clock.advance(5.0)
    succeed(breaker, clock)
    assert [(one.old, one.new, one.reason) for one in breaker.history] == [
        ("closed", "open", "2 failures in a row, the last: timeout"),
        ("open", "half-open", "5 s have passed"),
        ("half-open", "closed", "the probe was answered"),
    ]
    assert breaker.history[1].at == clock.now()


def test_snapshot_shows_what_an_operator_asks(clock: FakeClock) -> None:
    breakers = Breakers(clock)
    group = breakers.group("model", Settings(fail_max=1, error_rate=0.5))
    fail(group["openai", "gpt-4o"], clock)
    succeed(group["openai", "gpt-4o-mini"], clock)
    first, second = breakers.snapshot()
    assert (first["upstream"], first["model"], first["state"], first["retry_after"]) == (
        "openai",
        "gpt-4o",
        "open",
        30.0,
    )
    assert (second["state"], second["window"]) == ("closed", {"calls": 1, "failures": 0})


def test_equal_settings_share_a_circuit(clock: FakeClock) -> None:
    breakers = Breakers(clock)
    assert breakers.group("upstream", Settings())["a", ""] is breakers.group("upstream", Settings())["a", ""]
    assert (
        breakers.group("upstream", Settings(fail_max=9))["a", ""] is not breakers.group("upstream", Settings())["a", ""]
    )


def test_listeners_hear_each_change(clock: FakeClock) -> None:
    breakers = Breakers(clock)
    heard: list[tuple[str, str]] = []
    breakers.listeners.append(lambda breaker, change: heard.append((breaker.upstream, change.new)))
    fail(breakers.group("upstream", Settings(fail_max=1))["a", ""], clock)
    assert heard == [("a", "open")]


def test_the_table_is_bounded_and_keeps_what_is_open(clock: FakeClock) -> None:
    breakers = Breakers(clock, limit=10)
    group = breakers.group("model", Settings(fail_max=1))
    fail(group["a", "bad"], clock)
    for number in range(100):
        succeed(group["a", f"model-{number}"], clock)
    assert len(group) <= 10
    assert group["a", "bad"].state == "open"


def test_first_open_names_the_oldest_only_when_all_are_open(clock: FakeClock) -> None:
    group = Breakers(clock).group("upstream", Settings(fail_max=1))
    fail(group["b", ""], clock)
    clock.advance(1.0)
    assert group.first_open([("a", ""), ("b", "")]) is None
    fail(group["a", ""], clock)
    assert group.first_open([("a", ""), ("b", "")]) is group["b", ""]


def test_pybreaker_brings_no_redis_client_with_it() -> None:
    code = "import sys, proxy.upstream.breakers; print('redis' in sys.modules, 'tornado' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


class _SharedMemory(MemoryState):
    """Two replicas that see each other at once."""

    shared = True


def two(clock: FakeClock, **options: object) -> tuple[Breaker, Breaker]:
    state = _SharedMemory(clock)
    chosen = Settings(**options)  # type: ignore[arg-type]
    return Breaker("breaker:x", chosen, clock, state=state), Breaker("breaker:x", chosen, clock, state=state)


async def test_replica_hears_of_an_open_circuit(clock: FakeClock) -> None:
    one, other = two(clock, fail_max=2, reset=30.0)
    fail(one, clock, 2)
    clock.advance(10.0)
    assert refused(other, clock).retry_after == pytest.approx(20.0, abs=0.01)
    assert other.history[-1].reason == "another replica: 2 failures in a row, the last: timeout"


async def test_one_probe_serves_all_replicas(clock: FakeClock) -> None:
    one, other = two(clock, fail_max=1, reset=5.0)
    fail(one, clock)
    clock.advance(1.0)
    refused(other, clock)
    clock.advance(4.5)
    assert refused(other, clock).ask
    assert refused(one, clock).ask
    await other.ask()
    await one.ask()
    assert not refused(one, clock).ask
    succeed(other, clock)
    clock.advance(0.3)
    assert not admitted(one, clock).probe
    assert one.history[-1].reason == "another replica's probe was answered"


async def test_cancelled_probe_gives_its_lease_to_another_replica(clock: FakeClock) -> None:
    one, other = two(clock, fail_max=1, reset=5.0)
    fail(one, clock)
    clock.advance(5.5)
    refused(other, clock)
    await one.ask()
    one.release(admitted(one, clock))
    await other.ask()
    succeed(other, clock)
    clock.advance(0.3)
    assert not admitted(one, clock).probe


async def test_failed_probe_keeps_all_replicas_away(clock: FakeClock) -> None:
    one, other = two(clock, fail_max=1, reset=5.0)
    fail(one, clock)
    clock.advance(5.5)
    refused(other, clock)
    await one.ask()
    one.failed(admitted(one, clock), clock.monotonic(), "timeout")
    clock.advance(1.0)
    assert refused(other, clock) == Refused(pytest.approx(4.0, abs=0.01))  # type: ignore[arg-type]


class BreakerMachine(RuleBasedStateMachine):
    """Any order of admissions, ends and time: never more probes than configured, and it always comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.breaker = Breaker(
            "breaker:m", Settings(fail_max=3, reset=10.0, probes=2, error_rate=0.5, min_calls=6), self.clock
        )
        self.running: list[Pass] = []

    @rule(force=st.booleans())
    def call(self, force: bool) -> None:
        said = self.breaker.admit(self.clock.monotonic(), force=force)
        if isinstance(said, Pass):
            self.running.append(said)

    @precondition(lambda self: self.running)
    @rule(
        which=st.integers(0, 100),
        how=st.sampled_from(
            [("answered", None), ("failed", "timeout"), ("failed", "client_error"), ("cancelled", None), ("lost", None)]
        ),
    )
    def end(self, which: int, how: tuple[str, str | None]) -> None:
        given = self.running.pop(which % len(self.running))
        self.breaker.end(given, how[0], how[1], self.clock.monotonic())  # type: ignore[arg-type]

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 100))
    def begin_answer(self, which: int) -> None:
        self.breaker.answering(self.running[which % len(self.running)])

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def probes_are_bounded(self) -> None:
        if self.breaker.state == "half-open":
            # Impatience lets one more through for each period in which none came back.
            assert self.breaker.snapshot(self.clock.monotonic())["probes_running"] <= 2 + len(self.running) // 2
        assert self.breaker.closed == (self.breaker.state == "closed")

    def teardown(self) -> None:
        for given in self.running:
            self.breaker.end(given, "cancelled", None, self.clock.monotonic())
        assert self.breaker.snapshot(self.clock.monotonic())["probes_running"] == 0
        self.clock.advance(10.0)
        for _ in range(3):
            given = self.breaker.admit(self.clock.monotonic())
            assert isinstance(given, Pass)
            self.breaker.succeeded(given, self.clock.monotonic())
        assert self.breaker.state == "closed"


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase
