"""How entries lie in Redis: whatever is changed in one is found out."""

from __future__ import annotations

import pytest

from proxy.policies.cache.entry import Entry, EntryError, tags_of
from proxy.policies.cache.seal import Sealer

KEY = b"\x01" * 16
ENTRY = Entry(b'{"a": 1}', 1.0, 60.0, (1, 2)).encode(b"tag no 1tag no 2")
SEALERS = {"plain": Sealer(), "encrypted": Sealer(["a master key"])}


@pytest.fixture(params=SEALERS)
def sealer(request):
    return SEALERS[request.param]


def test_what_was_sealed_is_opened_again_and_its_tags_can_be_read_before(sealer):
    sealed = sealer.seal(KEY, ENTRY)
    assert sealer.open(KEY, sealed) == ENTRY
    assert tags_of(sealed) == {b"tag no 1", b"tag no 2"}


def test_every_flipped_bit_is_found_out_in_the_tags_too(sealer):
    sealed = sealer.seal(KEY, ENTRY)
    for place in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[place] ^= 1 << bit
            with pytest.raises(EntryError):
                sealer.open(KEY, bytes(flipped))


def test_an_entry_under_another_name_is_found_out(sealer):
    with pytest.raises(EntryError):
        sealer.open(b"\x02" * 16, sealer.seal(KEY, ENTRY))


def test_every_cut_is_found_out(sealer):
    sealed = sealer.seal(KEY, ENTRY)
    for end in range(len(sealed)):
        with pytest.raises(EntryError):
            sealer.open(KEY, sealed[:end])


def test_each_of_several_keys_opens_what_it_sealed_and_the_first_one_seals():
    old, new = Sealer(["old"]), Sealer(["new", "old"])
    assert new.open(KEY, old.seal(KEY, ENTRY)) == ENTRY
    with pytest.raises(EntryError, match="not known"):
        old.open(KEY, new.seal(KEY, ENTRY))


def test_with_a_key_set_an_entry_that_is_not_encrypted_is_not_believed():
    with pytest.raises(EntryError, match="not sealed as configured"):
        SEALERS["encrypted"].open(KEY, SEALERS["plain"].seal(KEY, ENTRY))
