"""A form says the same however its bytes are cut, and they pass as they came."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting.usage import TOKENS_PER_IMAGE
from proxy.dialects.base import Bound
from proxy.form import AHEAD, Form, Scanner, boundary_of

BOUNDARY = b"----sidecar"
MODEL = (b'form-data; name="model"', None, b"whisper-1")
SOUND = (b'form-data; name="file"; filename="a.wav"', b"audio/wav", b"RIFF" * 300)
PICTURE = (b'form-data; name="image"; filename="a.png"', b"image/png", b"PNG")

Part = tuple[bytes, bytes | None, bytes]


def form(*parts: Part, boundary: bytes = BOUNDARY) -> bytes:
    out = b""
    for disposition, kind, content in parts:
        lines = b"Content-Disposition: " + disposition + (b"" if kind is None else b"\r\nContent-Type: " + kind)
        out += b"--" + boundary + b"\r\n" + lines + b"\r\n\r\n" + content + b"\r\n"
    return out + b"--" + boundary + b"--\r\n"


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    at = sorted({place % (len(body) + 1) for place in places} | {0, len(body)})
    return [body[start:end] for start, end in pairwise(at)]


def scanned(pieces: Iterable[bytes], boundary: bytes = BOUNDARY) -> Scanner:
    scanner = Scanner(boundary)
    for piece in pieces:
        scanner.feed(piece)
    return scanner


def said(scanner: Scanner) -> tuple[Any, ...]:
    return scanner.fields, scanner.files, scanner.pictures, scanner.sound, scanner.kind, scanner.over


async def pieces_of(pieces: Sequence[bytes], taken: list[bytes] | None = None) -> AsyncIterator[bytes]:
    for piece in pieces:
        if taken is not None:
            taken.append(piece)
        yield piece


# Contents that look like a form themselves.
CONTENT = st.lists(
    st.sampled_from([b"\r\n", b"--", BOUNDARY, b"\r\n--" + BOUNDARY[:-1], b"\r", b"\n", b"model", b"\r\n\r\n", b"x"])
    | st.binary(max_size=9),
    max_size=9,
).map(b"".join)
PARTS = st.lists(
    st.sampled_from([MODEL, SOUND, PICTURE, (b'form-data; name="n"', None, b"2")])
    | CONTENT.map(lambda content: (b'form-data; name="prompt"', None, content))
    | CONTENT.map(lambda content: (b'form-data; name="file"; filename="x; name=model"', b"audio/mpeg", content)),
    max_size=5,
)


@given(PARTS, st.lists(st.integers(0, 10_000), max_size=30))
def test_it_says_the_same_however_it_is_cut(parts: list[Part], places: list[int]) -> None:
    body = form(*parts)
    assert said(scanned(cut(body, places))) == said(scanned([body]))
    assert said(scanned([body[place : place + 1] for place in range(len(body))])) == said(scanned([body]))


@given(PARTS, st.lists(st.integers(0, 10_000), max_size=30), st.booleans())
async def test_its_bytes_pass_as_they_came(parts: list[Part], places: list[int], ahead: bool) -> None:
    pieces = cut(form(*parts), places)
    passing = Form(pieces_of(pieces), BOUNDARY)
    if ahead:
        await passing.begin()
    assert [piece async for piece in passing] == pieces


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=9))
def test_no_bytes_make_it_stumble(body: bytes, places: list[int]) -> None:
    assert said(scanned(cut(body, places))) == said(scanned([body]))


@pytest.mark.parametrize("parts", [(MODEL, SOUND), (SOUND, MODEL), (PICTURE, MODEL, SOUND)])
def test_the_model_is_found_before_and_after_files(parts: tuple[Part, ...]) -> None:
    assert scanned([form(*parts)]).fields == {"model": "whisper-1"}


@pytest.mark.parametrize(
    ("disposition", "found"),
    [
        (b'form-data; name="model"', True),
        (b"form-data; name=model", True),
        (b'FORM-DATA ; NAME = "model"', True),
        (b'form-data; name="models"', False),
        (b'form-data; name="file"; filename="x; name=model"', False),  # a file name is no field
        (b'form-data; name="file"; filename="x\\"; name=\\"model"', False),
        (b'form-data; name="model"; filename="m.txt"', False),  # a file is no field
        (b"form-data", False),
        (b"", False),
    ],
)
def test_only_a_field_of_that_name_is_the_model(disposition: bytes, found: bool) -> None:
    assert scanned([form((disposition, None, b"m"))]).fields == ({"model": "m"} if found else {})


def test_what_is_too_long_to_be_a_models_name_is_none_and_is_not_kept() -> None:
    scanner = scanned([form((b'form-data; name="model"', None, b"m" * 100_000), SOUND)])
    assert (scanner.fields, scanner.files) == ({}, 1)


def test_what_holds_the_boundary_is_no_end() -> None:
    inside = b"a\r\n--" + BOUNDARY + b"more"
    assert scanned([form((b'form-data; name="model"', None, inside))]).fields == {"model": inside.decode()}


def test_nothing_of_a_file_is_kept() -> None:
    scanner = Scanner(BOUNDARY)
    scanner.feed(form(MODEL, SOUND)[: -len(BOUNDARY) - 8])
    for _ in range(100):
        scanner.feed(b"x" * 10_000)
    assert scanner.sound > 1_000_000
    assert len(scanner._rest) <= len(BOUNDARY) + 4


async def test_what_stands_before_the_first_file_is_known_before_it_is_sent() -> None:
    body, taken = form(MODEL, SOUND), []
    passing = Form(pieces_of([body[place : place + 7] for place in range(0, len(body), 7)], taken), BOUNDARY)
    await passing.begin()
    assert passing.model == "whisper-1"
    assert len(b"".join(taken)) < body.index(b"RIFF") + 7  # and no more than that was waited for


@pytest.mark.parametrize("body", [b"x" * 10_000, b"{}", b""])
async def test_nothing_is_waited_for_in_a_body_that_is_no_form(body: bytes) -> None:
    taken: list[bytes] = []
    await Form(pieces_of([body, body], taken), BOUNDARY).begin()
    assert len(taken) <= 1 + (not body)


async def test_no_more_is_held_than_so_much() -> None:
    endless = form((b'form-data; name="prompt"', None, b"x" * 1_000_000))
    taken: list[bytes] = []
    await Form(pieces_of([endless[at : at + 1000] for at in range(0, len(endless), 1000)], taken), BOUNDARY).begin()
    assert len(b"".join(taken)) < AHEAD + 1_000


async def test_what_the_model_is_given_is_estimated() -> None:
    passing = Form(pieces_of([form(MODEL, (b'form-data; name="n"', None, b"3"), PICTURE, PICTURE)]), BOUNDARY)
    await passing.begin()
    assert passing.given(10_000).input == 2 * TOKENS_PER_IMAGE
    assert passing.bound() == Bound(None, 3, 3, 0)
    speech = Form(pieces_of([form(MODEL, SOUND)[:300]]), BOUNDARY)
    await speech.begin()
    assert speech.given(480_000).audio_ms == 10_000  # by the length of the body, while it is on the way


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        ("multipart/form-data", None),
        ("multipart/mixed; boundary=abc", None),
        ("application/json", None),
        (None, None),
    ],
)
def test_the_boundary_stands_in_the_type(kind: str | None, boundary: bytes | None) -> None:
    assert boundary_of(kind) == boundary
