"""Allow lists."""

import pytest

from proxy.policies.pii.allow import Allow, is_documentation
from proxy.policies.pii.detector import Detector


def test_a_value_is_allowed_without_regard_to_case() -> None:
    detector = Detector(["EMAIL"], Allow(["Info@Acme.io"]))
    text = "info@acme.io bob@acme.io"
    assert [text[f.start : f.end] for f in detector.detect(text)] == ["bob@acme.io"]


def test_a_pattern_must_match_the_whole_value() -> None:
    allow = Allow([r"/.*@acme\.io/"])
    assert allow("EMAIL", "bob@acme.io")
    assert not allow("EMAIL", "bob@acme.io.evil.com")


@pytest.mark.parametrize(
    ("kind", "value"),
    [("IP_ADDRESS", "203.0.113.9"), ("IP_ADDRESS", "2001:db8::1"), ("EMAIL", "a@example.com"),
     ("PHONE", "+1 212-555-0123"), ("CREDIT_CARD", "4242 4242 4242 4242")],
)  # fmt: skip
def test_documentation_stands_for_the_reserved_ranges(kind: str, value: str) -> None:
    assert Allow(["documentation"])(kind, value)
    assert not Allow(["other"])(kind, value)


@pytest.mark.parametrize(
    ("kind", "value"), [("IP_ADDRESS", "81.2.69.142"), ("EMAIL", "a@acme.io"), ("PHONE", "+49 30 1")]
)
def test_real_values_are_no_documentation(kind: str, value: str) -> None:
    assert not is_documentation(kind, value)


def test_a_bad_pattern_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(unclosed"):
        Allow(["/(unclosed/"])
