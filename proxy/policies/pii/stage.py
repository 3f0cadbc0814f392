"""The policy's part in one streamed answer: mask what leaks, put the request's values back, per channel.

Held back is only a tail that may still become a placeholder (`Grammar.longest` characters), and, when answers are
masked, at most `stream_masker.HOLD_MOST` more. It leaves before or with the event that closes its channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.policies.pii.found import Found
from proxy.policies.pii.restore import Restorer
from proxy.policies.pii.scan import WorkExceededError
from proxy.policies.pii.stream_masker import StreamMasker
from proxy.policies.pii.vault import Vault
from proxy.policy import Stage, Stop

if TYPE_CHECKING:
    from proxy.dialects.base import Channel, Dialect, Piece
    from proxy.errors import ProxyError
    from proxy.exchange import EndReason
    from proxy.policies.pii.policy import Pii
    from proxy.stream.sse import Event


class _BlockedError(Exception):
    """The answer holds something whose action is block."""

    def __init__(self, found: list[Found]) -> None:
        super().__init__()
        self.found = found


class _Flow:
    """One channel: masker first, restorer behind it, so that what was restored is not masked again."""

    __slots__ = ("like", "masker", "restorer")

    def __init__(self, masker: StreamMasker | None, restorer: Restorer | None) -> None:
        self.masker = masker
        self.restorer = restorer
        self.like: Event | None = None

    def feed(self, text: str) -> str:
        if self.masker is not None:
            text = self.masker.feed(text)
        return self.restorer.feed(text) if self.restorer is not None else text

    def flush(self) -> str:
        text = self.masker.flush() if self.masker is not None else ""
        if self.restorer is not None:
            text = self.restorer.feed(text) + self.restorer.flush()
        return text


class PiiStage(Stage):
    """One stream's restorers and maskers, made when a channel's first piece comes."""

    __slots__ = ("_dialect", "_flows", "_leaked", "_masks", "_policy", "_read", "_vault")

    def __init__(self, policy: Pii, dialect: Dialect, vault: Vault | None, *, masks: bool) -> None:
        self._policy = policy
        self._dialect = dialect
        self._read = dialect.read
        self._vault = vault
        self._masks = masks
        self._leaked = (vault or Vault()).sibling() if masks else None
        self._flows: dict[Channel, _Flow] = {}

    def feed(self, event: Event) -> Sequence[Event] | Stop:
        """The event with its pieces restored; before it, what a closing channel still held."""
        reading = self._read(event)
        pieces = reading.pieces
        if not pieces and not reading.closes and reading.closes is not None:
            return (event,)
        try:
            changed = False
            for piece in pieces:
                text = piece.text
                new = self._whole(piece, text) if piece.whole else self._flow(piece, event).feed(text)
                if new is not text:
                    piece.text = new
                    changed = True
            before = self._close(event) if self._flows and (reading.closes is None or reading.closes) else ()
        except _BlockedError as blocked:
            return Stop(self._policy.leak(blocked.found))
        except WorkExceededError:
            return Stop(self._too_much())
        if changed:
            event.touch()
        return (*before, event) if before else (event,)

    def end(self, reason: EndReason) -> Sequence[Event]:
        """The tails that are still held, each as an event of its own."""
        events: list[Event] = []
        for channel, flow in self._flows.items():
            try:
                tail = flow.flush()
            except (_BlockedError, WorkExceededError):
                continue  # the end is no place to refuse any more; what is held is dropped, not shown
            if tail and flow.like is not None:
                events.append(self._dialect.delta(flow.like, channel, tail))
        self._flows.clear()
        return events

    def _flow(self, piece: Piece, event: Event) -> _Flow:
        flow = self._flows.get(piece.channel)
        if flow is None:
            escape = piece.kind == "arguments"
            masker = StreamMasker(self._policy.detector, self._replace) if self._masks else None
            restorer = self._vault.restorer(escape=escape) if self._vault is not None else None
            flow = self._flows[piece.channel] = _Flow(masker, restorer)
        flow.like = event
        return flow

    def _close(self, event: Event) -> list[Event]:
        """Tails of the channels that `event` closes: within the event if it adds to the channel, else before it."""
        reading = self._read(event)
        before: list[Event] = []
        for channel in [c for c in self._flows if reading.closed(c)]:
            flow = self._flows.pop(channel)
            tail = flow.flush()
            if not tail:
                continue
            own = next((p for p in reading.pieces if p.channel == channel and not p.whole), None)
            if own is not None:
                own.text += tail
                event.touch()
            else:
                before.append(self._dialect.delta(flow.like or event, channel, tail))
        return before

    def _whole(self, piece: Piece, text: str) -> str:
        new = text
        if self._masks:
            found = self._policy.detector.detect(text)
            if found:
                new = self._replace(text, found)
        if self._vault is not None:
            new = self._vault.restore(new, escape=piece.kind == "arguments")
        return new

    def _replace(self, text: str, found: list[Found]) -> str:
        actions = self._policy.actions
        if actions.blocked(found):
            raise _BlockedError(found)
        return actions.apply(text, found, self._leaked if self._leaked is not None else Vault())

    def _too_much(self) -> ProxyError:
        from proxy.errors import ProxyError  # noqa: PLC0415 - rare

        return ProxyError(
            "pii_refused",
            "The answer holds more things that look like personal data than can be verified.",
            policy=self._policy.label,
        )
