"""``budget``: never overspent, nothing left reserved, whatever way a call ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.accounting import record
from proxy.accounting.books import Books
from proxy.accounting.usage import Usage
from proxy.clock import SystemClock
from proxy.config.model import Config
from proxy.errors import ProxyError
from proxy.exchange import Answer, Attempt, Target
from proxy.form import Form
from proxy.policies.budget import Budget
from proxy.policy import Fallback, Stop, Verdict, Veto, Wait, called
from proxy.state import MemoryState
from proxy.testing import FakeClock, exchange_builder, policy_builder, services_builder

NOW = 1_795_262_400.0
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}


class Key:
    def __init__(self, name):
        self.id = name

    def reveal(self):
        return "secret"


def make(options, *, clock=None, books=None, observe=False, tmp_path=None):
    clock = clock or FakeClock(now=NOW)
    services = services_builder(clock)
    state = MemoryState(clock)
    config = Config(data=tmp_path) if tmp_path else Config()
    own = books or Books(config, dry=tmp_path is None)
    services.offer("accounting", lambda _: own)
    services.offer("state", lambda _: state)
    return policy_builder(Budget, options, services=services, observe=observe)


def new_attempt(key="k1", model=None):
    attempt = Attempt(1, 1, Target("openai", model), "openai", 0.0)
    attempt.key = Key(key)
    return attempt


async def finish(policy, exchange, attempt, *, usage=None, outcome="answered", sent=True, **fields):
    attempt.usage, attempt.outcome, attempt.sent = usage, outcome, sent
    for name, value in fields.items():
        setattr(attempt, name, value)
    await called(policy.on_attempt_end(exchange, attempt))


def counters(policy, value="all"):
    return [counter for _, counter in policy.budget.bucket(value, policy.services.clock.now()).counters]


def figures(policy, value="all"):
    usage = [policy.state.usage(counter) for counter in counters(policy, value)]
    return [(entry.used, entry.held) for entry in usage]


async def test_the_worst_case_is_held_and_what_was_used_is_spent():
    policy = make({"usd": 1, "tokens": 10_000, "calls": 5})
    exchange, attempt = exchange_builder(BODY), new_attempt()
    assert await called(policy.on_attempt(exchange, attempt)) is None
    asked = exchange.input_estimate()
    assert figures(policy) == [(0, asked * 150 + 100 * 600), (0, asked + 100), (0, 1)]
    await finish(policy, exchange, attempt, usage=Usage(input=10, output=20))
    assert figures(policy) == [(10 * 150 + 20 * 600, 0), (30, 0), (1, 0)]


async def test_n_answers_reserve_n_times_the_output():
    policy = make({"tokens": 10_000})
    exchange = exchange_builder({**BODY, "n": 3})
    await called(policy.on_attempt(exchange, new_attempt()))
    assert figures(policy)[0][1] == exchange.input_estimate() + 300


async def test_completions_reserve_what_every_prompt_may_write():
    policy = make({"tokens": 10_000})
    body = {"model": "gpt-4o-mini", "prompt": ["a", "b"], "best_of": 3, "max_tokens": 100}
    exchange = exchange_builder(body, dialect="openai_completions")
    await called(policy.on_attempt(exchange, new_attempt()))
    assert figures(policy)[0][1] == exchange.input_estimate() + 600


PICTURES = {"model": "painter", "prompt": "A cat", "size": "1024x1024", "quality": "high"}
PAINTER = {"painter": {"image": 0.04, "input": 1}}


async def test_pictures_are_reserved_at_their_price_apiece():
    policy = make({"usd": 0.1}, books=Books(Config(prices=PAINTER), dry=True))
    exchange, attempt = exchange_builder({**PICTURES, "n": 2}, dialect="generic"), new_attempt()
    assert await called(policy.on_attempt(exchange, attempt)) is None
    asked = exchange.input_estimate()
    assert figures(policy) == [(0, 2 * 40_000_000 + asked * 1_000)]
    # two more do not fit beside them; what was made is what is paid
    assert isinstance(await called(policy.on_attempt(exchange, new_attempt())), Wait)
    await finish(policy, exchange, attempt, usage=Usage(input=5, images=1))
    assert figures(policy) == [(40_000_000 + 5_000, 0)]


async def test_pictures_stay_reserved_beside_what_is_learned_of_estimates():
    policy = make({"usd": 10}, books=Books(Config(prices=PAINTER), dry=True))
    exchange, attempt = exchange_builder(PICTURES, dialect="generic"), new_attempt()
    await called(policy.on_attempt(exchange, attempt))
    asked = exchange.input_estimate()
    await finish(policy, exchange, attempt, usage=Usage(input=asked * 3, images=1))
    await called(policy.on_attempt(exchange, new_attempt()))
    assert figures(policy)[0][1] == 40_000_000 + asked * 3 * 1_000


async def form_of(*pieces, length):
    async def come():
        for piece in pieces:
            yield piece

    exchange = exchange_builder(None, dialect="generic", path="/v1/audio/transcriptions")
    exchange.request.stream = exchange.request.form = form = Form(come(), b"b")
    exchange.request.content_length = length
    await form.begin()
    return exchange


LISTENER = {"listener": {"minute": 0.006}}
FIELD = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nlistener\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'


async def test_speech_is_reserved_by_the_length_of_its_upload():
    policy = make({"usd": 1}, books=Books(Config(prices=LISTENER), dry=True))
    exchange = await form_of(FIELD + FILE, length=48_000 * 60)  # a minute of this type
    await called(policy.on_attempt(exchange, new_attempt()))
    assert figures(policy) == [(0, 6_000_000)]


async def test_a_form_that_names_its_model_last_is_paid_though_nothing_was_reserved():
    policy = make({"usd": 1}, books=Books(Config(prices=LISTENER), dry=True))
    exchange, attempt = await form_of(FILE, b"RIFF\r\n" + FIELD + b"--b--\r\n", length=1_000), new_attempt()
    await called(policy.on_attempt(exchange, attempt))
    assert figures(policy) == [(0, 0)]
    assert len([piece async for piece in exchange.request.form]) == 2
    await finish(policy, exchange, attempt, usage=Usage(audio_ms=90_000))
    assert figures(policy) == [(9_000_000, 0)]


async def test_the_request_is_never_changed():
    policy = make({"usd": 1})
    exchange = exchange_builder({"model": "gpt-4o-mini", "messages": []})
    before = exchange.body.encode()
    await called(policy.on_attempt(exchange, new_attempt()))
    assert not exchange.body.edited
    assert exchange.body.encode() == before


async def test_spent_is_429_insufficient_quota_that_says_which_budget():
    policy = make({"calls": 1, "per": "project"})
    exchange, attempt = exchange_builder(BODY, project="red"), new_attempt()
    await called(policy.on_attempt(exchange, attempt))
    await finish(policy, exchange, attempt, usage=Usage(input=1, output=1))
    said = await called(policy.on_attempt(exchange_builder(BODY, project="red"), new_attempt()))
    assert isinstance(said, Veto)
    assert (said.error.status, said.error.code, said.error.should_retry) == (429, "insufficient_quota", False)
    assert "project 'red'" in said.error.message
    assert "begins anew at 2026-11-22 00:00:00Z" in said.error.message
    assert await called(policy.on_attempt(exchange_builder(BODY, project="blue"), new_attempt())) is None


async def test_only_others_reservations_in_the_way_means_waiting():
    policy = make({"calls": 1}, clock=SystemClock())
    first, one = exchange_builder(BODY), new_attempt()
    await called(policy.on_attempt(first, one))
    second = exchange_builder(BODY)
    said = await called(policy.on_attempt(second, new_attempt()))
    assert isinstance(said, Wait)
    waiting = asyncio.create_task(said.until())
    await asyncio.sleep(0)
    await finish(policy, first, one, outcome="vetoed", sent=False)
    await asyncio.wait_for(waiting, 1)
    assert await called(policy.on_attempt(second, new_attempt())) is None


async def test_waiting_ends_with_rate_limit_exceeded():
    policy = make({"calls": 1, "max_wait": "20ms"}, clock=SystemClock())
    await called(policy.on_attempt(exchange_builder(BODY), new_attempt()))
    said = await called(policy.on_attempt(exchange_builder(BODY), new_attempt()))
    assert isinstance(said, Wait)
    with pytest.raises(ProxyError) as caught:
        await said.until()
    assert (caught.value.code, caught.value.retry_after) == ("rate_limit_exceeded", 1.0)
    assert not policy.lines


@pytest.mark.parametrize(
    ("ending", "spent"),
    [
        ({"outcome": "vetoed", "sent": False}, 0),
        ({"outcome": "failed", "sent": False, "failure": "unreachable"}, 0),
        ({"outcome": "failed", "failure": "rate_limited", "status": 429}, 0),
        ({"outcome": "failed", "failure": "timeout"}, "asked"),
        ({"outcome": "cancelled", "received_bytes": 40}, "asked+10"),
        ({"outcome": "lost", "received_bytes": 40}, "asked+10"),
        ({"outcome": "truncated", "failure": "truncated", "received_bytes": 40}, "asked+10"),
        ({"outcome": "stopped", "usage": Usage(input=3, output=4)}, 7),
    ],
)
async def test_every_way_to_end_settles_and_leaves_nothing_reserved(ending, spent):
    policy = make({"tokens": 10_000})
    exchange, attempt = exchange_builder(BODY), new_attempt()
    await called(policy.on_attempt(exchange, attempt))
    await finish(policy, exchange, attempt, **ending)
    asked = exchange.input_estimate()
    expected = {"asked": asked, "asked+10": asked + 10}.get(spent, spent)
    assert figures(policy) == [(expected, 0)]


async def test_an_end_without_a_reservation_does_nothing():
    policy = make({"calls": 1})
    exchange, attempt = exchange_builder(BODY), new_attempt()
    await finish(policy, exchange, attempt)
    assert figures(policy) == [(0, 0)]


async def test_an_unpriced_model_counts_as_calls_and_tokens():
    policy = make({"usd": 1, "calls": 5})
    exchange, attempt = exchange_builder({**BODY, "model": "mine"}), new_attempt()
    assert await called(policy.on_attempt(exchange, attempt)) is None
    assert exchange.notes
    await finish(policy, exchange, attempt, usage=Usage(input=1, output=1))
    assert figures(policy) == [(0, 0), (1, 0)]


async def test_an_unpriced_model_is_refused_when_told_to():
    policy = make({"usd": 1, "on_unpriced": "reject"})
    said = await called(policy.on_attempt(exchange_builder({**BODY, "model": "mine"}), new_attempt()))
    assert isinstance(said, Veto)
    assert said.scope == "target"


async def test_a_spent_key_is_out_and_another_may_serve():
    policy = make({"calls": 1, "per": "key"})
    exchange, attempt = exchange_builder(BODY), new_attempt("a")
    await called(policy.on_attempt(exchange, attempt))
    await finish(policy, exchange, attempt, usage=Usage(input=1))
    said = await called(policy.on_attempt(exchange, new_attempt("a")))
    assert isinstance(said, Veto)
    assert said.scope == "key"
    assert await called(policy.on_attempt(exchange, new_attempt("b"))) is None


async def test_free_credits_are_a_budget_of_their_key_alone():
    policy = make({"calls": 1, "per": "key", "only": ["free-1"], "window": "month"})
    exchange, attempt = exchange_builder(BODY), new_attempt("free-1")
    await called(policy.on_attempt(exchange, attempt))
    await finish(policy, exchange, attempt, usage=Usage(input=1))
    said = await called(policy.on_attempt(exchange, new_attempt("free-1")))
    assert isinstance(said, Veto)
    assert said.scope == "key"
    for _ in range(3):
        assert await called(policy.on_attempt(exchange, new_attempt("paid"))) is None
    assert policy.state.meters.keys() == {counters(policy, "free-1")[0].name}


async def test_downgrade_moves_to_the_other_model_and_counts_it():
    policy = make({"calls": 1, "on_limit": "downgrade", "downgrade": {"model": "gpt-4.1-nano"}})
    exchange, attempt = exchange_builder(BODY), new_attempt()
    await called(policy.on_attempt(exchange, attempt))
    await finish(policy, exchange, attempt, usage=Usage(input=1))
    refused = new_attempt()
    veto = await called(policy.on_attempt(exchange, refused))
    assert isinstance(veto, Veto)
    decision = await called(policy.on_result(exchange, refused, Verdict(None, veto=veto, error=veto.error)))
    assert decision == Fallback(Target("openai", "gpt-4.1-nano"))
    cheap = new_attempt(model="gpt-4.1-nano")
    assert await called(policy.on_attempt(exchange, cheap)) is None
    await finish(policy, exchange, cheap, usage=Usage(input=1))
    assert figures(policy) == [(2, 0)]


async def test_observe_never_refuses_and_counts_all():
    policy = make({"calls": 1}, observe=True)
    for _ in range(3):
        exchange, attempt = exchange_builder(BODY), new_attempt()
        assert await called(policy.on_attempt(exchange, attempt)) is None
        await finish(policy, exchange, attempt, usage=Usage(input=1))
    assert figures(policy) == [(3, 0)]
    assert exchange.notes


async def test_a_warning_at_each_mark_once(caplog):
    policy = make({"calls": 4, "warn_at": [0.5, "75%"]})
    for _ in range(4):
        exchange, attempt = exchange_builder(BODY), new_attempt()
        await called(policy.on_attempt(exchange, attempt))
        await finish(policy, exchange, attempt, usage=Usage(input=1))
    assert [entry.message.split(":")[1].split(" of")[0].strip() for entry in caplog.records] == ["50%", "75%"]


async def test_a_new_window_is_a_new_budget():
    clock = FakeClock(now=NOW)
    policy = make({"calls": 1, "window": "hour"}, clock=clock)
    exchange, attempt = exchange_builder(BODY), new_attempt()
    await called(policy.on_attempt(exchange, attempt))
    await finish(policy, exchange, attempt, usage=Usage(input=1))
    assert isinstance(await called(policy.on_attempt(exchange_builder(BODY), new_attempt())), Veto)
    clock.advance(3_600)
    assert await called(policy.on_attempt(exchange_builder(BODY), new_attempt())) is None


async def run_call(policy, usage, hold, leaves=None):
    """One call as the attempt loop would run it. Returns whether it was sent."""
    exchange = exchange_builder(BODY)
    attempt = None
    try:
        while True:
            attempt = new_attempt()
            said = await called(policy.on_attempt(exchange, attempt))
            if isinstance(said, Veto):
                await finish(policy, exchange, attempt, outcome="vetoed", sent=False)
                return False
            if said is None:
                break
            await finish(policy, exchange, attempt, outcome="vetoed", sent=False)
            try:
                await said.until()
            except ProxyError:
                return False
        attempt.sent = True
        await asyncio.sleep(hold)
        await finish(policy, exchange, attempt, usage=usage)
        return True
    except asyncio.CancelledError:
        if attempt is not None and attempt.outcome is None:
            await finish(policy, exchange, attempt, outcome="cancelled", sent=attempt.sent, received_bytes=4)
        raise
    finally:
        await called(policy.on_done(exchange))


async def test_a_thousand_calls_at_once_do_not_overspend_a_budget_of_a_hundred():
    asked = exchange_builder(BODY).input_estimate()
    usage = Usage(input=asked, output=100)
    cost = asked * 150 + 100 * 600
    policy = make({"usd": 100 * cost / 1e9, "max_wait": "5s"}, clock=SystemClock())
    sent = await asyncio.gather(*(run_call(policy, usage, 0.001) for _ in range(1_000)))
    assert sum(sent) == 100
    assert figures(policy) == [(100 * cost, 0)]
    assert not policy.lines


@pytest.mark.parametrize(("charged", "limit"), [(1.5, "usd"), (125, "usd"), (3, "tokens"), (60, "tokens")])
async def test_a_provider_that_counts_more_than_was_estimated_is_not_overspent_by_a_burst(charged, limit):
    """Nothing was learned of the model before the thousand came, all at once."""
    asked = exchange_builder(BODY).input_estimate()
    usage = Usage(input=int(asked * charged), output=100)
    nanos, tokens = usage.input * 150 + 100 * 600, usage.input + 100
    most = {"usd": 100 * nanos / 1e9} if limit == "usd" else {"tokens": 100 * tokens}
    policy = make({**most, "max_wait": "5s"}, clock=SystemClock())
    sent = await asyncio.gather(*(run_call(policy, usage, 0.001) for _ in range(1_000)))
    error = usage.input - asked  # of one estimate
    [(spent, held)] = figures(policy)
    assert held == 0
    assert spent <= (100 * nanos + error * 150 if limit == "usd" else 100 * tokens + error)
    assert 100 <= sum(sent) <= 101
    assert not policy.lines
    assert policy.doubts._sums == {}


async def test_what_is_doubted_of_a_cancelled_call_is_given_back():
    policy = make({"tokens": 5_000}, clock=SystemClock())
    task = asyncio.create_task(run_call(policy, Usage(input=5, output=5), 10))
    await asyncio.sleep(0.01)
    assert policy.doubts._sums
    task.cancel()
    await asyncio.wait((task,))
    assert policy.doubts._sums == {}
    assert figures(policy)[0][1] == 0


async def test_after_the_first_answer_what_was_learned_is_reserved():
    policy = make({"tokens": 100_000})
    for expected in (100, 250):  # input + max_tokens
        exchange, attempt = exchange_builder(BODY), new_attempt()
        asked = exchange.input_estimate()
        assert await called(policy.on_attempt(exchange, attempt)) is None
        assert figures(policy)[0][1] == pytest.approx(expected + asked if expected == 100 else expected, abs=1)
        await finish(policy, exchange, attempt, usage=Usage(input=150, output=1))


async def test_an_answer_without_a_limit_that_was_longer_than_assumed_is_expected_again():
    policy = make({"tokens": 100_000, "assume_output": 10})
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
    for output in (10, 700):
        exchange, attempt = exchange_builder(body), new_attempt()
        assert await called(policy.on_attempt(exchange, attempt)) is None
        asked = exchange.input_estimate()
        assert figures(policy)[0][1] == asked + output
        await finish(policy, exchange, attempt, usage=Usage(input=asked, output=700))
    bounded, attempt = exchange_builder(BODY), new_attempt()
    await called(policy.on_attempt(bounded, attempt))
    assert figures(policy)[0][1] == bounded.input_estimate() + 100


async def test_calls_that_use_less_than_reserved_let_others_in():
    policy = make({"tokens": 2_000, "max_wait": "5s"}, clock=SystemClock())
    sent = await asyncio.gather(*(run_call(policy, Usage(input=5, output=5), 0.001) for _ in range(100)))
    assert sum(sent) == 100
    assert figures(policy) == [(1_000, 0)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 150), st.integers(0, 3), st.one_of(st.none(), st.integers(0, 12))),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 6),
)
def test_any_interleaving_with_cancels_leaves_nothing_reserved(calls, worth):
    async def scenario():
        asked = exchange_builder(BODY).input_estimate()
        limit = worth * (asked + 100)
        policy = make({"tokens": limit, "max_wait": "200ms"}, clock=SystemClock())
        tasks = []
        for output, turns, _ in calls:
            tasks.append(asyncio.create_task(run_call(policy, Usage(input=asked, output=output), turns / 2_000)))
        for step in range(13):
            await asyncio.sleep(0.0003)
            for task, (_, _, leaves) in zip(tasks, calls, strict=True):
                if leaves == step:
                    task.cancel()
            [(_, held)] = figures(policy)
            assert held <= limit
        await asyncio.gather(*tasks, return_exceptions=True)
        [(spent, held)] = figures(policy)
        assert held == 0
        assert not policy.lines
        # each call may use 50 tokens more than its estimate: that error, and no more
        assert spent <= limit + 50 * len(calls)

    asyncio.run(scenario())


async def test_a_restart_forgives_nobody(tmp_path):
    books = Books(Config(data=tmp_path))
    await books.start()
    journal = books.store.journal
    for project, tags in (("red", "team=a"), ("red", "team=b=c"), ("", "")):
        number = journal.ids.next()
        who = record.attribution(project=project, tags=tags)
        at = int(NOW * 1000) - 5_000
        journal.end(number, record.end(number, at, "r", who, cost=10**9, version="v", usage=(100, 10)))
    yesterday = record.end(
        1, int((NOW - 86_400) * 1000), "r", record.attribution(project="red"), cost=10**9, version="v"
    )
    journal.append(yesterday)
    hit = record.end(journal.ids.next(), int(NOW * 1000) - 5_000, "r", record.attribution(project="red"), flags=1)
    journal.append(hit)
    await journal.flushed()
    by_project = make({"usd": 50, "calls": 9, "per": "project"}, books=books)
    by_tag = make({"tokens": 5_000, "per": "tag:team"}, books=books)
    await by_project.start()
    await by_tag.start()
    assert figures(by_project, "red") == [(2 * 10**9, 0), (2, 0)]
    assert figures(by_project, "-") == [(10**9, 0), (1, 0)]
    assert figures(by_tag, "b=c") == [(110, 0)]
    await by_tag.stop()
    await by_project.stop()
    await books.stop()


async def test_stop_stream_cuts_at_the_limit_with_a_finish_and_an_error():
    policy = make({"tokens": 1_200, "stop_stream": True, "assume_output": 10})
    exchange = exchange_builder({"model": "gpt-4o-mini", "messages": [], "stream": True})
    attempt = new_attempt()
    await called(policy.on_attempt(exchange, attempt))
    exchange.served_by = attempt
    stage = policy.open_stream(exchange, Answer(200, [], origin="upstream", events=True))
    from proxy.stream.sse import Parser

    delta = b'{"index":0,"delta":{"content":"abcd"}}'
    data = b'data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[' + delta + b"]}\n\n"
    sent = 0
    for event in Parser().feed(data * 3_000):
        out = stage.feed(event)
        if isinstance(out, Stop):
            assert out.error.code == "insufficient_quota"
            assert b'"length"' in out.events[-1].encode()
            break
        sent += 1
    assert 1_100 < sent < 1_250


async def test_a_stream_within_its_reservation_is_never_cut():
    policy = make({"tokens": 300, "stop_stream": True})
    exchange = exchange_builder({**BODY, "stream": True})
    attempt = new_attempt()
    await called(policy.on_attempt(exchange, attempt))
    exchange.served_by = attempt
    stage = policy.open_stream(exchange, Answer(200, [], origin="upstream", events=True))
    from proxy.stream.sse import Parser

    for event in Parser().feed(b'data: {"choices":[{"index":0,"delta":{"content":"ab"}}]}\n\n' * 90):
        assert not isinstance(stage.feed(event), Stop)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"usd": 1, "per": "planet"},
        {"usd": 1, "window": "fortnight"},
        {"usd": 1, "window": "0s"},
        {"usd": 1, "time_zone": "Mars/Olympus"},
        {"usd": 1, "on_limit": "downgrade"},
        {"usd": -1},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValidationError):
        Budget.Options.model_validate(options)


def test_a_window_without_a_unit_is_told_as_a_duration_is():
    with pytest.raises(ValidationError, match=r"hour, day, week, month or a duration: a number with a unit"):
        Budget.Options.model_validate({"usd": 1, "window": 90})


async def test_waiting_is_first_come_first_served_also_for_newcomers():
    policy = make({"calls": 1, "max_wait": "5s"}, clock=SystemClock())
    order = []

    async def one(name):
        exchange, attempt = exchange_builder(BODY), new_attempt()
        while (said := await called(policy.on_attempt(exchange, attempt))) is not None:
            assert isinstance(said, Wait)
            await said.until()
        order.append(name)
        await asyncio.sleep(0.001)
        await finish(policy, exchange, attempt, outcome="vetoed", sent=False)

    tasks = []
    for name in range(8):
        tasks.append(asyncio.create_task(one(name)))
        await asyncio.sleep(0.0005)
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert order == list(range(8))
