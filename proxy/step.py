"""One entry of a chain, and what happens when its policy itself breaks (rule 7).

``on_error: closed`` refuses the call, ``open`` goes on without the policy. Either is logged with the policy's name and
the places in its code, never with the exception's text, which may quote a body.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.errors import ProxyError
from proxy.policy import Policy, Stage, Stop

if TYPE_CHECKING:
    from proxy.exchange import EndReason, Exchange
    from proxy.stream.sse import Event

__all__ = ["Guarded", "Step", "broken", "log_failure"]

log = logging.getLogger("llm_sidecar.chain")


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a chain. closed: what happens when the policy itself breaks: True refuses the call."""

    policy: Policy
    closed: bool
    when: Callable[[Exchange], bool] | None = None

    @property
    def label(self) -> str:
        """The entry's name in logs, timings and ``x-sidecar-policy``."""
        return self.policy.label


def broken(step: Step, phase: str, error: Exception, exchange: Exchange) -> None:
    """A policy broke in ``phase``. Raises ``policy_failed`` where it is closed."""
    log_failure(step, phase, error, exchange)
    if step.closed:
        message = f"The policy {step.label} failed; the call was refused."
        raise ProxyError("policy_failed", message, policy=step.label)


def log_failure(step: Step, phase: str, error: Exception, exchange: Exchange) -> None:
    """The same where the call can no longer be refused."""
    # The message of a foreign exception may quote a body, so only its type and the places are logged.
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]]
    log.error(
        "policy failed",
        extra={
            "policy": step.label,
            "phase": phase,
            "error": type(error).__name__,
            "at": places,
            "on_error": "closed" if step.closed else "open",
            "request_id": exchange.id,
        },
    )


class Guarded(Stage):
    """A stage whose failure ends the stream (closed) or takes the stage out of it (open)."""

    __slots__ = ("_exchange", "_out", "_stage", "_step")

    def __init__(self, stage: Stage, step: Step, exchange: Exchange) -> None:
        self._stage, self._step, self._exchange = stage, step, exchange
        self._out = False

    def feed(self, event: Event) -> Sequence[Event] | Stop:
        if self._out:
            return (event,)
        try:
            said = self._stage.feed(event)
            if type(said) is Stop:
                said.error.policy = said.error.policy or self._step.label
            return said
        except ProxyError as error:
            error.policy = error.policy or self._step.label
            return Stop(error)
        except Exception as error:
            try:
                broken(self._step, "stream", error, self._exchange)
            except ProxyError as refused:
                return Stop(refused)
            self._out = True
            return (event,)

    def end(self, reason: EndReason) -> Sequence[Event]:
        if self._out:
            return ()
        self._out = True
        try:
            return self._stage.end(reason)
        except Exception as error:
            log_failure(self._step, "stream end", error, self._exchange)
            return ()
