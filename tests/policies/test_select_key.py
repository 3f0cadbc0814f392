"""select_key: keys on attempts, reservations settled on every way to end, ids that live in an account."""

from __future__ import annotations

import asyncio

import pytest

from proxy.accounting.usage import Usage
from proxy.clock import FakeClock
from proxy.config.model import Config
from proxy.exchange import Answer, Attempt, Principal, Target
from proxy.policies.select_key import SelectKey
from proxy.policy import Veto, Wait
from proxy.state import MemoryState
from proxy.stream.sse import Event
from proxy.testing import called, exchange_builder, services_builder
from proxy.upstream.keys import KeyRings, account_ids


class Bench:
    """The policy over one or two pools, and attempts as the loop makes them."""

    def __init__(self, *keys, strategy=("task", "priority", "least_loaded"), **options):
        self.clock = FakeClock()
        self.state = MemoryState(self.clock)
        self.config = Config.model_validate(
            {
                "upstreams": {
                    "openai": {"api": "openai", "base_url": "http://127.0.0.1:1/v1", "keys": "openai"},
                    "europe": {"api": "openai", "base_url": "http://127.0.0.1:2/v1", "keys": "europe"},
                    "open": {"api": "openai", "base_url": "http://127.0.0.1:3/v1"},
                },
                "keys": {
                    "openai": {"strategy": strategy, "keys": [{"secret": "sk-secret", **key} for key in keys]},
                    "europe": {"keys": [{"id": "eu", "secret": "sk-secret"}]},
                },
            }
        )
        self.rings = KeyRings(self.config.keys, self.state, self.clock)
        services = services_builder(self.clock, self.config)
        services.offer("keys", lambda _: self.rings)
        services.offer("state", lambda _: self.state)
        self.policy = SelectKey(SelectKey.Options.model_validate(options), services)

    async def begin(self, exchange):
        attempt = Attempt(
            len(exchange.attempts) + 1, 1, exchange.target, exchange.target.upstream, self.clock.monotonic()
        )
        return attempt, await called(self.policy.on_attempt(exchange, attempt))

    async def end(self, exchange, attempt, outcome="answered", status=200, **fields):
        attempt.sent = True
        attempt.outcome = outcome
        attempt.status = status
        for name, value in fields.items():
            setattr(attempt, name, value)
        await called(self.policy.on_attempt_end(exchange, attempt))

    async def create(self, path, answer, *, principal="anna"):
        """A creating call that is answered; returns the key that served it."""
        exchange = exchange_builder({"model": "m"}, path=path, principal=Principal(principal))
        await called(self.policy.on_request(exchange))
        attempt, said = await self.begin(exchange)
        assert said is None
        exchange.served_by = attempt
        await self.end(exchange, attempt)
        await called(self.policy.on_response(exchange, Answer(200, [], origin="upstream", raw=answer)))
        return attempt.key.id

    def key(self, key_id):
        return next(key for key in self.rings.snapshot() if key["id"] == key_id)


TWO = ({"id": "a"}, {"id": "b"})


async def test_the_attempt_gets_a_key_and_its_upstream():
    bench = Bench({"id": "far", "upstream": "europe", "priority": 2}, {"id": "near"})
    attempt, said = await bench.begin(exchange_builder())
    assert said is None
    assert (attempt.key.id, attempt.key.reveal(), attempt.upstream) == ("far", "sk-secret", "europe")


async def test_the_task_tag_decides():
    bench = Bench({"id": "text", "task_types": ["text"]}, {"id": "rest"})
    assert (await bench.begin(exchange_builder(tags={"task": "text"})))[0].key.id == "text"
    assert (await bench.begin(exchange_builder()))[0].key.id == "rest"


async def test_an_upstream_without_keys_is_left_alone():
    attempt, said = await Bench(*TWO).begin(exchange_builder(target=Target("open")))
    assert said is None and attempt.key is None


async def test_tokens_are_reserved_by_estimate_and_settled_from_usage():
    bench = Bench({"id": "a", "max_tpm": 10_000})
    body = {"model": "m", "max_tokens": 500, "n": 2, "messages": [{"role": "user", "content": "word " * 400}]}
    exchange = exchange_builder(body)
    attempt, _ = await bench.begin(exchange)
    assert 1400 < bench.key("a")["tpm"] < 1700
    await bench.end(exchange, attempt, usage=Usage(input=410, output=90))
    assert bench.key("a")["tpm"] == 500
    assert bench.policy.needs_usage


