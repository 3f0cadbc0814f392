"""Circuit breakers: who may call an upstream that has been failing, and who tries whether it is back.

    closed     every call is admitted. ``fail_max`` failures in a row, or ``error_rate`` over ``window``, open it.
    open       every call is refused until ``reset`` seconds have passed.
    half-open  up to ``probes`` calls are admitted, the others refused. That many successes close it, one failure
               opens it again. A probe that was cancelled frees its place at once and decides nothing.

A call asks ``admit`` and gets a ``Pass`` or a ``Refused``. What became of the call is reported with its Pass, once:
``succeeded``, ``failed`` or ``release``. A report that belongs to an earlier state (the call was sent before the
circuit opened) changes nothing. ``proxy.upstream.circuit`` (pybreaker) holds the state and its counters; admission,
time, the error rate and the sharing with other replicas are here. Times are monotonic seconds unless they say wall.

Sharing: an open circuit is a note that all replicas see within a second, and a probe needs a lease, so that one
replica's probe serves all. A closed circuit costs no round trip; only the call that wants to probe waits for one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from proxy.recent import Recent
from proxy.upstream.circuit import CLOSED, OPEN, Circuit
from proxy.upstream.sharing import News, Sharing

if TYPE_CHECKING:
    from proxy.clock import Clock
    from proxy.exchange import AttemptOutcome, FailureClass
    from proxy.state.interface import State

Per = Literal["upstream", "model", "key"]

COUNTED: Final[frozenset[FailureClass]] = frozenset(
    {"unreachable", "timeout", "stalled", "truncated", "invalid_response", "server_error"}
)
"""Failures that say something about the upstream. The client's own errors, spent limits and full pools do not."""

PATIENCE: Final = 30.0
"""Seconds after which a probe that still runs no longer keeps others from probing: long answers are normal."""
BUSY: Final = 1.0
"""Retry-After while a probe runs elsewhere."""
FORCE_EVERY: Final = 1.0
"""Seconds between two probes that are let through only because every target of a call is open."""
HISTORY: Final = 50


@dataclass(frozen=True, slots=True)
class Settings:
    """When a circuit opens and how it closes. fail_max: failures in a row. reset: seconds. error_rate: 0 to 1 of
    the calls of the last ``window`` seconds, once there were ``min_calls``; None: not used. probes: successes that
    close it."""

    fail_max: int = 5
    reset: float = 30.0
    error_rate: float | None = None
    window: float = 60.0
    min_calls: int = 20
    probes: int = 1


@dataclass(frozen=True, slots=True)
class Change:
    """One change of state. at: wall seconds."""

    at: float
    old: str
    new: str
    reason: str


class Pass:
    """Admission of one call. probe: it was admitted to find out whether the upstream is back."""

    __slots__ = ("breaker", "closed", "probe", "since")

    def __init__(self, breaker: Breaker, *, probe: bool = False, since: float = 0.0) -> None:
        self.breaker = breaker
        self.probe = probe
        self.since = since
        self.closed: Pass | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """No admission. retry_after: seconds. ask: nobody probes as far as this replica knows; after
    ``await breaker.ask()`` another ``admit`` may let the call through as the probe of all replicas."""

    retry_after: float
    ask: bool = False


Listener = Callable[["Breaker", Change], None]


