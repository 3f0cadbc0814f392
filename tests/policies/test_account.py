"""``account``: one row a call, written before the last piece leaves."""

from __future__ import annotations

import pytest

from proxy.accounting.books import Books
from proxy.accounting.segments import read_lines
from proxy.accounting.ticket import TICKET
from proxy.accounting.usage import Usage
from proxy.config.model import Config
from proxy.exchange import Answer, Attempt, Principal, Target
from proxy.policies.account import Account
from proxy.policy import called
from proxy.testing import FakeClock, exchange_builder, policy_builder, services_builder

CLOCK = 1_795_262_400.0


class Key:
    id = "key-1"

    def reveal(self) -> str:
        return "secret"


@pytest.fixture
def books(tmp_path):
    return Books(Config(data=tmp_path))


@pytest.fixture
async def account(books):
    services = services_builder(FakeClock(now=CLOCK))
    services.offer("accounting", lambda _: books)
    policy = policy_builder(Account, services=services)
    await policy.start()
    yield policy
    await policy.stop()


def attempt_of(exchange, *, number=1, usage=None, outcome="answered", model=None, **fields):
    attempt = Attempt(number, 1, Target("openai", model), "openai", 1_000.0)
    attempt.key = Key()
    attempt.sent = True
    attempt.usage = usage
    attempt.outcome = outcome
    for name, value in fields.items():
        setattr(attempt, name, value)
    exchange.attempts.append(attempt)
    return attempt


def answered(exchange, attempt, outcome="answered"):
    exchange.served_by = attempt
    exchange.usage = attempt.usage
    exchange.answer = Answer(200, [], origin="upstream")
    exchange.outcome = outcome
    return exchange


def records(books):
    directory = books.store.journal.directory
    files = (directory.file(number) for number in directory.segments())
    return [line for file in files for line in read_lines(file.read_bytes(), str(file))]


async def test_a_call_becomes_a_begin_and_an_end_with_all_its_dimensions(account, books):
    exchange = exchange_builder(
        principal=Principal("alice"), project="red", tags={"task": "mail", "env": "prod"}, id="req-1"
    )
    exchange.route_name = "main"
    await called(account.on_request(exchange))
    attempt = attempt_of(exchange, usage=Usage(input=1000, output=500), outcome=None)
    exchange.before_send(exchange, attempt)
    attempt.outcome = "answered"
    answered(exchange, attempt)
    await called(account.on_settle(exchange))
    begin, end = records(books)
    who = "alice\tred\tenv=prod,task=mail\tmail\tmain\tgpt-4o-mini\tgpt-4o-mini\topenai\tkey-1"
    assert begin[0] == "b"
    assert begin[3:5] == ["req-1", who]
    assert begin[5] > 0
    assert end[0] == "e"
    assert end[1] == begin[1]
    assert end[3:5] == ["req-1", who]
    assert end[11] == 1000 * 150 + 500 * 600
    assert end[14] == [1000, 500]
    assert exchange.cost_nanos == 450_000


@pytest.mark.parametrize("begins", [True, False])
async def test_the_row_names_the_key_also_if_the_price_was_asked_for_before_it_was_chosen(account, books, begins):
    exchange = exchange_builder(id="req-1")
    await called(account.on_request(exchange))
    attempt = attempt_of(exchange, usage=Usage(input=10, output=5), outcome=None)
    key, attempt.key = attempt.key, None
    books.tariff.bill(exchange, attempt)
    attempt.key = key
    if begins:
        exchange.before_send(exchange, attempt)
    attempt.outcome = "answered"
    answered(exchange, attempt)
    await called(account.on_settle(exchange))
    assert {line[4].rpartition("\t")[2] for line in records(books)} == {"key-1"}


async def test_an_attempt_at_another_target_is_begun_anew(account, books):
    exchange = exchange_builder(id="req-1")
    await called(account.on_request(exchange))
    first = attempt_of(exchange, outcome=None)
    second = attempt_of(exchange, number=2, outcome=None, model="gpt-4o")
    for attempt in (first, first, second):
        exchange.before_send(exchange, attempt)
    begun = records(books)
    assert [line[4].split("\t")[6] for line in begun] == ["gpt-4o-mini", "gpt-4o"]
    assert begun[0][1] == begun[1][1]


async def test_callers_of_one_model_and_key_are_told_apart(account, books):
    callers = [("alice", "red", {}), ("bob", "red", {}), ("alice", None, {}), ("alice", "red", {"task": "mail"})]
    for principal, project, tags in callers * 2:
        exchange = exchange_builder(principal=Principal(principal), project=project, tags=tags)
        await called(account.on_request(exchange))
        attempt = attempt_of(exchange, usage=Usage(input=10, output=5))
        exchange.before_send(exchange, attempt)
        answered(exchange, attempt)
        await called(account.on_settle(exchange))
    whos = [tuple(line[4].split("\t")[:4]) for line in records(books) if line[0] == "e"]
    expected = [
        (who, to or "", ",".join(f"{n}={v}" for n, v in t.items()), t.get("task", "")) for who, to, t in callers
    ]
    assert whos == expected * 2