async def test_an_output_without_a_bound_is_assumed():
    bench = Bench({"id": "a", "max_tpm": 10_000}, assume_output=4000)
    await bench.begin(exchange_builder())
    assert 4000 < bench.key("a")["tpm"] < 4050


@pytest.mark.parametrize("outcome", ["vetoed", "cancelled", "lost", "failed"])
async def test_an_attempt_that_was_not_sent_leaves_nothing(outcome):
    bench = Bench({"id": "a", "max_rpm": 5, "max_tpm": 10_000, "max_concurrent": 5})
    exchange = exchange_builder()
    attempt, _ = await bench.begin(exchange)
    attempt.outcome = outcome
    await called(bench.policy.on_attempt_end(exchange, attempt))
    assert (bench.key("a")["rpm"], bench.key("a")["tpm"], bench.key("a")["in_flight"]) == (0, 0, 0)


@pytest.mark.parametrize("outcome", ["cancelled", "lost", "truncated", "stopped"])
async def test_an_attempt_that_was_sent_counts_however_it_ends(outcome):
    bench = Bench({"id": "a", "max_rpm": 5, "max_concurrent": 5})
    exchange = exchange_builder()
    attempt, _ = await bench.begin(exchange)
    await bench.end(exchange, attempt, outcome, None)
    assert (bench.key("a")["rpm"], bench.key("a")["in_flight"]) == (1, 0)


async def test_every_key_out_is_a_veto_with_the_earliest_return():
    bench = Bench(*TWO)
    for seconds in (30, 20):
        exchange = exchange_builder()
        attempt, _ = await bench.begin(exchange)
        await bench.end(exchange, attempt, "failed", 429, failure="rate_limited", retry_after=seconds)
    _, said = await bench.begin(exchange_builder())
    assert isinstance(said, Veto) and said.scope == "target"
    assert (said.error.code, said.error.retry_after) == ("no_key_available", 20)
    assert "sk-secret" not in said.error.message


async def test_a_call_above_every_limit_is_not_invited_to_try_again():
    bench = Bench({"id": "a", "max_tpm": 100}, max_wait="10s")
    _, said = await bench.begin(exchange_builder({"model": "m", "max_tokens": 5000, "messages": []}))
    assert isinstance(said, Veto)
    assert said.error.retry_after is None and said.error.should_retry is False


async def test_a_call_waits_for_the_first_key_to_return_within_max_wait():
    bench = Bench({"id": "a", "max_concurrent": 1}, max_wait="5s")
    first = exchange_builder()
    held, _ = await bench.begin(first)
    second = exchange_builder()
    _, said = await bench.begin(second)
    assert isinstance(said, Wait)
    waiting = asyncio.ensure_future(said.until())
    await asyncio.sleep(0)
    await bench.end(first, held)
    await waiting
    attempt, said = await bench.begin(second)
    assert said is None and attempt.key.id == "a"


async def test_the_wait_ends_with_max_wait():
    bench = Bench({"id": "a", "max_rpm": 1}, max_wait="5s")
    await bench.begin(exchange_builder())
    _, said = await bench.begin(exchange_builder())
    assert isinstance(said, Veto) and said.error.retry_after > 55
    slots = Bench({"id": "a", "max_concurrent": 1}, max_wait="5s")
    await slots.begin(exchange_builder())
    exchange = exchange_builder()
    for _ in range(5):
        _, said = await slots.begin(exchange)
        assert isinstance(said, Wait)
        slots.clock.advance(1.2)
    _, said = await slots.begin(exchange)
    assert isinstance(said, Veto)


async def test_sticky_follows_the_conversation():
    bench = Bench(*[{"id": f"k{number}"} for number in range(6)], strategy=["sticky"])
    anna, ben = Principal("anna", method="keys"), Principal("ben", method="keys")
    keys = {}
    for turn in range(4):
        for principal in (anna, ben):
            attempt, _ = await bench.begin(exchange_builder(principal=principal))
            keys.setdefault(principal.id, set()).add(attempt.key.id)
        talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
        grown = {"model": "m", "messages": talk + [{"role": "user", "content": "more"}] * turn}
        attempt, _ = await bench.begin(exchange_builder(grown))
        keys.setdefault("unknown", set()).add(attempt.key.id)
    assert all(len(used) == 1 for used in keys.values())


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("before", [[], [SYSTEM], [SYSTEM, {"role": "developer", "content": "In English."}]])
@pytest.mark.parametrize("number", range(8))
async def test_a_conversation_without_a_name_has_one_key_from_its_first_call_on(before, number):
    bench = Bench(*[{"id": f"k{number}"} for number in range(6)], strategy=["sticky"])
    talk = [*before, {"role": "user", "content": f"Question {number}"}]
    keys = set()
    for turn in range(3):
        attempt, _ = await bench.begin(exchange_builder({"model": "m", "messages": talk}))
        keys.add(attempt.key.id)
        talk = [*talk, {"role": "assistant", "content": f"Answer {turn}"}, {"role": "user", "content": "And then?"}]
    assert len(keys) == 1


