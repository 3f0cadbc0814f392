"""pybreaker as the recorder of a circuit's state, with what it must not do kept away from it.

Run and found (docs/performance.md tells the figures): it judges the coroutine object of an ``async def`` and never
trips, lets every concurrent call through when half-open, counts a cancelled call as a failure or, excluded, as a
success, and reads the wall clock. So nothing asynchronous happens inside it: ``proxy.upstream.breaker`` admits and
judges, and reports an outcome that is already known by an instant call.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from datetime import datetime
from types import ModuleType
from typing import Any, Final

State = str


def _load() -> ModuleType:
    """pybreaker without the Redis and tornado clients that it imports when they are installed.

    Its own Redis storage is synchronous and would block the loop; importing it costs 120 ms and 15 MB at start.
    """
    hidden = [name for name in ("redis", "tornado") if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import pybreaker  # noqa: PLC0415 - must happen while the two are hidden
    finally:
        for name in hidden:
            del sys.modules[name]
    module: ModuleType = pybreaker
    return module


_pybreaker: Final[Any] = _load()

CLOSED: Final[State] = _pybreaker.STATE_CLOSED
OPEN: Final[State] = _pybreaker.STATE_OPEN
HALF_OPEN: Final[State] = _pybreaker.STATE_HALF_OPEN


class _Reported(Exception):  # noqa: N818 - not an error of ours: it carries an outcome into pybreaker
    """A failure that already happened."""


class _Storage(_pybreaker.CircuitBreakerStorage):  # type: ignore[misc]
    """Plain attributes of this process. Sharing between replicas is a mirror of them, never a call from here."""

    # The base class declares these four as properties; here they are attributes of the instance.
    state = CLOSED
    counter = 0
    success_counter = 0
    opened_at: datetime | None = None

    def __init__(self) -> None:
        super().__init__("memory")

    def increment_counter(self) -> None:
        self.counter += 1

    def reset_counter(self) -> None:
        self.counter = 0

    def increment_success_counter(self) -> None:
        self.success_counter += 1

    def reset_success_counter(self) -> None:
        self.success_counter = 0


class _Listener(_pybreaker.CircuitBreakerListener):  # type: ignore[misc]
    def __init__(self, on_change: Callable[[State, State], None]) -> None:
        self._on_change = on_change

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self._on_change(old_state.name if old_state is not None else CLOSED, new_state.name)


def _succeed() -> None:
    pass


class Circuit:
    """One circuit: closed, open, half-open; consecutive failures; successes since half-open.

    on_change(old, new) is called after each change of state, synchronously.
    """

    __slots__ = ("_breaker", "_storage")

    def __init__(
        self, name: str, fail_max: int, reset: float, probes: int, on_change: Callable[[State, State], None]
    ) -> None:
        self._storage = _Storage()
        self._breaker = _pybreaker.CircuitBreaker(
            fail_max=fail_max,
            reset_timeout=reset,
            success_threshold=probes,
            listeners=[_Listener(on_change)],
            state_storage=self._storage,
            name=name,
            throw_new_error_on_trip=False,
        )

    @property
    def state(self) -> State:
        """``closed``, ``open`` or ``half-open``."""
        state: State = self._storage.state
        return state

    @property
    def failures(self) -> int:
        """Failures in a row."""
        failures: int = self._storage.counter
        return failures

    @property
    def successes(self) -> int:
        """Successes since it turned half-open."""
        successes: int = self._storage.success_counter
        return successes

    def succeeded(self) -> None:
        """Report a success. Not while open: pybreaker would read the clock and let it through."""
        self._breaker.call(_succeed)

    def failed(self) -> None:
        """Report a failure; opens the circuit when it was one too many. Not while open."""

        def fail() -> None:
            raise _Reported

        with contextlib.suppress(_Reported):
            self._breaker.call(fail)

    def open(self) -> None:
        """Open it, whatever was counted."""
        self._breaker.open()

    def half_open(self) -> None:
        """Let probes through."""
        self._breaker.half_open()

    def close(self) -> None:
        """Close it."""
        self._breaker.close()
