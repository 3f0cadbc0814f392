"""A multipart form that is read while it passes: what is asked for stands in a few short fields, the rest is files.

``Scanner`` looks at the heads of parts, keeps the values of ``FIELDS`` and measures the files. However the bytes are
cut, it says the same. ``Form`` is the body with a scanner beside it: its bytes pass as they came, and none are held but
those before the first file (``AHEAD`` at most), so that a call whose fields stand there is known before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Final

from proxy.accounting.usage import Usage, estimate_upload
from proxy.dialects.base import Bound

__all__ = ["AHEAD", "FIELDS", "Form", "Scanner", "boundary_of"]

FIELDS: Final = frozenset({"model", "n"})
"""Those that somebody acts on."""
AHEAD: Final = 64 * 1024
_LONGEST_VALUE: Final = 256
_LONGEST_HEAD: Final = 8 * 1024
_DIGITS: Final = 6

_BOUNDARY: Final = re.compile(
    r"multipart/form-data\s*;.*?\bboundary=(?:\"([^\"]{1,200})\"|([^\s;\"]{1,200}))", re.IGNORECASE
)
_LINE: Final = re.compile(rb"\r\n(content-disposition|content-type)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_PARAMETER: Final = re.compile(rb"[ \t]*;[ \t]*([\w*-]+)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;\"]*))")
_ANY_BYTES: Final = b"application/octet-stream"
_START: Final = "(start)"
_FILE: Final = "(file)"


def boundary_of(content_type: str | None) -> bytes | None:
    """What stands between the parts of a form; None for a body of another type."""
    found = _BOUNDARY.match(content_type) if content_type else None
    return (found[1] or found[2]).encode("latin-1", "replace") if found else None


class Scanner:
    """fields: the values that have come whole, the last of each name. files: how many have begun; pictures: those that
    are images; sound: the bytes of the others, whose type is ``kind``. over: nothing more is looked for: the form has
    ended, or it is none.
    """

    __slots__ = (
        "_delimiter", "_in_head", "_part", "_rest", "_value", "fields", "files", "kind", "over", "pictures", "sound",
    )  # fmt: skip

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._rest = b"\r\n"  # the first boundary has no line before it
        self._in_head = False
        self._part = _START
        self._value = b""
        self.fields: dict[str, str] = {}
        self.files = self.pictures = self.sound = 0
        self.kind = ""
        self.over = False

    def feed(self, piece: bytes) -> None:
        """The next bytes of the body."""
        data: bytes | None = self._rest + piece
        while data is not None and not self.over:
            self._rest = data
            data = self._after_head(data) if self._in_head else self._after_content(data)

    def _after_content(self, data: bytes) -> bytes | None:
        """What stands behind the part's content; None when its end has not come."""
        delimiter = self._delimiter
        if self._part == _START and not (data.startswith(delimiter) or delimiter.startswith(data)):
            self.over = True  # something before the first boundary: no form that anybody sends
            return None
        at = data.find(delimiter)
        if at < 0:
            kept = len(delimiter) - 1  # it may have begun
            self._take(data[:-kept])
            self._rest = data[-kept:]
            return None
        self._take(data[:at])
        if self._part in FIELDS and len(self._value) <= _LONGEST_VALUE:
            self.fields[self._part] = self._value.decode("utf-8", "replace")
        self._in_head = True
        return data[at + len(delimiter) :]

    def _take(self, content: bytes) -> None:
        """Content of the part, or some of it."""
        if self._part == _FILE:
            self.sound += len(content)
        elif self._part in FIELDS and len(self._value) <= _LONGEST_VALUE:
            self._value += content

    def _after_head(self, data: bytes) -> bytes | None:
        """What stands behind the head of a part; None when its end has not come."""
        if len(data) < 2:
            return None
        if data.startswith(b"--"):
            self.over = True
            return None
        if not data.startswith((b"\r\n", b" ", b"\t")):  # the boundary was only the beginning of this text
            self._in_head = False
            self._take(self._delimiter)
            return data
        at = data.find(b"\r\n\r\n")
        if at < 0:
            self.over = len(data) > _LONGEST_HEAD
            return None
        self._begin(data[:at])
        self._in_head = False
        return data[at + 4 :]

    def _begin(self, head: bytes) -> None:
        """A part: a field that is asked for, a file, or something else."""
        lines = {name.lower(): value for name, value in _LINE.findall(head)}
        disposition = lines.get(b"content-disposition", b"")
        named = {match[1].lower(): match[2] or match[3] or b"" for match in _parameters(disposition)}
        self._part, self._value = "", b""
        if b"filename" not in named and b"filename*" not in named:
            name = named.get(b"name", b"").decode("latin-1")
            if name in FIELDS:
                self._part = name
            return
        self.files += 1
        kind = lines.get(b"content-type", _ANY_BYTES).partition(b";")[0].strip().lower()
        if kind.startswith(b"image/"):
            self.pictures += 1
            return
        self._part = _FILE
        if kind == _ANY_BYTES:  # what many clients send; the name's ending says more
            kind = b"audio/" + named.get(b"filename", b"").rpartition(b".")[2].lower()
        self.kind = kind.decode("latin-1")


def _parameters(disposition: bytes) -> Iterator[re.Match[bytes]]:
    """One after the other from the start, so that what stands in a quoted file name is never taken for one."""
    at = disposition.find(b";")
    while at >= 0 and (found := _PARAMETER.match(disposition, at)) is not None:
        yield found
        at = found.end()


class Form:
    """A body that is a form. Iterate it once: its bytes, as they came."""

    __slots__ = ("_ahead", "_pieces", "_scanner")

    def __init__(self, pieces: AsyncIterable[bytes], boundary: bytes) -> None:
        self._pieces = aiter(pieces)
        self._scanner = Scanner(boundary)
        self._ahead: list[bytes] = []

    async def begin(self) -> None:
        """Read what stands before the first file. Raises what the pieces raise."""
        size = 0
        while size < AHEAD and not self._scanner.files and not self._scanner.over:
            piece = await anext(self._pieces, b"")
            if not piece:
                return
            size += len(piece)
            self._scanner.feed(piece)
            self._ahead.append(piece)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        held, self._ahead = self._ahead, []
        for piece in held:
            yield piece
        async for piece in self._pieces:
            self._scanner.feed(piece)
            yield piece

    @property
    def model(self) -> str | None:
        """The model that the form asks for, as far as it has come."""
        return self._scanner.fields.get("model") or None

    @property
    def over(self) -> bool:
        """Whether all fields have come."""
        return self._scanner.over

    def given(self, announced: int = 0) -> Usage:
        """An estimate of what the model is given. announced: the length of the body, while its files are on the way."""
        scanner = self._scanner
        sound = scanner.sound if scanner.over or scanner.pictures else max(scanner.sound, announced)
        return estimate_upload(scanner.pictures, scanner.kind, sound)

    def bound(self, announced: int = 0) -> Bound:
        """What bounds the answer: each choice may be a picture; and speech that is paid by the minute."""
        said = self._scanner.fields.get("n", "")
        choices = max(1, int(said)) if said.isdecimal() and len(said) < _DIGITS else 1
        return Bound(None, choices, choices, self.given(announced).audio_ms)