async def test_conversations_that_begin_with_the_same_instructions_are_spread():
    bench = Bench(*[{"id": f"k{number}"} for number in range(6)], strategy=["sticky"])
    keys = set()
    for number in range(30):
        talk = [SYSTEM, {"role": "user", "content": f"Question {number}"}]
        attempt, _ = await bench.begin(exchange_builder({"model": "m", "messages": talk}))
        keys.add(attempt.key.id)
    assert len(keys) > 3


# --- ids that live in an account ---------------------------------------------------------------


async def test_a_call_goes_to_the_key_that_made_what_it_names():
    bench = Bench(*TWO, strategy=["round_robin"])
    owner = await bench.create("/v1/files", b'{"object": "file", "id": "file-abc123", "bytes": 5}')
    for path, body in (
        ("/v1/files/file-abc123/content", None),
        ("/v1/batches", {"input_file_id": "file-abc123"}),
        ("/v1/responses", {"model": "m", "input": [{"content": [{"type": "input_file", "file_id": "file-abc123"}]}]}),
        ("/v1/chat/completions", {"messages": [{"content": [{"file": {"file_id": "file-abc123"}}]}]}),
    ):
        for _ in range(2):
            exchange = exchange_builder(body, path=path, method="GET" if body is None else "POST")
            await called(bench.policy.on_request(exchange))
            attempt, said = await bench.begin(exchange)
            assert said is None and attempt.key.id == owner, path


async def test_such_a_call_is_never_failed_over():
    bench = Bench(*TWO)
    owner = await bench.create("/v1/responses", b'{"id":"resp_1234","object":"response"}')
    exchange = exchange_builder({"model": "m", "previous_response_id": "resp_1234"}, path="/v1/responses")
    await called(bench.policy.on_request(exchange))
    exchange.excluded_keys.add(owner)
    _, said = await bench.begin(exchange)
    assert isinstance(said, Veto) and said.scope == "call"
    exchange.target = Target("europe")
    _, said = await bench.begin(exchange)
    assert isinstance(said, Veto) and said.scope == "call"


async def test_it_goes_to_the_upstream_where_the_id_lives():
    bench = Bench(*TWO)
    bench.state.put("account-ids", "vs_777", b"europe|eu", 60, 10)
    exchange = exchange_builder(None, path="/v1/vector_stores/vs_777/search", method="POST")
    await called(bench.policy.on_request(exchange))
    attempt, said = await bench.begin(exchange)
    assert said is None and (attempt.target.upstream, attempt.key.id) == ("europe", "eu")


async def test_an_unknown_id_stays_with_the_principals_key():
    bench = Bench(*[{"id": f"k{number}"} for number in range(6)], strategy=["round_robin"])
    used = set()
    for number in range(5):
        exchange = exchange_builder(None, path=f"/v1/files/file-x{number}", method="GET", principal=Principal("anna"))
        await called(bench.policy.on_request(exchange))
        used.add((await bench.begin(exchange))[0].key.id)
    assert len(used) == 1


async def test_ids_are_learned_from_streams_too():
    bench = Bench(*TWO)
    exchange = exchange_builder({"model": "m", "stream": True}, path="/v1/responses")
    attempt, _ = await bench.begin(exchange)
    exchange.served_by = attempt
    stage = bench.policy.open_stream(exchange, Answer(200, [], origin="upstream", events=True))
    event = Event(b'event: response.created\ndata: {"response":{"id":"resp_abc","status":"in_progress"}}\n\n')
    assert list(stage.feed(event)) == [event]
    assert bench.state.known("account-ids", "resp_abc") == f"openai|{attempt.key.id}".encode()


