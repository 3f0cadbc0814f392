"""Content codings, whole and in pieces, with a bound."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.transport import BodyTooLarge, DecodeFailed
from proxy.upstream.transport.decode import Decoder, decode


def _raw_deflate(data: bytes) -> bytes:
    squeezer = zlib.compressobj(wbits=-15)
    return squeezer.compress(data) + squeezer.flush()


ENCODE = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "identity": bytes,
    "": bytes,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
}
CODINGS = sorted(set(ENCODE) - {"", "identity"})


@given(
    data=st.binary(max_size=2000),
    encoding=st.sampled_from(sorted(ENCODE)),
    cut=st.integers(1, 50),
    times=st.integers(1, 200),
)
def test_pieces_decode_to_the_same_as_the_whole(data, encoding, cut, times):
    data = data * times
    packed = ENCODE[encoding](data)
    assert decode(packed, encoding, len(data)) == data
    decoder = Decoder(encoding)
    pieces = [decoder.feed(packed[at : at + cut]) for at in range(0, min(len(packed), 4000), cut)]
    pieces.append(decoder.feed(packed[(min(len(packed), 4000) + cut - 1) // cut * cut :]))
    assert b"".join(pieces) + decoder.finish() == data


def test_raw_deflate_is_understood():
    assert decode(_raw_deflate(b"hello" * 99), "deflate", 1000) == b"hello" * 99


@pytest.mark.parametrize("encoding", CODINGS)
def test_a_bomb_is_stopped_at_the_limit(encoding):
    packed = ENCODE[encoding](bytes(50_000_000))
    with pytest.raises(BodyTooLarge):
        decode(packed, encoding, 100_000)


@pytest.mark.parametrize("encoding", CODINGS)
def test_the_limit_itself_is_allowed(encoding):
    assert len(decode(ENCODE[encoding](bytes(100_000)), encoding, 100_000)) == 100_000


def test_the_limit_holds_without_a_coding():
    with pytest.raises(BodyTooLarge):
        decode(b"hello", "identity", 4)


@pytest.mark.parametrize("encoding", CODINGS)
def test_a_body_that_breaks_off_is_an_error(encoding):
    packed = ENCODE[encoding](bytes(range(256)) * 50)
    with pytest.raises(DecodeFailed, match="breaks off"):
        decode(packed[:-6], encoding, 1 << 20)


@pytest.mark.parametrize("encoding", CODINGS)
def test_bytes_of_another_format_are_an_error(encoding):
    with pytest.raises(DecodeFailed):
        decode(b'{"plain": "json, sent under a wrong label"}', encoding, 1 << 20)


@pytest.mark.parametrize("encoding", CODINGS)
def test_an_empty_body_is_empty(encoding):
    assert decode(b"", encoding, 10) == b""


def test_several_gzip_members_are_one_body():
    assert decode(gzip.compress(b"one ") + gzip.compress(b"two"), "gzip", 100) == b"one two"


@pytest.mark.parametrize("encoding", ["compress", "gzip, rot13", "aes128gcm"])
def test_an_unknown_coding_is_named(encoding):
    with pytest.raises(DecodeFailed, match="not known") as caught:
        Decoder(encoding)
    assert caught.value.reason == "unknown_encoding"


def test_a_flushed_stream_gives_each_event_at_once():
    squeezer = zlib.compressobj(wbits=31)
    decoder = Decoder("gzip")
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        assert decoder.feed(squeezer.compress(event) + squeezer.flush(zlib.Z_SYNC_FLUSH)) == event
