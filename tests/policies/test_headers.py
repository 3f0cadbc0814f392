"""``headers`` through the policy interface."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from proxy.exchange import Answer, Exchange
from proxy.policies.headers import Headers
from proxy.testing import called, exchange_builder, policy_builder


def calling(headers: dict[str, str]) -> Exchange:
    return exchange_builder(headers=headers, dialect=None)


def answering(*headers: tuple[bytes, bytes]) -> Answer:
    return Answer(200, list(headers), origin="upstream", raw=b"")


async def test_a_header_is_set_in_place_of_the_clients() -> None:
    exchange = calling({"X-Team": "mine"})
    await called(policy_builder(Headers, {"set": {"X-Team": "theirs", "x-new": " 1 "}}).on_request(exchange))
    assert exchange.request.header("x-team") == "theirs"
    assert exchange.request.header("x-new") == "1"


async def test_headers_are_removed_by_name_and_pattern() -> None:
    exchange = calling({"X-Internal-A": "1", "x-internal-b": "2", "Cookie": "3", "x-kept": "4"})
    await called(policy_builder(Headers, {"remove": ["X-Internal-*", "cookie", "x-absent"]}).on_request(exchange))
    assert exchange.request.edits == {"x-internal-a": None, "x-internal-b": None, "cookie": None}
    assert exchange.request.header("x-kept") == "4"


async def test_a_pattern_never_takes_what_frames_the_call() -> None:
    exchange = calling({"x-a": "1"})
    await called(policy_builder(Headers, {"remove": "*"}).on_request(exchange))
    assert exchange.request.edits is not None
    assert {"host", "content-length"}.isdisjoint(exchange.request.edits)
    assert exchange.request.edits["x-a"] is None


async def test_what_is_removed_may_be_set_anew() -> None:
    exchange = calling({"x-a": "1", "x-b": "2"})
    await called(policy_builder(Headers, {"remove": ["x-*"], "set": {"x-a": "new"}}).on_request(exchange))
    assert exchange.request.edits == {"x-a": "new", "x-b": None}


async def test_nothing_to_do_edits_nothing() -> None:
    exchange = calling({"x-a": "1"})
    await called(policy_builder(Headers, {"remove": ["x-b"]}).on_request(exchange))
    assert exchange.request.edits is None


RESPONSE = {"response": {"set": {"Cache-Control": "no-store"}, "remove": ["server", "x-debug-*"]}}
SENT = ((b"Server", b"s"), (b"X-Debug-1", b"1"), (b"cache-control", b"public"), (b"cache-control", b"x"), (b"a", b"b"))


async def test_headers_of_a_whole_answer_are_edited() -> None:
    answer = answering(*SENT)
    assert await called(policy_builder(Headers, RESPONSE).on_response(calling({}), answer)) is None
    assert answer.headers == [(b"a", b"b"), (b"cache-control", b"no-store")]


async def test_headers_of_a_streamed_answer_are_edited_and_its_events_left_alone() -> None:
    answer = answering(*SENT)
    assert policy_builder(Headers, RESPONSE).open_stream(calling({}), answer) is None
    assert answer.headers == [(b"a", b"b"), (b"cache-control", b"no-store")]


async def test_observe_says_names_and_changes_nothing() -> None:
    exchange, answer = calling({"cookie": "secret"}), answering(*SENT)
    policy = policy_builder(Headers, {"remove": "cookie", "set": {"x-key": "sk-1"}, **RESPONSE}, observe=True)
    await called(policy.on_request(exchange))
    await called(policy.on_response(exchange, answer))
    assert exchange.request.edits is None
    assert answer.headers == list(SENT)
    assert [text for _, text in exchange.notes] == [
        "would remove cookie",
        "would set x-key",
        "would edit the headers of the answer",
    ]


async def test_explain_names_headers_without_their_values() -> None:
    told: list[tuple[str, str]] = []
    exchange = calling({"cookie": "secret"})
    exchange.explain = lambda policy, text: told.append((policy, text))
    await called(policy_builder(Headers, {"remove": "cookie", "set": {"x-key": "sk-1"}}).on_request(exchange))
    assert told == [("headers", "removes cookie"), ("headers", "sets x-key")]


@pytest.mark.parametrize(
    "options",
    [
        {"set": {"bad name": "x"}},
        {"set": {"x*": "x"}},
        {"set": {"x": "a\r\nevil: 1"}},
        {"set": {"x": "ключ"}},
        {"set": {"Content-Length": "1"}},
        {"set": {"host": "x"}},
        {"remove": ["transfer-encoding"]},
        {"remove": ["a b"]},
        {"response": {"set": {"content-encoding": "gzip"}}},
        {"add": {}},
    ],
)
def test_what_would_break_the_call_is_refused_at_load(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy_builder(Headers, options)