class Pieces:
    """A source and a sink on real bytes."""

    def __init__(self, *pieces):
        self.pieces = pieces
        self.got = []
        self.aborted = False

    def start(self, sink):
        for piece in self.pieces:
            sink.feed(piece)
        sink.finish()

    def pause(self):
        pass

    resume = pause

    def abort(self):
        self.aborted = True

    def feed(self, data):
        self.got.append(data)

    def finish(self):
        self.got.append("end")


async def test_ids_are_learned_from_bytes_that_pass_through():
    bench = Bench(*TWO)
    exchange = exchange_builder(None, path="/v1/files", method="POST", dialect=None)
    attempt, _ = await bench.begin(exchange)
    exchange.served_by = attempt
    answer = Answer(200, [], origin="upstream", source=Pieces(b'{"object":"file","i', b'd":"file-', b'xyz","bytes":1}'))
    assert bench.policy.open_stream(exchange, answer) is None
    sink = Pieces()
    answer.source.start(sink)
    assert sink.got == [b'{"object":"file","i', b'd":"file-', b'xyz","bytes":1}', "end"]
    assert bench.state.known("account-ids", "file-xyz") is not None


async def test_errors_and_plain_calls_teach_nothing():
    bench = Bench(*TWO)
    exchange = exchange_builder()
    attempt, _ = await bench.begin(exchange)
    exchange.served_by = attempt
    await called(bench.policy.on_response(exchange, Answer(200, [], origin="upstream", raw=b'{"id":"chatcmpl-1"}')))
    assert bench.policy.open_stream(exchange, Answer(200, [], origin="upstream", events=True)) is None
    assert bench.state.maps == {}


@pytest.mark.parametrize("read", [True, False], ids=["body read", "nobody read the body"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_completion_that_is_kept_belongs_to_the_key_that_made_it(read, stream):
    bench = Bench(*TWO, strategy=["round_robin"])
    chat = exchange_builder({"model": "m", "messages": [], "store": True, "stream": stream})
    if read:
        assert chat.tree
    attempt, _ = await bench.begin(chat)
    chat.served_by = attempt
    answer = Answer(200, [], origin="upstream", raw=b'{"id":"chatcmpl-kept","object":"chat.completion"}')
    if stream:
        stage = bench.policy.open_stream(chat, Answer(200, [], origin="upstream", events=True))
        stage.feed(Event(b'data: {"id":"chatcmpl-kept","choices":[]}\n\n'))
    else:
        await called(bench.policy.on_response(chat, answer))
    for method, more in (("GET", ""), ("GET", "/messages"), ("POST", ""), ("DELETE", "")):
        for _ in range(2):
            path = "/v1/chat/completions/chatcmpl-kept" + more
            later = exchange_builder({"metadata": {}} if method == "POST" else None, path=path, method=method)
            await called(bench.policy.on_request(later))
            assert (await bench.begin(later))[0].key is attempt.key, (method, path)


@pytest.mark.parametrize("store", [False, None, "true", 1])
async def test_one_that_does_not_ask_to_be_kept_is_not_remembered(store):
    bench = Bench(*TWO)
    exchange = exchange_builder({"model": "m", "messages": [{"role": "user", "content": "store"}], "store": store})
    exchange.served_by, _ = await bench.begin(exchange)
    await called(bench.policy.on_response(exchange, Answer(200, [], origin="upstream", raw=b'{"id":"chatcmpl-1"}')))
    assert bench.state.maps == {}


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/files/file-1/content", "file-1"),
        ("/v1/fine_tuning/jobs/ftjob-1/events", "ftjob-1"),
        ("/v1/threads/thread_1/runs", "thread_1"),
        ("/v1/threads/runs", None),
        ("/v1/responses/compact", None),
        ("/v1/responses/input_tokens", None),
        ("/openai/v1/responses/resp_1", "resp_1"),
        ("/v1/messages/batches/msgbatch_1/results", "msgbatch_1"),
        ("/v1/chat/completions/chatcmpl-1/messages", "chatcmpl-1"),
        ("/v1/chat/completions", None),
        ("/v1/files", None),
        ("/v1/models/gpt-4o", None),
        ("/v1/files/../../etc", None),
    ],
)
def test_ids_in_paths(path, named):
    assert account_ids.named_in_path(path) == named


def test_calls_that_create():
    assert account_ids.creates("POST", "/v1/files")
    assert account_ids.creates("POST", "/v1/threads/runs")
    assert not account_ids.creates("GET", "/v1/files")
    assert not account_ids.creates("POST", "/v1/chat/completions")
    assert not account_ids.creates("POST", "/v1/files/file-1")
