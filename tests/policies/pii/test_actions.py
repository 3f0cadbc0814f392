"""Actions other than masking, and stand-ins."""

import pytest

from proxy.policies.pii.actions import Actions
from proxy.policies.pii.detector import Detector
from proxy.policies.pii.vault import Vault

KEY = b"k" * 32
VALUES = {
    "EMAIL": "ann.lee@acme.io",
    "PHONE": "(415) 555-2671",
    "CREDIT_CARD": "4111 1111 1111 1111",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "IP_ADDRESS": "81.2.69.142",
    "MAC_ADDRESS": "3c:22:fb:4a:90:1e",
}


def apply(action: str, text: str, key: bytes = KEY) -> str:
    found = Detector(list(VALUES)).detect(text)
    return Actions(action, {}, key).apply(text, found, Vault())  # type: ignore[arg-type]


def test_redact_leaves_the_type() -> None:
    assert apply("redact", "to ann@x.io!") == "to [EMAIL]!"


def test_hash_is_keyed_and_stable() -> None:
    one = apply("hash", "ann@x.io")
    assert one == apply("hash", "ann@x.io") != apply("hash", "ann@x.io", b"other")
    assert "ann" not in one


def test_flag_and_block_change_nothing() -> None:
    text = "to ann@x.io!"
    assert apply("flag", text) is text
    assert apply("block", text) is text


def test_each_type_may_have_its_own_action() -> None:
    actions = Actions("mask", {"PHONE": "redact"}, KEY)
    text = "ann@x.io (415) 555-2671"
    assert actions.apply(text, Detector(["EMAIL", "PHONE"]).detect(text), Vault()) == "<EMAIL_1> [PHONE]"


@pytest.mark.parametrize("kind", VALUES)
def test_a_stand_in_is_of_the_same_kind_and_another_value(kind: str) -> None:
    value = VALUES[kind]
    made = apply("fake", value)
    assert made != value
    assert [f.type for f in Detector([kind]).detect(made)] == [kind]
    assert apply("fake", value) == made
