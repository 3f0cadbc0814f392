"""Names that hold for one process."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from proxy import quick_hash as module
from proxy.quick_hash import SIZE, quick_hash


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_equal_bytes_have_equal_names_and_others_have_others(one, other):
    assert len(quick_hash(one)) == SIZE
    assert quick_hash(one) == quick_hash(bytes(bytearray(one)))
    assert (quick_hash(one) == quick_hash(other)) is (one == other)


@given(st.binary(max_size=200), st.integers(0))
def test_one_bit_changes_both_halves(data, bit):
    turned = bytearray(data + b"x")
    bit %= 8 * len(turned)
    turned[bit // 8] ^= 1 << bit % 8
    before, after = quick_hash(data + b"x"), quick_hash(bytes(turned))
    assert before[:8] != after[:8]
    assert before[8:] != after[8:]


def test_another_process_has_other_names_even_with_the_same_hash_seed():
    program = "from proxy.quick_hash import quick_hash; print(quick_hash(b'a question').hex())"
    said = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": "7"}, capture_output=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(said) == 2


def test_an_interpreter_with_a_weaker_hash_makes_a_digest():
    assert len(module._digest(b"a")) == SIZE
    assert module._digest(b"a") != module._digest(b"b")
