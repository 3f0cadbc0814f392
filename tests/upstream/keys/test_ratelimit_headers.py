"""What providers say about limits, in each of their ways to write it."""

import pytest

from proxy.upstream.keys.ratelimit_headers import NOWHERE, Room, parse, plenty, remainders

NOW = 1_795_246_080.0  # Sat, 21 Nov 2026 07:28:00 GMT


def test_openai():
    headers = [
        (b"x-ratelimit-limit-requests", b"60"),
        (b"X-RateLimit-Remaining-Requests", b"59"),
        (b"x-ratelimit-reset-requests", b"1s"),
        (b"x-ratelimit-limit-tokens", b"150000"),
        (b"x-ratelimit-remaining-tokens", b"149984"),
        (b"x-ratelimit-reset-tokens", b"6m0s"),
    ]
    assert parse(headers, NOW) == (Room(60, 59, 1.0), Room(150000, 149984, 360.0))


def test_anthropic():
    headers = [
        (b"anthropic-ratelimit-requests-limit", b"50"),
        (b"anthropic-ratelimit-requests-remaining", b"0"),
        (b"anthropic-ratelimit-requests-reset", b"2026-11-21T07:28:30Z"),
        (b"anthropic-ratelimit-tokens-remaining", b"12000"),
        (b"anthropic-ratelimit-input-tokens-remaining", b"7"),
    ]
    assert parse(headers, NOW) == (Room(50, 0, 30.0), Room(None, 12000, None))


def test_a_plain_pair_is_about_requests_and_large_resets_are_moments():
    headers = [(b"x-ratelimit-remaining", b"-2"), (b"x-ratelimit-reset", str(int(NOW) + 12).encode())]
    assert parse(headers, NOW) == (Room(None, 0, 12.0), Room(None, None, None))


@pytest.mark.parametrize("value", [b"", b"many", b"1e3", b"\xff", b"99999999999999999999"])
def test_what_is_no_number_is_not_said(value):
    assert parse([(b"x-ratelimit-remaining-requests", value)], NOW) == (Room(None, None, None), Room(None, None, None))


def test_an_answer_that_says_nothing():
    assert parse([(b"strict-transport-security", b"max-age=1"), (b"date", b"x")]) is None
    assert remainders([(b"strict-transport-security", b"max-age=1"), (b"date", b"x")]) == NOWHERE


def test_low_remainders_are_not_plenty_nor_are_those_that_moved():
    much = [(b"x-ratelimit-remaining-tokens", b"149984")]
    assert plenty(much, remainders(much))
    scarce = [*much, (b"X-RateLimit-Remaining-Requests", b"0")]
    assert not plenty(scarce, remainders(scarce))
    assert not plenty(much, remainders(scarce))
    assert not plenty(scarce[::-1], remainders([*much, (b"date", b"x")]))
    assert not plenty(much, NOWHERE)


def test_remainders_are_found_wherever_they_stand_now():
    date, one, two = (b"date", b"x"), (b"x-ratelimit-remaining-requests", b"5"), (b"x-ratelimit-remaining", b"7")
    first = remainders([date, one])
    assert first == (2, ((1, one[0]),))
    assert remainders([date, one], first) is first
    assert remainders([one, date], first) == (2, ((0, one[0]),))
    assert remainders([date, date, one], first) == (3, ((2, one[0]),))
    assert remainders([date, two], first) == (2, ((1, two[0]),))
    assert remainders([date, date], first) == NOWHERE
    assert remainders([two, one], NOWHERE) == (2, ((0, two[0]), (1, one[0])))