async def test_the_end_stands_in_the_file_when_settled(account, books):
    exchange = exchange_builder()
    await called(account.on_request(exchange))
    answered(exchange, attempt_of(exchange, usage=Usage(input=1)))
    await called(account.on_settle(exchange))
    assert [record[0] for record in records(books)] == ["e"]


async def test_the_cost_is_a_header_of_a_whole_answer(account):
    exchange = exchange_builder()
    await called(account.on_request(exchange))
    answered(exchange, attempt_of(exchange, usage=Usage(input=1000, output=500)))
    await called(account.on_response(exchange, exchange.answer))
    assert exchange.added_headers == [(b"x-sidecar-cost-usd", b"0.00045")]


async def test_an_unpriced_call_has_no_cost_header_and_a_flag(account, books):
    exchange = exchange_builder({"model": "mine", "messages": []})
    await called(account.on_request(exchange))
    answered(exchange, attempt_of(exchange, usage=Usage(input=10, output=5)))
    await called(account.on_response(exchange, exchange.answer))
    await called(account.on_settle(exchange))
    assert exchange.added_headers == []
    assert records(books)[0][7] == 4
    assert (exchange.unpriced, exchange.cost_nanos) == (True, None)  # in no log line as if it had cost nothing


async def test_a_call_for_no_model_is_not_missing_a_price(account, books):
    exchange = exchange_builder(None, dialect="generic", method="GET", path="/v1/files")
    await called(account.on_request(exchange))
    answered(exchange, attempt_of(exchange))
    await called(account.on_settle(exchange))
    assert records(books)[0][7] & 4 == 0
    assert not exchange.unpriced


async def test_retries_and_fallbacks_are_accounted_to_their_own_key_and_model(account, books):
    exchange = exchange_builder()
    await called(account.on_request(exchange))
    attempt_of(exchange, outcome="failed", failure="server_error", status=500)
    attempt_of(exchange, number=2, outcome="stalled", failure="stalled", received_bytes=400)
    answered(exchange, attempt_of(exchange, number=3, usage=Usage(input=10, output=5), model="gpt-4o"))
    await called(account.on_settle(exchange))
    [end] = records(books)
    assert end[10] == 3
    assert end[11] == 10 * 2_500 + 5 * 10_000
    [[who, flags, cost, _, usage]] = end[15]
    assert "gpt-4o-mini" in who
    assert flags == 2
    assert usage[1] == 100
    assert cost == usage[0] * 150 + 100 * 600


async def test_a_client_that_leaves_is_charged_what_was_streamed_so_far(account, books):
    exchange = exchange_builder()
    await called(account.on_request(exchange))
    exchange.served_by = attempt_of(exchange, outcome="cancelled", received_bytes=800)
    exchange.outcome = "cancelled"
    await called(account.on_settle(exchange))
    [end] = records(books)
    assert end[5] == 2
    assert end[7] == 2
    assert end[14][1] == 200


async def test_a_hit_costs_nothing_and_saves(account, books):
    exchange = exchange_builder()
    await called(account.on_request(exchange))
    exchange.cache_status = "hit"
    exchange.usage = Usage(input=1000, output=500)
    exchange.answer = Answer(200, [], origin="cache")
    exchange.outcome = "answered"
    await called(account.on_response(exchange, exchange.answer))
    await called(account.on_settle(exchange))
    [end] = records(books)
    assert (end[7], end[10], end[11], end[12]) == (1, 0, 0, 450_000)
    assert exchange.added_headers == [(b"x-sidecar-cost-usd", b"0")]


async def test_a_refused_call_is_a_row_without_an_attempt(account, books):
    exchange = exchange_builder()
    await called(account.on_request(exchange))
    exchange.outcome = "refused"
    exchange.answer = Answer(429, [], origin="policy")
    await called(account.on_settle(exchange))
    [end] = records(books)
    assert (end[5], end[6], end[10]) == (3, 429, 0)


async def test_an_upstreams_error_costs_nothing(account, books):
    exchange = exchange_builder()
    await called(account.on_request(exchange))
    exchange.served_by = attempt_of(exchange, outcome="failed", failure="rate_limited", status=429)
    exchange.outcome = "failed"
    exchange.answer = Answer(429, [], origin="upstream")
    await called(account.on_response(exchange, exchange.answer))
    await called(account.on_settle(exchange))
    assert records(books)[0][11] == 0
    assert exchange.added_headers == []


