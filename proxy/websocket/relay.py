"""Two sockets, one websocket: what one side says goes to the other as the bytes it came in.

    client --frames--> up --> upstream        a side that does not drink stops the other side's reading
    client <--frames-- down <-- upstream      a Close frame ends its direction; both ended, or one broken: over

What ends the conversation for the client (the upstream's Close frame, or that it broke off) is the answer's last piece:
it is held until the call has been settled. ``ended`` tells of it, ``part`` says it. An end without a Close frame stays
one: each side sees its connection broken (1006), never a goodbye that nobody said.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from proxy.websocket.frames import ABNORMAL, FrameError, Frames, close_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.upstream.transport import Switched

__all__ = ["CLOSE_WAIT", "HALF_WAIT", "Client", "End", "Relay"]

CLOSE_WAIT: Final = 10.0
"""Seconds that a side has to answer a Close frame with its own."""
HALF_WAIT: Final = 1.0
"""The same for an upstream whose client has said goodbye and closed its side: mostly it is gone altogether."""
_TICK: Final = 0.001
_GOING_AWAY: Final = 1001
_PROTOCOL: Final = 1002
_REFUSED: Final = 1008
_FAILED: Final = 1011

Why = Literal[
    "closed", "client_gone", "upstream_broke", "client_wrong", "upstream_wrong", "idle", "deadline", "away", "refused"
]


class End:
    """How a conversation ended. code: of the first Close frame, 1006 where there was none. first: whose it was."""

    __slots__ = ("code", "first", "why")

    def __init__(self, why: Why, code: int = ABNORMAL, first: Literal["client", "upstream"] | None = None) -> None:
        self.why: Why = why
        self.code = code
        self.first = first


class Wire(Protocol):
    """What the client's connection offers (``proxy.connection.Connection``)."""

    transport: Any
    secure: bool

    def pause_reading(self) -> None:
        """Read no more for now."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on."""