class Breaker:
    """One circuit. name: unique and the same on all replicas; per, upstream, detail (model or key id): for people."""

    __slots__ = (
        "_circuit",
        "_clock",
        "_failing",
        "_following",
        "_forced_at",
        "_listeners",
        "_opened_at",
        "_probes",
        "_rate",
        "_reason",
        "_sharing",
        "_since",
        "_until",
        "closed",
        "current",
        "detail",
        "history",
        "name",
        "per",
        "settings",
        "upstream",
        "watch",
    )

    def __init__(
        self,
        name: str,
        settings: Settings,
        clock: Clock,
        *,
        per: Per = "upstream",
        upstream: str = "",
        detail: str = "",
        state: State | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        self.name = name
        self.settings = settings
        self.per: Per = per
        self.upstream = upstream
        self.detail = detail
        self.history: deque[Change] = deque(maxlen=HISTORY)
        self._clock = clock
        self._listeners = listeners
        self._circuit = Circuit(name, settings.fail_max, settings.reset, settings.probes, self._changed)
        self._rate = Recent(max(1, round(settings.window))) if settings.error_rate is not None else None
        # One object stands for every call admitted in one closed period; a late report is known by its old Pass.
        # Opening and closing make a new one, half-opening does not.
        self.current = Pass(self)
        """The Pass of every call admitted in this closed period."""
        self._failing = False
        self._following = False
        self._probes: set[Pass] = set()
        self._opened_at = 0.0
        self._until = 0.0
        self._since = clock.now()
        self._reason = ""
        self._forced_at = float("-inf")
        self._sharing = Sharing(name, state, clock) if state is not None and state.shared else None
        self.closed = True
        self.watch = self._sharing is not None
        """False: ``admit`` would return the common Pass, so the hot path may take ``current`` instead."""

    def __repr__(self) -> str:
        return f"<Breaker {self.name} {self.state}{' ' + self._reason if self._reason and not self.closed else ''}>"

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        return self._circuit.state

    @property
    def opened_at(self) -> float:
        """When it last opened."""
        return self._opened_at

    @property
    def idle(self) -> bool:
        """Nothing would be lost if it were forgotten."""
        return self.closed and not self._failing and not (self._rate and self._rate.all)

    # --- admission -----------------------------------------------------------------------------

    def admit(self, now: float, *, force: bool = False) -> Pass | Refused:
        """Ask for one call. force: every target of the call is open, so this one may be probed before its time."""
        sharing = self._sharing
        if sharing is not None:
            self._follow(sharing.news(now))
        if self.closed:
            return self.current
        if self._circuit.state == OPEN:
            early = self._until - now
            if early > 0 and (not force or now - self._forced_at < FORCE_EVERY):
                return Refused(early)
            if sharing is not None and not sharing.leased(now):
                return Refused(BUSY, ask=sharing.may_ask(now))
            if early > 0:
                self._forced_at = now
            self._reason = "every target is open" if early > 0 else f"{self.settings.reset:g} s have passed"
            self._circuit.half_open()
        if len(self._probes) + self._circuit.successes >= self.settings.probes and not self._lost_patience(now):
            return Refused(BUSY)
        if sharing is not None and not sharing.leased(now):
            return Refused(BUSY, ask=sharing.may_ask(now))
        probe = Pass(self, probe=True, since=now)
        self._probes.add(probe)
        return probe

    async def ask(self) -> None:
        """Ask the other replicas whether this one may probe: one round trip, 50 ms at most. Then ``admit`` again."""
        if self._sharing is not None:
            await self._sharing.ask(self._patience)

    @property
    def _patience(self) -> float:
        return max(PATIENCE, self.settings.reset)

    def _lost_patience(self, now: float) -> bool:
        """Whether every probe has run so long that another one is due; they may still close the circuit."""
        return bool(self._probes) and now - max(probe.since for probe in self._probes) >= self._patience

    # --- reports -------------------------------------------------------------------------------

    def succeeded(self, given: Pass, now: float) -> None:
        """The call was answered, by whatever the upstream had to say to it."""
        if given is self.current or (given.closed is not None and given.closed is self.current):
            if self._rate is not None:
                self._rate.add(now, 1, 0)
            if self._failing:
                # A success changes nothing but a count of failures, so the recorder hears of no other.
                self._failing = False
                self._circuit.succeeded()
        elif given in self._probes:
            self._probes.discard(given)
            self._probed(given)

    def answering(self, given: Pass) -> None:
        """A probe's answer has begun well, and may take minutes: it counts now. If it breaks off, ``failed`` opens
        the circuit again at once."""
        if given in self._probes:
            self._probes.discard(given)
            self._probed(given)

    def _probed(self, given: Pass) -> None:
        self._reason = "the probe was answered"
        self._circuit.succeeded()
        given.closed = self.current

    def failed(self, given: Pass, now: float, why: str) -> None:
        """The call failed in a way that speaks against the upstream. why: the failure class."""
        if given is self.current:
            self._failing = True
            failures = self._circuit.failures + 1
            self._reason = f"{failures} failures in a row, the last: {why}"
            self._circuit.failed()
            rate = self._rate
            if rate is not None and self.closed:
                rate.add(now, 1, 1)
                assert self.settings.error_rate is not None
                if rate.all >= self.settings.min_calls and rate.some >= self.settings.error_rate * rate.all:
                    self._reason = f"{rate.some} of {rate.all} calls failed in {rate.seconds} s, the last: {why}"
                    self._circuit.open()
        elif given in self._probes:
            self._probes.discard(given)
            self._reason = f"the probe failed: {why}"
            self._circuit.failed()
        elif given.closed is self.current and self._circuit.state != OPEN:
            # It had begun to answer well, and counted as a success, before it broke off.
            self._reason = f"the probe failed: {why}"
            self._circuit.open()

    def release(self, given: Pass) -> None:
        """The call decided nothing: cancelled, vetoed, lost, or the client's own error."""
        if given in self._probes:
            self._probes.discard(given)
            if not self._probes and self._sharing is not None:
                self._sharing.give_back()

    def end(self, given: Pass, outcome: AttemptOutcome | None, failure: FailureClass | None, now: float) -> None:
        """Report a call by how its attempt ended."""
        if outcome == "answered" and failure is None:
            self.succeeded(given, now)
        elif outcome in ("truncated", "stalled"):
            self.failed(given, now, outcome)
        elif failure in COUNTED and outcome in ("answered", "failed"):
            self.failed(given, now, failure)
        else:
            self.release(given)

    def checked(self, ok: bool, now: float, why: str = "health check") -> None:
        """A background check's result. A good one serves as the probe when one is due, and otherwise says nothing
        about the calls themselves; a bad one counts as a failed call."""
        if self.closed:
            if not ok:
                self.failed(self.current, now, why)
        elif ok:
            given = self.admit(now)
            if isinstance(given, Pass):
                self.succeeded(given, now)

    # --- change of state -----------------------------------------------------------------------

    def _changed(self, old: str, new: str) -> None:
        now = self._clock.monotonic()
        self.closed = new == CLOSED
        self.watch = not self.closed or self._sharing is not None
        self._since = self._clock.now()
        if new == OPEN:
            self.current = Pass(self)
            self._opened_at = now
            self._until = now + self.settings.reset
            self._probes.clear()
            if self._sharing is not None and not self._following:
                self._sharing.opened(self.settings.reset, self._reason)
        elif new == CLOSED:
            self.current = Pass(self)
            self._failing = False
            self._probes.clear()
            if self._rate is not None:
                self._rate.clear()
            if self._sharing is not None and not self._following:
                self._sharing.closed()
        change = Change(self._since, old, new, self._reason)
        self.history.append(change)
        for listener in self._listeners:
            listener(self, change)

    def _follow(self, news: News | None) -> None:
        """Do as another replica did. A probe of our own that runs will tell more, and newer, than the news."""
        if news is None or self._probes:
            return
        self._following = True  # it is their news: it is not told back
        self._reason = news.reason
        try:
            if news.left is None:
                if not self.closed:
                    self._circuit.close()
                return
            if self._circuit.state != OPEN:
                self._circuit.open()
            self._until = self._clock.monotonic() + min(news.left, self.settings.reset)
        finally:
            self._following = False

    # --- for people ----------------------------------------------------------------------------

    def snapshot(self, now: float) -> dict[str, Any]:
        """What ``GET /api/v1/breakers`` shows. Times of ``since`` and ``history`` are wall seconds."""
        if self._sharing is not None:
            self._follow(self._sharing.news(now, at_once=True))
        rate = self._rate.at(now) if self._rate is not None else None
        return {
            "name": self.name,
            "per": self.per,
            "upstream": self.upstream,
            "model": self.detail if self.per == "model" else None,
            "key": self.detail if self.per == "key" else None,
            "state": self.state,
            "since": self._since,
            "reason": self.history[-1].reason if self.history else "",
            "retry_after": max(0.0, self._until - now) if self.state == OPEN else None,
            "failures_in_a_row": self._circuit.failures,
            "window": {"calls": rate.all, "failures": rate.some} if rate is not None else None,
            "probes_running": len(self._probes),
            "settings": asdict(self.settings),
            "history": [asdict(change) for change in self.history],
        }
