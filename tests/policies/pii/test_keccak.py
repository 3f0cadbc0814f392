"""Keccak-256 against published hashes, and EIP-55 against the examples of its text."""

import pytest

from proxy.policies.pii.recognizers.crypto import eip_55
from proxy.policies.pii.recognizers.keccak import keccak_256

HASHES = {
    b"": "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470",
    b"abc": "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45",
}
ADDRESSES = [
    b"52908400098527886E0F7030069857D2E4169EE7",
    b"de709f2102306220921060314715629080e2fb77",
    b"5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    b"fB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    b"dbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    b"D1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
]


@pytest.mark.parametrize("message", HASHES)
def test_hashes(message: bytes) -> None:
    assert keccak_256(message).hex() == HASHES[message]


def test_one_block_and_no_more() -> None:
    assert len(keccak_256(b"a" * 135)) == 32
    with pytest.raises(ValueError, match="one block"):
        keccak_256(b"a" * 136)


@pytest.mark.parametrize("digits", ADDRESSES)
def test_the_case_of_an_address(digits: bytes) -> None:
    assert eip_55(digits)
    wrong = bytes(
        c ^ 0x20 if c > 0x40 and i == next(j for j, d in enumerate(digits) if d > 0x40) else c
        for i, c in enumerate(digits)
    )
    assert not eip_55(wrong)
