"""Every failure by every chain: how many requests reach the provider, what the client gets, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from proxy.testing import FakeUpstream, Step, chat_answer, chat_events, close, events, garbage, hang, reply, reset

RETRY = {"retry": {"attempts": 3, "backoff": {"initial": "10ms", "max": "20ms"}}}
FALLBACK = {"fallback": {"targets": [{"upstream": "second"}]}}
HEDGE = {"hedge": {"after": "100ms", "max_ratio": 1}}
BREAKER = {"circuit_breaker": {"fail_max": 3}}
CHAINS: dict[str, list[Any]] = {
    "none": [],
    "retry": [RETRY],
    "fallback": [FALLBACK],
    "hedge": [HEDGE],
    "breaker": [BREAKER],
    "all": [RETRY, FALLBACK, HEDGE, BREAKER],
}
HEAD = chat_events()[0]  # the role, no content yet
ERROR = b'data: {"error": {"message": "overloaded", "type": "server_error", "code": "server_error"}}\n\n'


def status(number: int, code: str | None = None, **headers: str) -> Step:
    return reply(
        {"error": {"message": "as scripted", "type": "t", "code": code}},
        status=number,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


# failure: (step, chain -> (requests at the first provider, at the second, status, least seconds))
GOES_ON = {"none": 1, "retry": 3, "fallback": 1, "hedge": 1, "breaker": 1, "all": 3}


def row(answer: int, **requests: int) -> dict[str, tuple[int, int, int]]:
    """Requests at the first provider by chain; those that fall back end with 200 from the second."""
    counts = {**GOES_ON, **requests}
    return {
        name: (count, int(name in ("fallback", "all")), 200 if name in ("fallback", "all") else answer)
        for name, count in counts.items()
    }


def final(answer: int) -> dict[str, tuple[int, int, int]]:
    """One request whatever the chain, and its answer goes to the client."""
    return dict.fromkeys(CHAINS, (1, 0, answer))


FAILURES: dict[str, tuple[Step, dict[str, tuple[int, int, int]]]] = {
    "reset before the head": (reset("before_head"), row(502)),
    "reset in the head": (reset("in_head"), row(502)),
    "reset after the head": (reset("after_head"), row(502)),
    "reset in the body": (reset("in_body"), row(502)),
    # A whole answer that says itself that it has no finish: a failure where somebody judges answers.
    "cut whole answer": (
        reply(chat_answer("Hal", finish=None)),
        {
            "none": (1, 0, 200),
            "retry": (3, 0, 502),
            "fallback": (1, 1, 200),
            "hedge": (1, 0, 502),
            "breaker": (1, 0, 200),
            "all": (3, 1, 200),
        },
    ),
    "close before the head": (close("before_head"), row(502)),
    "close in the head": (close("in_head"), row(502)),
    "close in the body": (close("in_body"), row(502)),
    # each try that hangs is sent twice; with the breaker the third failure opens, so the third try is not sent
    "hang before the head": (hang("before_head"), row(504, hedge=2, all=4)),
    "hang in the head": (hang("in_head"), row(504, hedge=2, all=4)),
    "hang in the body": (hang("in_body"), row(504, hedge=2, all=4)),
    "garbage": (garbage(), row(502)),
    "400": (status(400, "invalid_value"), final(400)),
    "400 context": (status(400, "context_length_exceeded"), row(400, retry=1, all=1)),
    "400 content": (status(400, "content_filter"), final(400)),
    "401": (status(401, "invalid_api_key"), final(401)),
    "404": (status(404), final(404)),
    "408": (status(408), {**final(408), "retry": (3, 0, 408), "all": (3, 0, 408)}),
    "409": (status(409), {**final(409), "retry": (3, 0, 409), "all": (3, 0, 409)}),
    "429": (status(429), row(429)),
    "429 spent": (status(429, "insufficient_quota"), row(429, retry=1, all=1)),
    "429 long wait": (status(429, retry_after="60"), row(429, retry=1, all=1)),
    "500": (status(500), row(500)),
    "503": (status(503), row(503)),
    "529": (status(529, "overloaded_error"), row(529)),
    "200 that is an error": (status(200, "server_error"), row(200)),
    "200 that is no JSON": (
        reply(body=b'{"id": "chatcmpl-1", "choi'),
        {**row(502), "none": (1, 0, 200), "breaker": (1, 0, 200)},
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("failure", FAILURES)
async def test_whole_answers(start: Any, first: FakeUpstream, second: FakeUpstream, failure: str, chain: str) -> None:
    step, expected = FAILURES[failure]
    first.default = step
    proxy = await start(CHAINS[chain], first=first.url, second=second.url)
    answer = await proxy.post()
    await proxy.at_rest()
    assert (len(first.calls), len(second.calls), answer.status) == expected[chain]
    assert not answer.broken
    assert answer.headers.get("x-sidecar-upstream") in ("second" if len(second.calls) else "first", None)
    assert answer.headers["x-sidecar-attempts"] == str(len(first.calls) + len(second.calls))
    # Waits of at most 20 ms, hangs of 300 ms each (hedged or not), and the time of a slow machine.
    hung = expected[chain][0] if failure.startswith("hang") else 0
    assert answer.seconds < 1.0 + 0.4 * hung


@pytest.mark.parametrize("chain", CHAINS)
async def test_refused(start: Any, nobody: str, second: FakeUpstream, chain: str) -> None:
    proxy = await start(CHAINS[chain], first=nobody, second=second.url)
    answer = await proxy.post()
    await proxy.at_rest()
    if chain in ("fallback", "all"):
        assert (answer.status, len(second.calls)) == (200, 1)
    else:
        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        assert ("x-should-retry" in answer.headers) is (chain == "retry")


STREAMS: dict[str, tuple[Step, dict[str, tuple[int, int, int, bool]]]] = {
    # (requests at the first, at the second, status, whole to the end)
    "cut before content": (
        events(HEAD, then="close"),
        {
            "none": (1, 0, 200, False),
            "breaker": (1, 0, 200, False),
            "hedge": (1, 0, 502, False),
            "retry": (3, 0, 502, False),
            "fallback": (1, 1, 200, True),
            "all": (3, 1, 200, True),
        },
    ),
    "reset before content": (
        events(HEAD, then="reset"),
        {"none": (1, 0, 200, False), "retry": (3, 0, 502, False), "fallback": (1, 1, 200, True)},
    ),
    "ends before content": (
        events(HEAD),
        {"retry": (3, 0, 502, False), "fallback": (1, 1, 200, True), "all": (3, 1, 200, True)},
    ),
    "cut after content": (
        events(*chat_events(done=False, finish=None), then="close"),
        dict.fromkeys(CHAINS, (1, 0, 200, False)),
    ),
    "error event before content": (
        events(ERROR),
        {
            "none": (1, 0, 200, False),
            "retry": (3, 0, 200, False),
            "fallback": (1, 1, 200, True),
            "all": (3, 1, 200, True),
        },
    ),
}


@pytest.mark.parametrize(
    ("failure", "chain"), [(failure, chain) for failure, (_, table) in STREAMS.items() for chain in table]
)
async def test_streams(start: Any, first: FakeUpstream, second: FakeUpstream, failure: str, chain: str) -> None:
    step, expected = STREAMS[failure]
    first.default = step
    proxy = await start(CHAINS[chain], first=first.url, second=second.url)
    answer = await proxy.post(
        {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    )
    await proxy.at_rest()
    whole = answer.body.endswith(b"data: [DONE]\n\n") and not answer.broken
    assert (len(first.calls), len(second.calls), answer.status, whole) == expected[chain]
    if answer.status == 200 and not whole:
        assert answer.broken or b'"error"' in answer.body, "a stream that failed must not end in silence"


async def test_a_stream_that_falls_back_shows_nothing_of_the_first(
    start: Any, first: FakeUpstream, second: FakeUpstream
) -> None:
    first.default = events(HEAD.replace(b"chatcmpl-fake", b"chatcmpl-first"), then="close")
    proxy = await start([FALLBACK], first=first.url, second=second.url)
    answer = await proxy.post({"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
    assert answer.body == b"".join(chat_events())


def in_a_second() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        (lambda: {"retry_after": "0"}, 0.0, 0.5),
        (lambda: {"retry_after": "0.2"}, 0.2, 0.7),
        (lambda: {"retry_after_ms": "150"}, 0.15, 0.65),
        (lambda: {"retry_after_ms": "50", "retry_after": "0.3"}, 0.3, 0.8),
        (lambda: {"retry_after": in_a_second()}, 0.0, 1.6),
        (lambda: {"retry_after": "soon"}, 0.0, 0.5),
    ],
)
async def test_retry_after_in_every_form(
    start: Any, first: FakeUpstream, headers: Callable[[], dict[str, str]], least: float, most: float
) -> None:
    first.script(status(429, **headers()))
    proxy = await start([RETRY], first=first.url)
    answer = await proxy.post()
    assert (answer.status, len(first.calls)) == (200, 2)
    assert least <= answer.seconds < most


async def test_one_failure_is_not_seen_by_the_client(start: Any, first: FakeUpstream) -> None:
    proxy = await start([RETRY], first=first.url)
    for step in (reset(), close("in_body"), status(500), status(429), garbage()):
        first.script(step)
        assert (await proxy.post()).status == 200
    await proxy.at_rest()


@pytest.mark.parametrize("chain", [[RETRY, FALLBACK], [FALLBACK, RETRY]])
async def test_retry_comes_before_fallback_however_the_chain_orders_them(
    start: Any, first: FakeUpstream, second: FakeUpstream, chain: list[Any]
) -> None:
    first.default = status(500)
    proxy = await start(chain, first=first.url, second=second.url)
    answer = await proxy.post()
    assert (answer.status, len(first.calls), len(second.calls)) == (200, 3, 1)


async def test_each_fallback_target_starts_anew_and_the_last_error_goes_to_the_client(
    start: Any, first: FakeUpstream, second: FakeUpstream
) -> None:
    first.default = status(500)
    second.default = status(503, "from_the_second")
    proxy = await start([RETRY, FALLBACK], first=first.url, second=second.url)
    answer = await proxy.post()
    await proxy.at_rest()
    assert (len(first.calls), len(second.calls), answer.status, answer.code) == (3, 3, 503, "from_the_second")


async def test_a_retry_by_the_sdk_gets_one_attempt_for_each_target(
    start: Any, first: FakeUpstream, second: FakeUpstream
) -> None:
    first.default = second.default = status(500)
    proxy = await start([RETRY, FALLBACK], first=first.url, second=second.url)
    await proxy.post(headers={"x-stainless-retry-count": "1"})
    assert (len(first.calls), len(second.calls)) == (1, 1)


async def test_the_request_is_rendered_for_each_target(start: Any, first: FakeUpstream, second: FakeUpstream) -> None:
    first.default = status(500)
    fallback = {"fallback": {"targets": [{"upstream": "second", "model": "other-model"}]}}
    proxy = await start([fallback], first=first.url, second=second.url)
    await proxy.post()
    assert (first.calls[0].json["model"], second.calls[0].json["model"]) == ("gpt-4o-mini", "other-model")


async def test_observe_changes_nothing(start: Any, first: FakeUpstream, second: FakeUpstream) -> None:
    first.default = status(500)
    chain = [{name: {**options, "mode": "observe"}} for policy in CHAINS["all"] for name, options in policy.items()]
    proxy = await start(chain, first=first.url, second=second.url)
    for _ in range(5):
        assert (await proxy.post()).status == 500
    await proxy.at_rest()
    assert (len(first.calls), len(second.calls)) == (5, 0)
    assert proxy.breakers.snapshot()[0]["state"] == "open"