class Client:
    """The client's side, as aiohttp's protocol takes a payload parser: it is fed what comes."""

    __slots__ = ("_held", "_relay", "_wire")

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._relay: Relay | None = None
        self._held = False

    def listen(self, relay: Relay | None) -> None:
        """Who hears what comes."""
        self._relay = relay

    def write(self, data: bytes) -> None:
        """Send bytes; into the void once the client has gone."""
        if self._wire.transport is not None:
            self._wire.transport.write(data)

    def hold(self, stop: bool) -> None:
        """Stop or go on reading."""
        if self._held != stop:
            self._held = stop
            if stop:
                self._wire.pause_reading()
            else:
                self._wire.resume_reading()

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""
        return self._wire.transport is None

    # --- what the connection tells ---

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Bytes came."""
        if self._relay is not None:
            self._relay.client_said(data)
        return False, b""

    def feed_eof(self) -> None:
        """The connection is closed."""
        if self._relay is not None:
            self._relay.client_lost()

    def half_closed(self) -> bool:
        """The client sends no more. True: it may still hear us."""
        return self._relay is not None and self._relay.client_half_closed() and not self._wire.secure

    def going_away(self) -> None:
        """The process stops, now."""
        if self._relay is not None:
            self._relay.going_away()


class Relay:
    """One conversation. up and down: its two directions. idle: seconds of silence on both sides that end it; until: the
    loop time that does. reads: is shown each whole text message of the upstream."""

    def __init__(
        self,
        client: Client,
        upstream: Switched,
        *,
        idle: float = inf,
        until: float = inf,
        reads: Callable[[bytes], None] | None = None,
    ) -> None:
        self.up = Frames(masked=True)
        self.down = Frames(masked=False, reads=reads)
        self.end: End | None = None
        self._loop = loop = asyncio.get_running_loop()
        self._client = client
        self._upstream = upstream
        self._idle = idle
        self._until = until
        self._stamp = loop.time()
        self._goodbye = b""  # the upstream's Close frame, held
        self._reason = ""  # of our own Close frame, where a policy gave one
        self._over: asyncio.Future[None] = loop.create_future()
        self._answered: asyncio.Future[None] = loop.create_future()  # the client said goodbye, or left
        self._timer: asyncio.TimerHandle | None = None
        self._arm()
        client.listen(self)

    def start(self) -> None:
        """The client has its 101: what the upstream says may follow it."""
        self._upstream.listen(self)

    async def ended(self) -> End:
        """Wait until the conversation is over but for its last word to the client."""
        if self.end is None:
            await self._over
        assert self.end is not None
        return self.end

    async def part(self) -> None:
        """Say the last word to the client, wait for its goodbye where one is due, and let go of both sides."""
        end, client = self.end, self._client
        assert end is not None
        try:
            if self._goodbye:
                client.write(self._goodbye)
                if self.up.closed is None and not client.gone:
                    # The client's answer, whatever it says until then, is still carried up.
                    async with asyncio.timeout(CLOSE_WAIT):
                        await self._answered
            elif end.why in _LAST_WORDS and self.down.between and self.down.closed is None:
                code, reason = _LAST_WORDS[end.why]
                client.write(close_frame(code, self._reason or reason, masked=False))
        except TimeoutError:
            pass
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Hear no more of either side. What was written to the upstream is still sent where it was said goodbye to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._client.listen(None)
        if self.up.closed is not None or (self.end is not None and self.end.why in _WORDS_UP):
            self._upstream.close()
        else:
            self._upstream.abort()

    # --- what the client does --------------------------------------------------------------------------

    def client_said(self, data: bytes) -> None:
        """Bytes of the client."""
        if self.up.closed is not None:
            return
        frames = self.up
        self._stamp = self._loop.time()
        try:
            count = frames.feed(data)
        except FrameError:
            self._stop(End("client_wrong"))
            self._client_answered()
            return
        self._upstream.write(data if count == len(data) else data[:count])
        if frames.closed is not None:
            self._said_goodbye("client", frames.closed)

    def client_half_closed(self) -> bool:
        """The client sends no more. After its goodbye it may wait for the upstream's, or be gone altogether."""
        if self.up.closed is None:
            return False
        if self.end is None:
            self._until = min(self._until, self._loop.time() + HALF_WAIT)
            self._arm()
        return True

    def client_lost(self) -> None:
        """The client's connection is closed."""
        if self.up.closed is None:
            self._stop(End("client_gone"))
            self._upstream.abort()
        else:
            self._stop(End("closed", self.up.closed, "client"))
        self._client_answered()

    # --- what the upstream does ------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Bytes of the upstream."""
        if self.down.closed is not None or self.end is not None:
            return
        frames = self.down
        self._stamp = self._loop.time()
        try:
            count = frames.feed(data)
        except FrameError:
            self._stop(End("upstream_wrong"))
            return
        code = frames.closed
        if code is None:
            self._client.write(data)
            return
        # The frame stands at the end of what counts, but its beginning may have come, and gone, with an earlier read.
        start = max(0, count - frames.close_size)
        if start:
            self._client.write(data[:start])
        self._goodbye = data[start:count]
        self._said_goodbye("upstream", code)

    def half_closed(self) -> bool:
        """The upstream sends no more. After its goodbye it may still hear the client's."""
        if self.down.closed is None:
            self._broke()
            return False
        return self.up.closed is None

    def lost(self) -> None:
        """The upstream's socket is closed."""
        if self.down.closed is None:
            self._broke()

    def _broke(self) -> None:
        if self.up.closed is not None:
            # It was said goodbye to, and hung up instead of an answer.
            self._stop(End("closed", self.up.closed, "client"))
        else:
            self._stop(End("upstream_broke"))

    # --- backpressure ----------------------------------------------------------------------------------

    def full(self) -> None:
        """The upstream does not drink."""
        self._client.hold(True)

    def drained(self) -> None:
        """It does again."""
        self._client.hold(False)

    # --- the ends --------------------------------------------------------------------------------------

    def _said_goodbye(self, who: Literal["client", "upstream"], code: int) -> None:
        if who == "client":
            self._client_answered()
        if self.end is not None:
            return
        other = self.down if who == "client" else self.up
        if other.closed is not None:
            first: Literal["client", "upstream"] = "upstream" if who == "client" else "client"
            self._stop(End("closed", other.closed, first))
        elif who == "upstream":
            self._stop(End("closed", code, "upstream"))
        else:
            self._until = min(self._until, self._loop.time() + CLOSE_WAIT)
            self._arm()

    def _client_answered(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)

    def going_away(self) -> None:
        """The process stops: both are told, as far as a frame may begin here."""
        if self.end is not None:
            return
        self._stop(End("away", _GOING_AWAY))
        if self.down.between:
            self._client.write(close_frame(_GOING_AWAY, "the proxy is shutting down", masked=False))
        self.let_go()

    def refuse(self, reason: str) -> None:
        """A policy ends the session."""
        if self.end is None:
            self._reason = reason
            self._stop(End("refused", _REFUSED))

    def _stop(self, end: End) -> None:
        if self.end is not None:
            return
        self.end = end
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if end.why in _WORDS_UP and self.up.between and self.up.closed is None:
            self._upstream.write(close_frame(_GOING_AWAY, masked=True))
        if not self._over.done():
            self._over.set_result(None)

    # --- deadlines -------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """One timer: armed for the earliest moment at which anything could be due, it looks when it fires."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = min(self._stamp + self._idle, self._until)
        if when < inf:
            self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time() + _TICK
        if now >= self._until:
            said = self.up.closed
            self._stop(End("deadline") if said is None else End("closed", said, "client"))
        elif now >= self._stamp + self._idle:
            self._stop(End("idle"))
        else:
            self._arm()


_WORDS_UP: Final = frozenset({"idle", "deadline", "away", "refused"})
"""Ends of our own making, of which the upstream is told. A client's bad frame was cut off somewhere: it is not."""
_LAST_WORDS: Final[dict[str, tuple[int, str]]] = {
    "idle": (_FAILED, "upstream_timeout: nothing was said for too long"),
    "deadline": (_FAILED, "upstream_timeout: the session's time is over"),
    "refused": (_REFUSED, "policy_refused"),
    "client_wrong": (_PROTOCOL, "invalid_request: this is no websocket frame"),
}
"""And those of which the client is told; a broken upstream is a broken connection."""
