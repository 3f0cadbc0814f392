"""Plain numbers: nothing without a word that names them, everything with one, and no cost where no word is."""

from collections.abc import Callable

import pytest

from proxy.policies.pii.detector import Detector

Finds = Callable[..., list[tuple[str, str]]]

NAMED = [
    ("PHONE", "please call 5551234567 after six", "5551234567"),
    ("PHONE", "my phone_number=5551234567;", "5551234567"),
    ("PHONE", "reach me under 12345678", "12345678"),
    ("PHONE", "12345678 (office)", "12345678"),
    ("PHONE", "3660170548-Fax", "3660170548"),
    ("PHONE", "Please contact Ann at 5551234567", "5551234567"),  # the word is part of another candidate
    ("PHONE", "Ann's phone is 5551234567", "5551234567"),
    ("PHONE", "手机 13812345678", "13812345678"),
    ("PHONE", "Мой тел 9161234567", "9161234567"),
    ("PHONE", "numéro: 612345678", "612345678"),
    ("PHONE", " 5551234567\n", "5551234567"),  # the whole text
    ("PHONE", "name;tel\nann;612378587\nbob;612378588\n", "612378588"),
    ("US_SSN", "his SSN is 219099999", "219099999"),
    ("US_SSN", "social-security 219099999", "219099999"),
    ("US_SSN", "id,ssn\n1,219099999\n2,219099998\n", "219099998"),
]

UNNAMED = [
    "Question 000000123 of 5551234567",
    "order 5551234567, call us if it is late",
    "call it a day; build 20240506, size 12345678 bytes",
    "phone id A12345678 and x12345678y",
    "5551234567 and 5551234568",
    "name;sku\nann;612378587\n",
]


@pytest.mark.parametrize(("kind", "text", "value"), NAMED, ids=[t[:24] for _, t, _ in NAMED])
def test_a_word_names_a_plain_number(finds: Finds, kind: str, text: str, value: str) -> None:
    assert (kind, value) in finds(text)


@pytest.mark.parametrize("text", UNNAMED)
def test_without_a_word_it_stays(finds: Finds, text: str) -> None:
    assert [found for found in finds(text) if found[0] in ("PHONE", "US_SSN")] == []


def test_a_text_full_of_unnamed_numbers_costs_nothing() -> None:
    detector = Detector(["EMAIL", "PHONE", "US_SSN", "CREDIT_CARD", "SECRET"])
    assert detector.scan("Question 000000123. Nothing else is asked. " * 2000) == ([], 0)


def test_each_number_is_looked_at_once_when_words_are_there() -> None:
    detector = Detector(["PHONE"])
    few = detector.scan("call me. " + "Question 000000123. " * 100)[1]
    many = detector.scan("call me. " * 100 + "Question 000000123. " * 100)[1]
    assert many <= few + 500
