"""One direction of a websocket, read as far as a relay must: where frames begin and end, and what a Close frame says.

    +-+---+-------+-+-------------+----------------+-----------+-------------------+
    |F|RSV|opcode |M| length 7    | length 16 / 64 | mask 32   | payload           |     RFC 6455, 5.2
    +-+---+-------+-+-------------+----------------+-----------+-------------------+

Pure: bytes in, positions out. Payloads are passed over, not copied; a Close frame's (125 bytes at most) is kept, and,
where somebody wants to read what is said, that of text messages up to a bound.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

__all__ = ["ABNORMAL", "NO_STATUS", "FrameError", "Frames", "close_frame"]

TEXT: Final = 1
CLOSE: Final = 8
_DATA: Final = frozenset((0, 1, 2))
_CONTROL: Final = frozenset((8, 9, 10))
NO_STATUS: Final = 1005
"""What stands for a Close frame without a code; never on the wire."""
ABNORMAL: Final = 1006
"""What stands for the end of a connection without a Close frame; never on the wire."""
_LONGEST_HEAD: Final = 14


class FrameError(Exception):
    """The bytes are no frames of this direction: nothing that follows can be trusted."""


class Frames:
    """Follows the frames of one direction. masked: whether they must be (a client's) or must not (a server's).

    closed: the code of the Close frame that came, None before it; close_size: the bytes of that frame. messages: those
    that came whole. reads: called with each whole text message of at most ``most`` bytes (a server's: they are not
    unmasked).
    """

    __slots__ = ("_close", "_head", "_last", "_left", "_mask", "_most", "_opcode", "_reads", "_text", "close_size",
                 "closed", "masked", "messages")  # fmt: skip

    def __init__(self, *, masked: bool, reads: Callable[[bytes], None] | None = None, most: int = 1 << 20) -> None:
        self.masked = masked
        self.closed: int | None = None
        self.close_size = 0
        self.messages = 0
        self._reads = reads
        self._most = most
        self._head = b""  # of a header that has not come whole
        self._left = 0  # bytes of payload to come
        self._opcode = 0
        self._last = False  # the frame is its message's last
        self._mask = b""
        self._close = b""
        self._text: bytearray | None = None  # of a message that is read

    @property
    def between(self) -> bool:
        """Whether the last byte ended a frame, so that another frame may follow."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> int:
        """Read on. Returns how many of these bytes count: what follows a Close frame does not. Raises FrameError."""
        size = len(data)
        at = 0
        while at < size and self.closed is None:
            if not self._left:
                at = self._begin(data, at)
                if self._head:
                    return size
            else:
                end = min(size, at + self._left)
                if self._opcode == CLOSE:
                    self._close += data[at:end]
                elif self._text is not None:
                    self._read(data, at, end)
                self._left -= end - at
                at = end
            if not self._left:
                self._end()
        return at

    def _begin(self, data: bytes, at: int) -> int:
        """A frame's header: where its payload begins. Keeps what has come of a header that is not whole."""
        known = len(self._head)
        head = self._head + data[at : at + _LONGEST_HEAD - known]
        if len(head) < 2:
            self._head = head
            return len(data)
        first, second = head[0], head[1]
        length = second & 0x7F
        long = 2 if length == 126 else 8 if length == 127 else 0
        size = 2 + long + (4 if second & 0x80 else 0)
        self._check(first, second, length)
        if len(head) < size:
            self._head = head
            return len(data)
        if long:
            length = int.from_bytes(head[2 : 2 + long], "big")
            if length >> 63:
                raise FrameError("a frame's length is negative")
        self._head = b""
        self._left = length
        self._opcode = opcode = first & 0x0F
        self._last = bool(first & 0x80)
        if opcode == CLOSE:
            self._mask = head[size - 4 : size] if second & 0x80 else b""
            self._close = b""
            self.close_size = size + length
        elif opcode in _DATA and opcode:  # the first of a message
            self._text = bytearray() if opcode == TEXT and self._reads is not None else None
        return at + size - known

    def _check(self, first: int, second: int, length: int) -> None:
        opcode = first & 0x0F
        if first & 0x70:
            raise FrameError("a frame uses an extension that was not agreed on")
        if bool(second & 0x80) != self.masked:
            raise FrameError("a client's frame is not masked" if self.masked else "a server's frame is masked")
        if opcode in _CONTROL:
            if length > 125 or not first & 0x80:
                raise FrameError("a control frame is too long or in fragments")
        elif opcode not in _DATA:
            raise FrameError("a frame has an opcode that does not exist")

    def _read(self, data: bytes, at: int, end: int) -> None:
        """A piece of a text message that is read; one that grows too long is let go."""
        if self._opcode in _CONTROL:
            return
        text = self._text
        assert text is not None
        if len(text) + self._left > self._most:
            self._text = None
        else:
            text += data[at:end]

    def _end(self) -> None:
        """A frame is complete."""
        opcode = self._opcode
        if opcode == CLOSE:
            self.closed = self._code()
        elif opcode in _DATA and self._last:
            self.messages += 1
            text, self._text = self._text, None
            if text is not None and self._reads is not None:
                self._reads(bytes(text))

    def _code(self) -> int:
        payload, mask = self._close, self._mask
        if len(payload) == 1:
            raise FrameError("a Close frame has half a code")
        if not payload:
            return NO_STATUS
        code = payload[:2]
        if mask:
            code = bytes((code[0] ^ mask[0], code[1] ^ mask[1]))
        return int.from_bytes(code, "big")


def close_frame(code: int, reason: str = "", *, masked: bool) -> bytes:
    """A Close frame of our own; the reason is cut to what one can hold."""
    payload = code.to_bytes(2, "big") + reason.encode()[:123].decode("utf-8", "ignore").encode()
    if not masked:
        return bytes((0x80 | CLOSE, len(payload))) + payload
    mask = os.urandom(4)
    hidden = bytes(byte ^ mask[place & 3] for place, byte in enumerate(payload))
    return bytes((0x80 | CLOSE, 0x80 | len(payload))) + mask + hidden
