"""Placeholders: numbering, look-alikes, and that masking can always be undone."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.policies.pii.actions import Actions
from proxy.policies.pii.detector import Detector
from proxy.policies.pii.found import BARE, Found
from proxy.policies.pii.vault import Vault, new_nonce

TYPES = frozenset({"EMAIL", "CREDIT_CARD", "PHONE"})
ACTIONS = Actions("mask")


def test_same_value_same_placeholder_numbers_by_appearance() -> None:
    vault = Vault()
    assert [vault.placeholder("EMAIL", v) for v in ("a@x.io", "b@x.io", "a@x.io")] == [
        "<EMAIL_1>",
        "<EMAIL_2>",
        "<EMAIL_1>",
    ]
    assert vault.placeholder("PHONE", "1") == "<PHONE_1>"


def test_numbers_of_look_alikes_are_skipped() -> None:
    vault = Vault()
    for text in ("see <EMAIL_1>", "&lt;email_2&gt;", "EMAIL_3 = x", "\\u003cEMAIL\\_5\\u003e", "<EMAIL_\n6>"):
        vault.reserve(text, [], TYPES)
    assert [vault.placeholder("EMAIL", str(i)) for i in range(3)] == ["<EMAIL_4>", "<EMAIL_7>", "<EMAIL_8>"]


def test_a_look_alike_that_only_masking_makes_is_skipped() -> None:
    vault = Vault()
    text = "<EMAIL_14111"
    vault.reserve(text, [Found(8, 12, "PHONE", BARE)], TYPES)
    assert vault.placeholder("EMAIL", "a@x.io") == "<EMAIL_2>"


def test_a_nonce_keeps_older_placeholders_apart() -> None:
    vault = Vault("x7q")
    token = vault.placeholder("EMAIL", "a@x.io")
    assert token == "<EMAIL_1_x7q>"
    assert vault.restore(f"{token} <EMAIL_1> <EMAIL_1_abc>") == "a@x.io <EMAIL_1> <EMAIL_1_abc>"
    assert len(new_nonce()) == 3


def test_two_vaults_never_share() -> None:
    one, two = Vault(), Vault()
    one.placeholder("EMAIL", "a@x.io")
    two.placeholder("EMAIL", "b@x.io")
    assert (one.restore("<EMAIL_1>"), two.restore("<EMAIL_1>")) == ("a@x.io", "b@x.io")


def test_a_sibling_never_means_the_same_number() -> None:
    vault = Vault()
    vault.placeholder("EMAIL", "a@x.io")
    assert vault.sibling().placeholder("EMAIL", "leak@x.io") == "<EMAIL_2>"


def test_a_vault_shows_no_values() -> None:
    vault = Vault()
    vault.placeholder("EMAIL", "a@x.io")
    assert repr(vault) == "<Vault of 1 values>"


BITS = st.sampled_from(
    [
        "ann@x.io",
        "bob@y.io",
        "<EMAIL_1>",
        "EMAIL_1",
        "<EMAIL_2",
        "EMAIL",
        "_",
        "1",
        "2",
        "<",
        ">",
        "&lt;",
        "&gt;",
        "\\",
        "\n",
        " ",
        "\\u003c",
        "\\_",
        "_1",
        "<email_1>",
        "4111 1111 1111 1111",
        "CREDIT_",
        "CARD_1",
        "<CREDIT_CARD_",
        "+49 30 901820",
        "x",
        "é",
        "3_x7q",
        "PHONE_1>",
        "\\n",
    ]
)
DETECTOR = Detector(TYPES)


@settings(max_examples=400, deadline=None)
@example(["<EMAIL_1", "\n", "ann@x.io"], None)
@given(st.lists(BITS, max_size=14), st.sampled_from([None, "x7q"]))
def test_masking_and_restoring_is_the_identity(parts: list[str], nonce: str | None) -> None:
    text = "".join(parts)
    vault = Vault(nonce)
    found = DETECTOR.detect(text)
    vault.reserve(text, found, TYPES)
    masked = ACTIONS.apply(text, found, vault)
    assert vault.restore(masked) == text
    for one in found:
        assert text[one.start : one.end] in vault._originals.values()
