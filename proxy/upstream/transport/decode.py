"""Content codings of an answer's body, undone with a bound on what comes out.

A few hundred bytes can unpack to gigabytes, so every decoder is asked for bounded pieces and stops at the limit.
brotli and zstandard are optional packages, imported when first needed.
"""

from __future__ import annotations

import zlib
from importlib import import_module
from typing import Any, Protocol

from .errors import BodyTooLarge, DecodeFailed

STEP = 64 * 1024
"""Most bytes taken from zlib or brotli at a time."""
ZSTD_INPUT = 256
"""Bytes given to zstd at a time: it has no output bound, and 256 bytes unpack to at most 8 MiB (blocks of 128 KiB)."""
ZSTD_WINDOW = 8 * 1024 * 1024
"""The largest window that RFC 9659 allows zstd as a content coding."""


def decode(body: bytes, encoding: str, limit: int) -> bytes:
    """`body` without its content codings. `encoding`: the value of Content-Encoding, several in the order applied.

    Raises BodyTooLarge when more than `limit` bytes come out (at any stage), DecodeFailed for unknown codings and for
    bytes that do not fit or break off.
    """
    decoder = Decoder(encoding, limit)
    return decoder.feed(body) + decoder.finish()


class Decoder:
    """The same, piece by piece: what can be known is returned at once. `limit` bounds the sum over all pieces."""

    def __init__(self, encoding: str, limit: int | None = None) -> None:
        names = [name.strip().lower() for name in encoding.split(",")]
        self._stages = [_stage(name, encoding) for name in reversed(names) if name not in {"", "identity"}]
        # Between two codings a body may be a little larger than at the end: what does not compress only gains framing.
        between = None if limit is None else limit + limit // 8 + 1024
        self._left = [between] * (len(self._stages) - 1) + [limit]
        self._limit = limit
        self._plain_left = limit

    def feed(self, data: bytes) -> bytes:
        for number, stage in enumerate(self._stages):
            if not data:
                return b""
            left = self._left[number]
            data = stage.feed(data, left)
            if left is not None:
                if len(data) > left:
                    raise self._too_large()
                self._left[number] = left - len(data)
        if not self._stages and self._plain_left is not None:
            self._plain_left -= len(data)
            if self._plain_left < 0:
                raise self._too_large()
        return data

    def finish(self) -> bytes:
        """What was held back (nothing, with today's codings). Raises DecodeFailed if the body broke off."""
        for stage in self._stages:
            if not stage.ended:
                raise DecodeFailed(f"the {stage.name} body of the answer breaks off")
        return b""

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the decoded answer is larger than {self._limit} bytes")


class _Stage(Protocol):
    name: str

    @property
    def ended(self) -> bool: ...

    def feed(self, data: bytes, left: int | None) -> bytes:
        """Decode; may stop as soon as more than `left` bytes have come out."""


class _Zlib:
    """gzip (also several members, one behind the other) and deflate (with and without the zlib wrapper)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._gzip = name == "gzip"
        self._inner: Any = zlib.decompressobj(31) if self._gzip else None
        self._begun = False

    @property
    def ended(self) -> bool:
        return not self._begun or bool(self._inner.eof)

    def feed(self, data: bytes, left: int | None) -> bytes:
        if self._inner is None:
            # RFC 1950: the low half of the first byte is 8; a raw stream that begins like that does not occur.
            self._inner = zlib.decompressobj(15 if data[0] & 0x0F == 8 else -15)
        self._begun = True
        out: list[bytes] = []
        size = 0
        try:
            while data:
                if self._inner.eof:
                    if not self._gzip:
                        raise DecodeFailed("bytes follow the end of the deflate body")
                    data = data.lstrip(b"\0")  # padding, as gzip itself takes it
                    if not data:
                        break
                    self._inner = zlib.decompressobj(31)
                piece = self._inner.decompress(data, STEP)
                size += len(piece)
                out.append(piece)
                if left is not None and size > left:
                    break
                data = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail
                if not data and len(piece) == STEP and not self._inner.eof:
                    # A full piece and no input left: more may be waiting inside.
                    piece = self._inner.decompress(b"", STEP)
                    while piece:
                        size += len(piece)
                        out.append(piece)
                        if left is not None and size > left:
                            break
                        piece = self._inner.decompress(b"", STEP)
        except zlib.error as error:
            raise DecodeFailed(f"the body is not valid {self.name}: {error}") from error
        return b"".join(out)


class _Brotli:
    name = "br"

    def __init__(self) -> None:
        self._module = _optional("brotli", "br")
        self._inner = self._module.Decompressor()
        self._begun = False

    @property
    def ended(self) -> bool:
        return not self._begun or bool(self._inner.is_finished())

    def feed(self, data: bytes, left: int | None) -> bytes:
        self._begun = True
        if self._inner.is_finished():
            raise DecodeFailed("bytes follow the end of the br body")
        out: list[bytes] = []
        size = 0
        try:
            while True:
                piece = self._inner.process(data, output_buffer_limit=STEP)
                data = b""
                size += len(piece)
                out.append(piece)
                if (left is not None and size > left) or self._inner.is_finished():
                    break
                if not piece and self._inner.can_accept_more_data():
                    break
        except self._module.error as error:
            raise DecodeFailed("the body is not valid br") from error
        return b"".join(out)


class _Zstd:
    name = "zstd"

    def __init__(self) -> None:
        self._module = _optional("zstandard", "zstd")
        self._maker = self._module.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._inner = self._maker.decompressobj()
        self._begun = False

    @property
    def ended(self) -> bool:
        return not self._begun or bool(self._inner.eof)

    def feed(self, data: bytes, left: int | None) -> bytes:
        self._begun = True
        out: list[bytes] = []
        size = 0
        try:
            for at in range(0, len(data), ZSTD_INPUT):
                part = data[at : at + ZSTD_INPUT]
                while part:
                    if self._inner.eof:
                        self._inner = self._maker.decompressobj()
                    piece = self._inner.decompress(part)
                    size += len(piece)
                    out.append(piece)
                    part = self._inner.unused_data if self._inner.eof else b""
                if left is not None and size > left:
                    break
        except self._module.ZstdError as error:
            raise DecodeFailed(f"the body is not valid zstd: {error}") from error
        return b"".join(out)


def _stage(name: str, encoding: str) -> _Stage:
    if name in {"gzip", "x-gzip"}:
        return _Zlib("gzip")
    if name == "deflate":
        return _Zlib("deflate")
    if name == "br":
        return _Brotli()
    if name == "zstd":
        return _Zstd()
    raise DecodeFailed(
        f"content-encoding {encoding!r} is not known: gzip, deflate, br and zstd are", reason="unknown_encoding"
    )


def _optional(module: str, coding: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise DecodeFailed(
            f"the answer is encoded with {coding}, which needs the package {module}: install it",
            reason="unknown_encoding",
        ) from error