async def test_a_flight_that_outlives_its_starter_is_entered_when_it_lands(account, books):
    starter = exchange_builder()
    await called(account.on_request(starter))
    ticket = starter.local[TICKET]
    flight = exchange_builder()
    running = attempt_of(flight, outcome=None)
    ticket.begin(flight, running)
    starter.outcome = "cancelled"
    await called(account.on_settle(starter))
    running.usage, running.outcome = Usage(input=100, output=10), "answered"
    ticket.landed(flight)
    ticket.landed(flight)
    begin, still, end, late = records(books)
    assert (begin[0], begin[1], end[1], end[11]) == ("b", end[1], begin[1], 0)
    assert (still[0], still[1]) == ("b", late[1])
    assert (late[10], late[11]) == (0, 100 * 150 + 10 * 600)


async def test_a_flight_that_is_given_up_after_its_starter_left_is_closed_at_no_cost(account, books):
    starter = exchange_builder()
    await called(account.on_request(starter))
    flight = exchange_builder()
    running = attempt_of(flight, outcome=None)
    starter.before_send(flight, running)
    await called(account.on_settle(starter))
    running.outcome, running.sent = "failed", False
    starter.local[TICKET].landed(flight)
    lines = records(books)
    assert {line[1] for line in lines if line[0] == "b"} == {line[1] for line in lines if line[0] == "e"}
    assert sum(line[11] for line in lines if line[0] == "e") == 0


async def test_a_revalidation_that_begins_after_its_call_has_ended_is_found_after_a_crash(account, books):
    starter = exchange_builder()
    await called(account.on_request(starter))
    begin = starter.before_send
    starter.cache_status = "stale"
    await called(account.on_settle(starter))
    flight = exchange_builder()
    begin(flight, attempt_of(flight, outcome=None))
    end, begun = records(books)
    assert (end[0], begun[0]) == ("e", "b")
    assert end[1] != begun[1]


async def test_a_starter_that_leaves_a_running_flight_pays_when_it_lands_also_without_a_begin(account, books):
    starter = exchange_builder()
    await called(account.on_request(starter))
    flight = exchange_builder()
    running = attempt_of(flight, outcome=None, received_bytes=40)
    starter.flight_of, starter.attempts, starter.served_by = flight, flight.attempts, running
    starter.outcome = "cancelled"
    await called(account.on_settle(starter))
    running.usage, running.outcome = Usage(input=100, output=10), "answered"
    starter.local[TICKET].landed(flight)
    end, late = records(books)
    assert (end[11], late[11]) == (0, 100 * 150 + 10 * 600)


async def test_a_follower_pays_nothing(account, books):
    follower = exchange_builder()
    await called(account.on_request(follower))
    flight = exchange_builder()
    made = attempt_of(flight, usage=Usage(input=100, output=10))
    flight.usage = made.usage
    follower.flight_of, follower.served_by, follower.cache_status = flight, made, "coalesced"
    follower.outcome = "answered"
    follower.answer = Answer(200, [], origin="upstream")
    await called(account.on_response(follower, follower.answer))
    await called(account.on_settle(follower))
    [end] = records(books)
    assert (end[7], end[10], end[11], end[12]) == (1, 0, 0, 100 * 150 + 10 * 600)
    assert follower.added_headers == [(b"x-sidecar-cost-usd", b"0")]


async def test_a_flight_that_landed_before_is_the_starters_row(account, books):
    starter = exchange_builder()
    await called(account.on_request(starter))
    ticket = starter.local[TICKET]
    flight = exchange_builder()
    made = attempt_of(flight, usage=Usage(input=100, output=10))
    ticket.begin(flight, made)
    starter.attempts, starter.served_by, starter.outcome = flight.attempts, made, "answered"
    await called(account.on_settle(starter))
    ticket.landed(flight)
    assert [record[0] for record in records(books)] == ["b", "e"]


async def test_two_snapshots_share_one_store(account, books, tmp_path):
    other = Books(Config(data=tmp_path))
    await other.start()
    assert other.store is books.store
    await other.stop()
    assert books.store.journal.state == "ok"


async def test_nothing_is_written_in_a_dry_run(tmp_path):
    services = services_builder(FakeClock(now=CLOCK), dry=True)
    services.offer("accounting", lambda _: Books(Config(data=tmp_path / "dry"), dry=True))
    policy = policy_builder(Account, services=services)
    await policy.start()
    exchange = exchange_builder()
    await called(policy.on_request(exchange))
    await called(policy.on_settle(exchange))
    await policy.stop()
    assert not (tmp_path / "dry").exists()
