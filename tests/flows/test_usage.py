"""Usage and cost of whole calls, in every dialect: asked for, estimated, paid once, and written to the journal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import aiohttp
import orjson
import pytest
import yaml

from proxy.accounting import record
from proxy.accounting.journal import Journal
from proxy.accounting.segments import read_lines
from proxy.accounting.usage import PACKED
from proxy.testing import FakeUpstream, chat_answer, chat_events, close, collect_sse, events, hang, reply

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 50}
STREAM = {**CHAT, "stream": True}
EXACT = ["account"]
REFUSAL = {"error": {"message": "Unrecognized request argument supplied: stream_options", "code": None}}


class Rows:
    """What one proxy has written."""

    def __init__(self, proxy):
        self.store = proxy.app.snapshot.services.get("accounting").store

    def lines(self):
        directory = self.store.journal.directory
        return [
            line for number in directory.segments() for line in read_lines(directory.file(number).read_bytes(), "test")
        ]

    def ends(self):
        return [line for line in self.lines() if line[0] == "e"]


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def start(sidecar, setting):
    """A proxy before ``upstream`` with this chain."""

    async def run(upstream, *chain, **more):
        base = upstream.url if more.get("up", {}).get("api") == "anthropic" else upstream.url + "/v1"
        proxy = await sidecar(setting(base, *(chain or EXACT), **more))
        return proxy, Rows(proxy)

    return run


async def ask(client, proxy, body=CHAT, path="/v1/chat/completions"):
    async with client.post(proxy.url + path, json=body) as answer:
        return answer.status, answer.headers, await answer.read()


async def until(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def sse(*bodies, named=False):
    return [
        (f"event: {body['type']}\n".encode() if named else b"") + b"data: " + orjson.dumps(body) + b"\n\n"
        for body in bodies
    ]


# --- every dialect -------------------------------------------------------------------------------------

CASES = {
    "chat": (
        "/v1/chat/completions",
        CHAT,
        reply(
            chat_answer("Hi")
            | {
                "usage": {
                    "prompt_tokens": 100,
                    "completion_tokens": 30,
                    "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 5},
                    "completion_tokens_details": {"reasoning_tokens": 20},
                }
            }
        ),
        {"input": 100, "output": 30, "cached_input": 40, "reasoning": 20, "audio_input": 5},
    ),
    "chat stream": (
        "/v1/chat/completions",
        STREAM,
        events(*chat_events(["one", " two"], usage=(12, 7))),
        {"input": 12, "output": 7},
    ),
    "completions": (
        "/v1/completions",
        {"model": "gpt-3.5-turbo-instruct", "prompt": "Say"},
        reply(
            {"id": "c", "choices": [{"text": "a", "index": 0}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
        ),
        {"input": 3, "output": 2},
    ),
    "embeddings": (
        "/v1/embeddings",
        {"model": "text-embedding-3-small", "input": "text"},
        reply({"data": [{"index": 0, "embedding": [0.1]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}),
        {"input": 8},
    ),
    "responses": (
        "/v1/responses",
        {"model": "gpt-4o-mini", "input": "Hello"},
        reply(
            {
                "id": "r",
                "object": "response",
                "status": "completed",
                "output": [],
                "usage": {
                    "input_tokens": 50,
                    "output_tokens": 20,
                    "input_tokens_details": {"cached_tokens": 10},
                    "output_tokens_details": {"reasoning_tokens": 4},
                },
            }
        ),
        {"input": 50, "output": 20, "cached_input": 10, "reasoning": 4},
    ),
    "responses stream": (
        "/v1/responses",
        {"model": "gpt-4o-mini", "input": "Hello", "stream": True},
        events(
            *sse(
                {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"},
                {
                    "type": "response.completed",
                    "response": {"status": "completed", "usage": {"input_tokens": 6, "output_tokens": 2}},
                },
                named=True,
            )
        ),
        {"input": 6, "output": 2},
    ),
    "generic": (
        "/v1/rerank",
        {"model": "rerank-1", "query": "q", "documents": ["a"]},
        reply({"results": [], "usage": {"total_tokens": 21}}),
        {"input": 21},
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_the_providers_counts_are_written(start, client, case):
    path, body, step, counts = CASES[case]
    async with FakeUpstream(step) as upstream:
        proxy, rows = await start(upstream)
        status, _, _ = await ask(client, proxy, body, path)
        assert status == 200
        [end] = rows.ends()
        assert record.OUTCOMES[end[5]] == "answered"
        assert {name: count for name, count in zip(PACKED, end[14], strict=False) if count} == counts
        assert not end[7] & record.ESTIMATED


ANTHROPIC = {"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}


async def test_anthropics_counts_are_written_with_what_went_through_its_cache(start, client):
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
    }
    answer = {"type": "message", "role": "assistant", "content": [], "stop_reason": "end_turn", "usage": usage}
    async with FakeUpstream(reply(answer)) as upstream:
        proxy, rows = await start(upstream, up={"api": "anthropic"})
        assert (await ask(client, proxy, ANTHROPIC, "/v1/messages"))[0] == 200
        [end] = rows.ends()
        assert end[14] == [140, 5, 100, 30, 0, 0, 10]


async def test_anthropics_stream_counts_stand_in_two_events(start, client):
    stream = sse(
        {"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}, "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
        named=True,
    )
    async with FakeUpstream(events(*stream)) as upstream:
        proxy, rows = await start(upstream, up={"api": "anthropic"})
        assert (await ask(client, proxy, ANTHROPIC | {"stream": True}, "/v1/messages"))[0] == 200
        [end] = rows.ends()
        assert end[14] == [10, 9]


# --- a stream is asked for its usage -------------------------------------------------------------------


def usages(raw):
    return [event["usage"] for event in collect_sse(raw) if isinstance(event, dict) and event.get("usage")]


async def test_a_stream_is_asked_for_its_usage_and_the_extra_event_is_hidden(start, client):
    async with FakeUpstream(events(*chat_events(["a"], usage=(12, 7)))) as upstream:
        proxy, rows = await start(upstream)
        _, _, raw = await ask(client, proxy, STREAM)
        assert upstream.calls[0].json["stream_options"] == {"include_usage": True}
        assert usages(raw) == []
        assert rows.ends()[0][14] == [12, 7]


async def test_a_client_that_asked_itself_sees_the_usage(start, client):
    async with FakeUpstream(events(*chat_events(["a"], usage=(12, 7)))) as upstream:
        proxy, _ = await start(upstream)
        _, _, raw = await ask(client, proxy, STREAM | {"stream_options": {"include_usage": True}})
        assert len(usages(raw)) == 1


async def test_without_a_policy_that_needs_usage_nothing_is_asked(start, client):
    async with FakeUpstream(events(*chat_events(["a"]))) as upstream:
        proxy, _ = await start(upstream, "validate")
        await ask(client, proxy, STREAM)
        assert "stream_options" not in upstream.calls[0].json


@pytest.mark.parametrize("status", [400, 422])
async def test_an_upstream_that_refuses_the_question_is_learned(start, client, status):
    stream = events(*chat_events(["one", "two"]))
    async with FakeUpstream(reply(REFUSAL, status=status), stream, stream) as upstream:
        proxy, rows = await start(upstream)
        assert (await ask(client, proxy, STREAM))[0] == 200
        assert (await ask(client, proxy, STREAM))[0] == 200
        assert ["stream_options" in call.json for call in upstream.calls] == [True, False, False]
        assert [(end[10], end[7] & record.ESTIMATED) for end in rows.ends()] == [(1, record.ESTIMATED)] * 2


WORDLESS = {
    "in other words": {"json": {"error": {"message": "Extra inputs are not permitted"}}},
    "a text": {"body": b"Bad Request", "content_type": "text/plain"},
    "a page": {"body": b"<html>400</html>", "content_type": "text/html"},
    "nothing": {"body": b""},
}


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("words", WORDLESS)
async def test_an_upstream_that_does_not_say_what_it_refuses_is_learned_too(start, client, words, status):
    stream = events(*chat_events(["one", "two"]))
    async with FakeUpstream(reply(**WORDLESS[words], status=status), stream, stream) as upstream:
        proxy, rows = await start(upstream, "account", {"retry": {"attempts": 2}})
        for _ in range(2):
            got, headers, _ = await ask(client, proxy, STREAM)
            assert (got, headers["x-sidecar-attempts"]) == (200, "1")
        assert ["stream_options" in call.json for call in upstream.calls] == [True, False, False]
        assert [end[10] for end in rows.ends()] == [1, 1]


MISTAKE = reply({"error": {"message": "temperature is too high", "code": "invalid_value"}}, status=400)


async def test_a_clients_own_mistake_is_its_answer_and_nothing_is_learned(start, client):
    async with FakeUpstream(MISTAKE, MISTAKE, events(*chat_events(["one"], usage=(1, 1)))) as upstream:
        proxy, _ = await start(upstream)
        status, _, raw = await ask(client, proxy, STREAM)
        assert (status, orjson.loads(raw)["error"]["code"]) == (400, "invalid_value")
        assert (await ask(client, proxy, STREAM))[0] == 200
        assert ["stream_options" in call.json for call in upstream.calls] == [True, False, True]


async def test_of_the_two_answers_the_client_gets_the_one_to_its_own_call(start, client):
    second = reply({"error": {"message": "no such model"}}, status=404)
    async with FakeUpstream(reply(body=b"Bad Request", status=400), second) as upstream:
        proxy, _ = await start(upstream)
        assert (await ask(client, proxy, STREAM))[0] == 404
        assert proxy.app.snapshot.upstreams["up"].usage.asks


async def test_mistakes_are_not_sent_twice_once_a_stream_with_the_question_was_accepted(start, client):
    async with FakeUpstream(events(*chat_events(["one"], usage=(1, 1))), default=MISTAKE) as upstream:
        proxy, _ = await start(upstream)
        assert [(await ask(client, proxy, STREAM))[0] for _ in range(4)] == [200, 400, 400, 400]
        assert len(upstream.calls) == 4


async def test_nor_are_more_than_a_few_before_that(start, client):
    async with FakeUpstream(default=MISTAKE) as upstream:
        proxy, _ = await start(upstream)
        for _ in range(20):
            assert (await ask(client, proxy, STREAM))[0] == 400
        assert len(upstream.calls) == 25


async def test_never_means_never(start, client):
    async with FakeUpstream(events(*chat_events(["a"]))) as upstream:
        proxy, rows = await start(upstream, up={"stream_usage": "never"})
        await ask(client, proxy, STREAM)
        assert "stream_options" not in upstream.calls[0].json
        assert rows.ends()[0][7] & record.ESTIMATED


async def test_always_takes_a_refusal_as_the_answer(start, client):
    async with FakeUpstream(reply(REFUSAL, status=400)) as upstream:
        proxy, _ = await start(upstream, up={"stream_usage": "always"})
        assert (await ask(client, proxy, STREAM))[0] == 400
        assert len(upstream.calls) == 1


# --- nobody says what was used -------------------------------------------------------------------------


async def test_a_silent_provider_is_estimated_and_marked(start, client):
    async with FakeUpstream(reply(chat_answer("x" * 400, usage=None))) as upstream:
        proxy, rows = await start(upstream)
        _, headers, _ = await ask(client, proxy)
        [end] = rows.ends()
        assert end[7] & record.ESTIMATED
        assert end[14][0] > 0
        assert end[14][1] >= 100
        assert float(headers["x-sidecar-cost-usd"]) == pytest.approx(end[11] / 1e9)


async def test_a_client_that_leaves_a_stream_pays_what_was_streamed_so_far(start, client):
    pieces = chat_events(["x" * 200, "y" * 200])[:3]
    async with FakeUpstream(events(*pieces, then="hang")) as upstream:
        proxy, rows = await start(upstream)
        async with client.post(proxy.base_url + "/chat/completions", json=STREAM) as answer:
            seen = b""
            while b"yyy" not in seen:
                seen += await answer.content.readany()
        await until(rows.ends)
        [end] = rows.ends()
        assert record.OUTCOMES[end[5]] == "cancelled"
        assert end[7] & record.ESTIMATED
        assert 100 <= end[14][1] < 200


# --- a stream that did not end with its final usage ----------------------------------------------------

WORDS = ["word and word"] * 100  # 1,300 characters: 325 tokens by estimate


def chat_chunks(usage, *, end=False):
    """A streamed chat answer, each chunk with the counts that ``usage`` gives it: (input, output), or None."""

    def chunk(number, delta, reason=None):
        counts = usage(number)
        said = None if counts is None else {"prompt_tokens": counts[0], "completion_tokens": counts[1]}
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": choices, "usage": said}

    out = [chunk(0, {"role": "assistant", "content": ""})]
    out += [chunk(number, {"content": word}) for number, word in enumerate(WORDS, 1)]
    return [*sse(*out, chunk(101, {}, "stop")), b"data: [DONE]\n\n"] if end else sse(*out)


def message_events(*, end=False):
    out = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}, "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
    ]
    if end:
        out += [
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
            {"type": "message_stop"},
        ]
    return sse(*out, named=True)


COUNTED = {
    "nothing": (lambda _: None, None),
    "the input, before it began": (lambda number: None if number else (10, 0), (10, 325)),
    "less than was streamed": (lambda number: (10, number), (10, 325)),
    "more than was streamed": (lambda number: (10, 9 * number), (10, 900)),
}
"""What the provider had counted, and what is then written: its own input, and the larger output."""


@pytest.mark.parametrize("how", ["the client leaves", "the upstream breaks off"])
@pytest.mark.parametrize("said", COUNTED)
async def test_of_a_cut_stream_the_larger_of_what_was_counted_and_what_was_streamed_is_written(
    start, client, how, said
):
    usage, wanted = COUNTED[said]
    async with FakeUpstream(events(*chat_chunks(usage), then="hang" if "client" in how else "reset")) as upstream:
        proxy, rows = await start(upstream)
        await cut(client, proxy, STREAM)
        await until(rows.ends)
        [end] = rows.ends()
        assert end[7] & record.ESTIMATED
        assert tuple(end[14]) == (wanted or (end[14][0], 325))


@pytest.mark.parametrize("then", ["hang", "reset"])
async def test_anthropics_first_count_is_not_what_a_cut_stream_used(start, client, then):
    async with FakeUpstream(events(*message_events(), then=then)) as upstream:
        proxy, rows = await start(upstream, up={"api": "anthropic"})
        await cut(client, proxy, ANTHROPIC | {"stream": True}, "/v1/messages")
        await until(rows.ends)
        [end] = rows.ends()
        assert end[7] & record.ESTIMATED
        assert end[14] == [10, 325]


async def test_a_stream_that_ended_well_without_a_final_count_is_estimated(start, client):
    usage, _ = COUNTED["the input, before it began"]
    async with FakeUpstream(events(*chat_chunks(usage, end=True))) as upstream:
        proxy, rows = await start(upstream)
        await ask(client, proxy, STREAM)
        [end] = rows.ends()
        assert end[7] & record.ESTIMATED
        assert end[14] == [10, 325]


async def test_the_final_count_stands_whatever_was_streamed(start, client):
    chat, messages = chat_chunks(lambda number: (10, number // 20), end=True), message_events(end=True)
    async with FakeUpstream(events(*chat), events(*messages)) as upstream:
        proxy, rows = await start(upstream)
        await ask(client, proxy, STREAM)
        await ask(client, proxy, ANTHROPIC | {"stream": True}, "/v1/messages")
        for end, counts in zip(rows.ends(), ([10, 5], [10, 7]), strict=True):
            assert end[14] == counts
            assert not end[7] & record.ESTIMATED


async def test_a_budget_settles_on_what_is_written_of_a_cut_stream(start, client):
    async with FakeUpstream(events(*message_events(), then="hang")) as upstream:
        proxy, rows = await start(upstream, "account", {"budget": {"tokens": 100_000}}, up={"api": "anthropic"})
        await cut(client, proxy, ANTHROPIC | {"stream": True}, "/v1/messages")
        await until(rows.ends)
        policy = proxy.app.snapshot.chains["main"].find("budget")
        [(_, counter)] = policy.budget.bucket("all", policy.services.clock.now()).counters
        assert (policy.state.usage(counter).used, policy.state.usage(counter).held) == (335, 0)


async def cut(client, proxy, body, path="/v1/chat/completions"):
    """Read a stream up to its last text, or until it breaks off, and leave."""
    async with client.post(proxy.url + path, json=body) as answer:
        seen = b""
        with contextlib.suppress(aiohttp.ClientError):
            while seen.count(WORDS[0].encode()) < len(WORDS) and not answer.content.at_eof():
                seen += await answer.content.readany()


# --- each attempt is paid by its own key and model -----------------------------------------------------


async def test_a_retry_is_accounted_beside_the_answer(start, client):
    half = close("in_body")
    async with FakeUpstream(half, reply(chat_answer("Hi", usage=(9, 3)))) as upstream:
        proxy, rows = await start(upstream, "account", {"retry": {"attempts": 2, "backoff": {"initial": "1ms"}}})
        assert (await ask(client, proxy))[0] == 200
        [end] = rows.ends()
        assert end[10] == 2
        assert end[14] == [9, 3]
        [[_, flags, cost, _, usage]] = end[15]
        assert flags & record.ESTIMATED
        assert usage[0] > 0
        assert cost > 0


async def test_a_fallback_is_accounted_to_its_own_model_and_the_header_says_the_sum(start, client):
    async with FakeUpstream(close("in_body"), reply(chat_answer("Hi", usage=(100, 10)))) as upstream:
        proxy, rows = await start(
            upstream, "account", {"fallback": {"targets": [{"upstream": "up", "model": "gpt-4o"}]}}
        )
        status, headers, _ = await ask(client, proxy)
        assert status == 200
        [end] = rows.ends()
        assert end[4].split("\t")[5:7] == ["gpt-4o-mini", "gpt-4o"]
        assert end[11] == 100 * 2_500 + 10 * 10_000
        [extra] = end[15]
        assert extra[0].split("\t")[6] == "gpt-4o-mini"
        assert float(headers["x-sidecar-cost-usd"]) == pytest.approx((end[11] + extra[2]) / 1e9)


async def test_the_lost_side_of_a_hedge_is_paid_too(start, client):
    async with FakeUpstream(hang(), reply(chat_answer("Hi", usage=(9, 3)))) as upstream:
        proxy, rows = await start(upstream, "account", {"hedge": {"after": "20ms", "max_ratio": 1}})
        assert (await ask(client, proxy))[0] == 200
        [end] = rows.ends()
        assert end[10] == 2
        assert end[14] == [9, 3]
        [extra] = end[15]
        assert extra[1] & record.ESTIMATED


async def test_a_hit_is_saved_not_spent(start, client):
    async with FakeUpstream(reply(chat_answer("Hi", usage=(100, 10)))) as upstream:
        proxy, rows = await start(upstream, "account", {"cache": {"ttl": "1h", "scope": "global"}})
        await ask(client, proxy)
        _, headers, _ = await ask(client, proxy)
        assert headers["x-sidecar-cache"] == "hit"
        assert headers["x-sidecar-cost-usd"] == "0"
        first, second = rows.ends()
        cost = 100 * 150 + 10 * 600
        assert (first[11], first[12]) == (cost, 0)
        assert (second[11], second[12]) == (0, cost)
        assert second[7] & record.CACHED


async def test_of_two_that_wait_for_one_answer_the_first_pays_and_the_other_saves(start, client):
    async with FakeUpstream(reply(chat_answer("Hi", usage=(100, 10)), delay=0.1)) as upstream:
        proxy, rows = await start(upstream, "account", {"cache": {"ttl": "1h", "scope": "global"}})
        await asyncio.gather(ask(client, proxy), ask(client, proxy))
        assert len(upstream.calls) == 1
        cost = 100 * 150 + 10 * 600
        assert sorted((end[11], end[12]) for end in rows.ends()) == [(0, cost), (cost, 0)]


# --- the begin stands before the request is sent -------------------------------------------------------


async def test_the_begin_stands_when_the_upstream_sees_the_call_also_below_a_cache(start, client):
    async with FakeUpstream(hang()) as upstream:
        proxy, rows = await start(upstream, "account", {"cache": {"ttl": "1h"}})
        waiting = asyncio.create_task(ask(client, proxy))
        await upstream.call()
        assert [line[0] for line in rows.lines()] == ["b"]
        waiting.cancel()
        await asyncio.wait([waiting])
        await until(lambda: len(rows.ends()) >= 1)


async def test_kill_9_below_a_cache_leaves_an_abandoned_row_with_its_estimate(tmp_path, setting):
    async with FakeUpstream(hang()) as upstream:
        config = tmp_path / "config.yaml"
        told = setting(
            upstream.url + "/v1",
            "account",
            {"cache": {"ttl": "1h"}},
            server={"port": 0},
            admin={"enabled": False},
            data=str(tmp_path),
            log={"level": "error", "access": False},
        )
        config.write_text(yaml.safe_dump(told))
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import asyncio,sys\nfrom proxy.app import App\nfrom proxy.load import load_config\n"
            "app = App(*load_config(sys.argv[1]))\n"
            "asyncio.run(app.run(lambda app: print(app.where[0], flush=True)))",
            str(config),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert child.stdout is not None
        url = (await asyncio.wait_for(child.stdout.readline(), 20)).decode().strip()
        async with aiohttp.ClientSession() as client:
            waiting = asyncio.create_task(client.post(url + "/v1/chat/completions", json=CHAT))
            await upstream.call()
            child.send_signal(signal.SIGKILL)
            await child.wait()
            await asyncio.wait([waiting])
            waiting.exception()
    journal = Journal(tmp_path / "journal")
    journal.open()
    assert journal.recovered == 1
    file = journal.directory.file(journal.number)
    end = read_lines(file.read_bytes(), "test")[-1]
    assert record.OUTCOMES[end[5]] == "abandoned"
    assert end[11] > 0
    await journal.close()


# --- what is paid by the piece ---------------------------------------------------------------------------

PICTURE = {"model": "my-pictures", "prompt": "A fox", "n": 2}
PIECES = {"prices": {"my-pictures": {"image": 0.04}, "my-speech": {"minute": 0.06}}}


async def test_pictures_are_counted_and_priced_apiece(start, client):
    answer = {"created": 1, "data": [{"b64_json": "aGk=" * 5_000}, {"url": "https://x/y.png"}]}
    async with FakeUpstream(reply(answer)) as upstream:
        proxy, rows = await start(upstream, **PIECES)
        _, headers, _ = await ask(client, proxy, PICTURE, "/v1/images/generations")
        await until(rows.ends)
        [end] = rows.ends()
        assert dict(zip(PACKED, end[14], strict=False))["images"] == 2
        assert not end[7] & (record.ESTIMATED | record.UNPRICED)
        assert end[11] == 80_000_000
        assert float(headers["x-sidecar-cost-usd"]) == pytest.approx(0.08)


async def test_tokens_of_a_model_of_pictures_are_tokens_of_pictures(start, client):
    usage = {"input_tokens": 50, "output_tokens": 4160, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}
    async with FakeUpstream(reply({"created": 1, "data": [{"b64_json": "aGk="}], "usage": usage})) as upstream:
        proxy, rows = await start(upstream)
        await ask(client, proxy, PICTURE | {"model": "gpt-image-1"}, "/v1/images/generations")
        await until(rows.ends)
        [end] = rows.ends()
        counts = dict(zip(PACKED, end[14], strict=False))
        assert (counts["input"], counts["image_input"], counts["image_output"]) == (50, 40, 4160)
        assert end[11] == 10 * 5_000 + 40 * 10_000 + 4160 * 40_000


@pytest.mark.parametrize(
    ("answer", "milliseconds"),
    [
        ({"text": "Hi", "usage": {"type": "duration", "seconds": 90}}, 90_000),
        ({"task": "transcribe", "duration": "8.47", "text": "Hi", "segments": []}, 8_470),
    ],
)
async def test_minutes_of_a_transcript_are_read_and_its_upload_is_never_held(start, client, answer, milliseconds):
    route = {"routes": [{"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main", "model": "my-speech"}]}
    async with FakeUpstream(reply(answer)) as upstream:
        proxy, rows = await start(upstream, **PIECES, **route)
        form = aiohttp.FormData({"model": "my-speech"})
        form.add_field("file", b"RIFF" * 10_000, filename="a.wav", content_type="audio/wav")
        async with client.post(f"{proxy.url}/v1/audio/transcriptions", data=form) as reply_:
            assert reply_.status == 200
        await until(rows.ends)
        [end] = rows.ends()
        assert dict(zip(PACKED, end[14], strict=False))["audio_ms"] == milliseconds
        assert end[11] == round(milliseconds / 60_000 * 60_000_000)
        assert not end[7] & record.ESTIMATED


async def test_tokens_of_a_transcript_are_told_apart(start, client):
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "input_token_details": {"audio_tokens": 14}}
    async with FakeUpstream(reply({"text": "Hi", "usage": usage})) as upstream:
        proxy, rows = await start(upstream)
        async with client.post(f"{proxy.url}/v1/audio/transcriptions", data=aiohttp.FormData({"file": "x"})) as answer:
            assert answer.status == 200
        await until(rows.ends)
        counts = dict(zip(PACKED, rows.ends()[0][14], strict=False))
        assert (counts["input"], counts["audio_input"], counts["output"]) == (14, 14, 45)


@pytest.mark.parametrize("chain", [["account"], ["account", "cache"]], ids=["alone", "above a cache"])
async def test_the_length_of_speech_is_estimated_from_its_bytes_and_marked(start, client, chain):
    async with FakeUpstream(reply(body=b"x" * 160_000, content_type="audio/mpeg")) as upstream:
        proxy, rows = await start(upstream, *chain, **PIECES)
        body = {"model": "my-speech", "input": "Hello", "voice": "alloy"}
        _, _, sound = await ask(client, proxy, body, "/v1/audio/speech")
        assert len(sound) == 160_000
        await until(rows.ends)
        [end] = rows.ends()
        counts = dict(zip(PACKED, end[14], strict=False))
        assert (counts["audio_ms"], counts["audio_output"]) == (10_000, 200)
        assert end[7] & record.ESTIMATED
        assert end[11] == 10_000_000


# --- refused for its body ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chain",
    [["account"], ["account", "validate"], ["account", {"budget": {"usd": 1}}], ["account", "cache"]],
    ids=["alone", "validated", "with a budget", "above a cache"],
)
@pytest.mark.parametrize("body", [b"", b"[]", b"{bad", b'{"a":1,"a":2}', b'{"n": 99999999999999999999999}'])
async def test_a_call_without_json_is_a_refused_row_and_no_error_of_ours(start, client, upstream, caplog, chain, body):
    proxy, rows = await start(upstream, *chain)
    headers = {"content-type": "application/json"}
    async with client.post(proxy.url + "/v1/chat/completions", data=body, headers=headers) as answer:
        assert answer.status == 400
        assert "x-sidecar-cost-usd" not in answer.headers
    await until(rows.ends)
    [end] = rows.ends()
    assert (end[5], end[6], end[10], end[11]) == (record.PLACES["refused"], 400, 0, 0)
    assert not [line for line in caplog.records if line.levelname in ("WARNING", "ERROR")]
    assert not upstream.calls


async def test_a_call_that_never_went_out_costs_nothing(start, client):
    async with FakeUpstream() as upstream:
        pass  # nobody listens there any more
    proxy, rows = await start(upstream)
    assert (await ask(client, proxy))[0] == 502
    await until(rows.ends)
    [end] = rows.ends()
    assert (end[5], end[10], end[11], end[14]) == (record.PLACES["failed"], 0, 0, [])
