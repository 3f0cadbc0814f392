"""Restoring: tolerant of what models do to tokens, and the same however a stream is cut."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policies.pii.vault import Vault


def vault(nonce: str | None = None) -> Vault:
    made = Vault(nonce)
    made.placeholder("EMAIL", "a@x.io")
    made.placeholder("CREDIT_CARD", "4111")
    made.placeholder("PERSON", 'J "Q" Doe\n')
    return made


TOLERATED = [
    "<EMAIL_1>",
    "<email_1>",
    "<Email_1>",
    "EMAIL_1",
    "<EMAIL_1",
    "EMAIL_1>",
    "&lt;EMAIL_1&gt;",
    "\\u003cEMAIL_1\\u003e",
    "\\<EMAIL\\_1\\>",
    "<EMAIL_\n1>",
    "<\nEMAIL_1>",
    "<EMAIL\n_1\n>",
    "EMAIL\\_1",
]


@pytest.mark.parametrize("token", TOLERATED)
def test_tolerated_forms_are_restored(token: str) -> None:
    assert vault().restore(f"to {token}, please") == "to a@x.io, please"


UNTOUCHED = [
    "<EMAIL_2>",
    "email_1",
    "XEMAIL_1",
    "EMAIL_10",
    "EMAIL_1x",
    "<EMAIL_01>",
    "<EMAIL>",
    "<PHONE_1>",
    "EMAIL 1",
    "<EMAIL_1_x7q>",
]


@pytest.mark.parametrize("token", UNTOUCHED)
def test_what_was_not_issued_or_is_ambiguous_stays(token: str) -> None:
    assert vault().restore(f"to {token}, please") == f"to {token}, please"


def test_a_type_of_two_words_survives_a_break() -> None:
    assert vault().restore("<CREDIT_\nCARD_1>") == "4111"


def test_values_are_escaped_inside_json() -> None:
    args = vault().restore('{"n": "<PERSON_1>"}', escape=True)
    assert json.loads(args) == {"n": 'J "Q" Doe\n'}


def test_a_text_without_placeholders_is_the_same_object() -> None:
    text = "plain words < and & more"
    assert vault().restore(text) is text
    plain = "nothing here"
    assert vault().restorer().feed(plain) is plain


BITS = st.sampled_from(
    [
        "<EMAIL_1>",
        "<",
        "EMAIL",
        "_",
        "1",
        ">",
        "&",
        "lt;",
        "gt;",
        "&lt;",
        "\\",
        "u003c",
        "\\u003c",
        "\n",
        " ",
        "x",
        "<CREDIT_CARD_1>",
        "CARD",
        "CREDIT",
        "<PERSON_1>",
        "PERSON_1",
        "E",
        "EM",
        "AIL_1",
        "<email_1",
        "2",
        "\\_",
        "_x7q",
        "\\n",
        "hello ",
        "é",
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(BITS, max_size=16),
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.sampled_from([None, "x7q"]),
    st.booleans(),
)
def test_any_split_restores_to_the_same_text(
    parts: list[str], cuts: list[int], nonce: str | None, escape: bool
) -> None:
    made = vault(nonce)
    text = "".join(parts)
    restorer = made.restorer(escape=escape)
    out, at, i = [], 0, 0
    while at < len(text):
        size = cuts[i % len(cuts)]
        out.append(restorer.feed(text[at : at + size]))
        assert restorer.held <= made.grammar.longest
        at, i = at + size, i + 1
    out.append(restorer.flush())
    assert "".join(out) == made.restore(text, escape=escape)


def test_only_a_possible_beginning_is_held_back() -> None:
    restorer = vault().restorer()
    assert restorer.feed("Dear <EMA") == "Dear "
    assert restorer.held == 4
    assert restorer.feed("IL_9> and") == "<EMAIL_9> and"
    assert restorer.feed(" a < b") == " a < b"
    assert restorer.held == 0


def test_a_tail_that_stays_open_leaves_at_the_end() -> None:
    restorer = vault().restorer()
    assert restorer.feed("see <EMAIL_1") == "see "
    assert restorer.flush() == "a@x.io"
    assert restorer.flush() == ""
