"""Every form of Retry-After, and what must not be taken for one."""

import pytest

from proxy.upstream.retry_after import parse, parse_date, parse_duration

NOW = 1_795_246_080.0  # Sat, 21 Nov 2026 07:28:00 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"Retry-After", b"30")], 30),
        ([(b"retry-after", b" 0 ")], 0),
        ([(b"retry-after", b"1.5")], 1.5),
        ([(b"retry-after", b".5")], 0.5),
        ([(b"retry-after", b"1m30s")], 90),
        ([(b"retry-after", b"20ms")], 0.02),
        ([(b"Retry-After-Ms", b"1500")], 1.5),
        ([(b"retry-after-ms", b"250.5")], 0.2505),
        ([(b"retry-after", b"Sat, 21 Nov 2026 07:28:30 GMT")], 30),
        ([(b"retry-after", b"Saturday, 21-Nov-26 07:28:30 GMT")], 30),
        ([(b"retry-after", b"Sat Nov 21 07:28:30 2026")], 30),
        ([(b"retry-after", b"2026-11-21T07:28:30Z")], 30),
        ([(b"retry-after", b"Sat, 21 Nov 2026 07:00:00 GMT")], 0),
        ([(b"retry-after", b"99999999999")], 7 * 86400),
    ],
)
def test_forms(headers, seconds):
    assert parse([(b"content-type", b"text/plain"), *headers], NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [b"", b"-5", b"soon", b"nan", b"inf", b"1e9", b"\xff\xfe", b"5 seconds", b"m5", b"1.2.3"]
)
def test_what_cannot_be_read_counts_as_absent(value):
    assert parse([(b"retry-after", value), (b"retry-after-ms", value)], NOW) is None


def test_the_later_deadline_wins():
    assert parse([(b"retry-after-ms", b"1500"), (b"retry-after", b"3")], NOW) == 3
    assert parse([(b"retry-after-ms", b"4500"), (b"retry-after", b"3")], NOW) == 4.5
    assert parse([(b"retry-after", b"3"), (b"retry-after", b"9")], NOW) == 9
    assert parse([(b"retry-after", b"Sat, 21 Nov 2026 07:28:30 GMT"), (b"retry-after-ms", b"40000")], NOW) == 40


def test_a_date_is_taken_against_the_providers_own_clock():
    headers = [(b"date", b"Sat, 21 Nov 2026 06:28:00 GMT"), (b"retry-after", b"Sat, 21 Nov 2026 06:28:20 GMT")]
    assert parse(headers, NOW) == 20


def test_an_answer_that_does_not_say():
    assert parse([(b"content-type", b"application/json")]) is None


def test_parts():
    assert parse_duration(b"6m0s") == 360
    assert parse_duration(b"1h30m") == 5400
    assert parse_date(b"Sat, 21 Nov 2026 07:28:00 GMT") == NOW
    assert parse_date(b"yesterday or so") is None
