"""Masking leaks in streams: nothing shows however the stream is cut, and the hold-back is bounded."""

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policies.pii.detector import Detector
from proxy.policies.pii.found import Found
from proxy.policies.pii.stream_masker import HOLD, HOLD_MOST, StreamMasker

DETECTOR = Detector(["EMAIL", "CREDIT_CARD", "PRIVATE_KEY", "SECRET", "PHONE"])
VALUES = ["ann@x.io", "4111 1111 1111 1111", "ghp_0odVmMKQ5NAKIVEp6lfFrE7nHqyb1dqq8Jdn", "+49 30 901820"]


def redact(text: str, found: list[Found]) -> str:
    for one in reversed(found):
        text = f"{text[: one.start]}[{one.type}]{text[one.end :]}"
    return text


def run(text: str, sizes: list[int]) -> str:
    masker = StreamMasker(DETECTOR, redact)
    out, at, i = [], 0, 0
    while at < len(text):
        size = sizes[i % len(sizes)]
        out.append(masker.feed(text[at : at + size]))
        assert masker.held <= HOLD_MOST + size
        at, i = at + size, i + 1
    out.append(masker.flush())
    return "".join(out)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from(VALUES), st.sampled_from(["some words", "and then", "it went on\n"])), max_size=20
    ),
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
)
def test_no_value_shows_however_the_stream_is_cut(parts: list[str], sizes: list[int]) -> None:
    text = " and ".join(parts)
    out = run(text, sizes)
    assert all(value not in out for value in VALUES)
    assert out == redact(text, DETECTOR.detect(text))


def test_plain_text_leaves_but_for_the_hold() -> None:
    masker = StreamMasker(DETECTOR, redact)
    text = "word " * 40
    assert len(masker.feed(text)) >= len(text) - HOLD - 5


def test_a_private_key_is_dropped_to_its_end() -> None:
    key = (
        "-----BEGIN RSA PRIVATE KEY-----\n"
        + ("MIIEvQIBADANBgkqhkiG9w0BAQ" * 3 + "\n") * 40
        + "-----END RSA PRIVATE KEY-----"
    )
    out = run(f"here: {key} and more words that follow", [7])
    assert "MIIE" not in out
    assert out.endswith("and more words that follow")
    assert out.startswith("here: [PRIVATE_KEY]")
