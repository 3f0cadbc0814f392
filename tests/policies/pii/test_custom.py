"""Custom entities."""

import pytest

from proxy.policies.pii.allow import Allow
from proxy.policies.pii.custom import CustomEntity, validator
from proxy.policies.pii.detector import Detector


def found(entity: CustomEntity, text: str, context: str | None = None) -> list[str]:
    return [text[f.start : f.end] for f in Detector([entity.type], custom=[entity]).detect(text, context)]


def test_a_pattern_finds() -> None:
    assert found(CustomEntity("EMPLOYEE_ID", r"\bE-\d{4}\b"), "ask E-1234") == ["E-1234"]


def test_the_first_group_is_the_value() -> None:
    assert found(CustomEntity("BADGE", r"badge (\d+)"), "badge 77 and 88") == ["77"]


def test_context_words_must_stand_near() -> None:
    entity = CustomEntity("ROOM", r"\d{3}", ("room",))
    assert found(entity, "room 123") == ["123"]
    assert found(entity, "page 123") == []
    assert found(entity, "123", "room_number") == ["123"]


def test_a_validator_decides() -> None:
    entity = CustomEntity("TAX_NO", r"\b\d{11}\b", validator="de.idnr")
    assert found(entity, "36574261809") == ["36574261809"]
    assert found(entity, "36574261890") == []


def test_offsets_are_code_points() -> None:
    assert found(CustomEntity("TAG", r"ß\d"), "ééé ß7") == ["ß7"]


def test_examples_are_verified() -> None:
    good = CustomEntity("TAG", r"T\d", examples=("a T1",), counter_examples=("none",))
    assert good.problems() == []
    bad = CustomEntity("TAG", r"T\d", examples=("a X1",), counter_examples=("T2",))
    assert len(bad.problems()) == 2


@pytest.mark.parametrize(
    ("entity", "said"),
    [
        (CustomEntity("TAG", "("), "does not compile"),
        (CustomEntity("TAG", "x*"), "matches the empty text"),
        (CustomEntity("TAG", "x", validator="nope"), "unknown validator"),
        (CustomEntity("tag", "x"), "upper-case"),
    ],
)
def test_what_is_wrong_is_said(entity: CustomEntity, said: str) -> None:
    assert said in entity.problems()[0]


@pytest.mark.parametrize("made", [lambda: CustomEntity("TAG", "(").problems(), lambda: Allow(["/(/"])])
def test_a_bad_pattern_is_said_once_and_in_words(made, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        said = str(made())
    except ValueError as error:
        said = str(error)
    assert "does not compile: missing ): (" in said
    assert "b'" not in said
    assert capfd.readouterr() == ("", "")  # RE2 writes its own lines unless it is told not to


def test_luhn_and_mod97_are_validators() -> None:
    assert validator("luhn")("4111-1111") is False
    assert validator("luhn")("4111 1111 1111 1111")
    assert validator("mod97")("DE89 3704 0044 0532 0130 00")
