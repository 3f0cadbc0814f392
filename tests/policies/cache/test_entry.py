"""Entries as bytes, and how they lie in Redis: any damage is found, nothing is ever run."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.secrets import generate_master_key
from proxy.policies.cache.entry import Entry, EntryError, tags_of
from proxy.policies.cache.seal import Sealer
from proxy.policies.cache.selection import Selection

KEY = b"k" * 16
counts = st.one_of(st.none(), st.lists(st.integers(0, 2**40), min_size=1, max_size=13).map(tuple))
tags = st.lists(st.binary(min_size=8, max_size=8), max_size=40)


@given(
    st.binary(max_size=3000), st.floats(0, 2e9), st.floats(0, 1e6), counts, tags, st.integers(0, 3000), st.booleans()
)
def test_an_entry_comes_back_as_it_was(body, at, ttl, used, marks, above, estimated):
    data = Entry(body, at, ttl, used, estimated=estimated and used is not None).encode(
        b"".join(marks), compress_above=above
    )
    back = Entry.decode(b"12345678" + data, 8)
    assert (back.body, back.stored_at, back.fresh_for, back.counts) == (body, at, ttl, used)
    assert back.estimated is (estimated and used is not None)
    assert tags_of(data) == set(marks)


def test_usage_as_it_was_told_comes_back_until_the_body_tells_it():
    told = {"prompt_tokens": 3, "cost": 0.5, "id": 2**70}
    entry = Entry.decode(Entry(b"data: {}", 0, 0, (3, 4), estimated=True, told=told).encode())
    assert (entry.told, entry.counts, entry.estimated) == (told, (3, 4), True)
    entry.add_up(b"{}")
    assert (entry.told, entry.counts, entry.estimated) == (None, (3, 4), True)
    assert entry.encode() == Entry(b"{}", 0, 0, (3, 4), estimated=True).encode()


@pytest.mark.parametrize("told", [None, {"note": "x" * 70_000}])
def test_usage_that_is_not_told_or_told_at_length_adds_nothing_to_an_entry(told):
    assert Entry(b"", 0, 0, (3, 4), told=told).encode() == Entry(b"", 0, 0, (3, 4)).encode()


def test_a_large_body_is_kept_compressed():
    assert len(Entry(b"x" * 10_000, 0, 0).encode(compress_above=1000)) < 200


@given(st.binary(max_size=200))
def test_any_bytes_are_an_entry_or_an_entry_error(data):
    with contextlib.suppress(EntryError):
        Entry.decode(data)


@pytest.mark.parametrize("secrets", [(), (generate_master_key(),)])
@given(st.data())
def test_damage_anywhere_in_a_sealed_entry_is_found(secrets, data):
    sealer = Sealer(secrets)
    entry = Entry(b'{"a": 1}' * 10, 1.0, 2.0, (3, 4)).encode(b"tagtagta")
    sealed = sealer.seal(KEY, entry)
    assert sealer.open(KEY, sealed) == entry
    place = data.draw(st.integers(0, len(sealed) - 1))
    broken = sealed[:place] + bytes((sealed[place] ^ data.draw(st.integers(1, 255)),)) + sealed[place + 1 :]
    try:
        opened = sealer.open(KEY, broken)
        # Without a key the readable head (tags) is not covered by the checksum: it may send an entry away, no more.
        assert not secrets
        assert place < 11
        Entry.decode(opened)
    except EntryError:
        pass


def test_an_entry_does_not_open_under_another_key():
    for secrets in ((), (generate_master_key(),)):
        sealer = Sealer(secrets)
        sealed = sealer.seal(KEY, Entry(b"{}", 0, 0).encode())
        with pytest.raises(EntryError):
            sealer.open(b"x" * 16, sealed)


def test_master_keys_can_be_exchanged():
    old, new = generate_master_key(), generate_master_key()
    sealed = Sealer((old,)).seal(KEY, Entry(b"{}", 0, 0).encode())
    assert Entry.decode(Sealer((new, old)).open(KEY, sealed)).body == b"{}"
    with pytest.raises(EntryError, match="not known"):
        Sealer((new,)).open(KEY, sealed)


def test_a_plain_entry_is_refused_where_entries_are_encrypted():
    sealed = Sealer().seal(KEY, Entry(b"{}", 0, 0).encode())
    with pytest.raises(EntryError, match="not sealed as configured"):
        Sealer((generate_master_key(),)).open(KEY, sealed)


def test_a_bomb_is_refused():
    import zlib

    entry = Entry(b"x", 0, 0).encode()
    bomb = bytes((entry[0], 1)) + entry[2:-1] + zlib.compress(b"\0" * (300 * 1024 * 1024), 9)
    with pytest.raises(EntryError, match="does not end"):
        Entry.decode(bomb)


def test_a_selection_takes_what_has_all_its_tags():
    data = Entry(b"{}", 0, 0).encode(b"aaaaaaaabbbbbbbb")
    assert Selection(frozenset({b"aaaaaaaa"})).takes(KEY, data)
    assert not Selection(frozenset({b"aaaaaaaa", b"cccccccc"})).takes(KEY, data)
    assert Selection(prefix=KEY.hex()[:4]).takes(KEY, data)
    assert not Selection(prefix="ff").takes(KEY, data)
