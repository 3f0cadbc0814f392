"""Bodies that came before: nothing is looked at twice for nothing, and nothing passes unseen."""

from __future__ import annotations

import gc
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.chain import Chain, Step
from proxy.errors import ProxyError
from proxy.exchange import Exchange, Target
from proxy.policies.pii.policy import Pii
from proxy.policies.validate import Validate
from proxy.policy import Policy
from proxy.seen import LARGEST, SeenBodies
from proxy.testing import FakeUpstream, RunningProxy, called, chat_answer, exchange_builder, policy_builder, reply

HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


class Split(Policy):
    """Stands where a cache would."""

    name = "split"
    splits = True


class Judge(Policy):
    """Counts how often it looked."""

    name = "judge"
    body_alone = True
    looked = 0

    def on_request(self, exchange: Exchange) -> None:
        assert exchange.tree is not None
        self.looked += 1
        exchange.seen_through(self)


def chain_of(*policies: Policy, split: bool = True) -> Chain:
    every = [*policies, policy_builder(Split)] if split else list(policies)
    return Chain("made", [Step(policy, closed=True) for policy in every])


async def run(chain: Chain, *exchanges: Exchange) -> None:
    """Calls whose answers a cache finds."""
    for exchange in exchanges:
        await called(chain.down(exchange))
        chain.came_again(exchange)


def look(bodies: SeenBodies, exchange: Exchange) -> Any:
    """What is known of a call's body; its answer is found."""
    seen = bodies.of(exchange)
    if seen is None:
        bodies.came_again(exchange)
    return seen


async def test_the_same_bytes_are_judged_no_more_when_they_come_for_the_third_time():
    judge = policy_builder(Judge)
    await run(chain_of(judge), *(exchange_builder(HELLO) for _ in range(5)))
    assert judge.looked == 2


@pytest.mark.parametrize(
    "other",
    [
        exchange_builder({**HELLO, "model": "n"}),
        exchange_builder(orjson.dumps(HELLO) + b" "),
        exchange_builder(HELLO, path="/v1/other"),
        exchange_builder(HELLO, method="PUT"),
        exchange_builder(HELLO, target=Target("openai", "renamed")),
    ],
    ids=["body", "white space", "path", "method", "model of the target"],
)
async def test_another_call_is_judged_anew(other):
    judge = policy_builder(Judge)
    await run(chain_of(judge), exchange_builder(HELLO), exchange_builder(HELLO), other)
    assert judge.looked == 3


async def test_another_chain_judges_anew():
    judge = policy_builder(Judge)
    await run(chain_of(judge), exchange_builder(HELLO), exchange_builder(HELLO))
    await run(chain_of(judge), exchange_builder(HELLO))
    assert judge.looked == 3


async def test_without_a_cache_nothing_is_remembered():
    judge = policy_builder(Judge)
    exchange = exchange_builder(HELLO)
    await run(chain_of(judge, split=False), exchange, exchange_builder(HELLO), exchange_builder(HELLO))
    assert judge.looked == 3
    assert exchange.seen is None


async def test_what_was_edited_above_is_judged_each_time():
    class Edits(Policy):
        name = "edits"

        def on_request(self, exchange: Exchange) -> None:
            assert exchange.tree is not None
            assert exchange.body is not None
            exchange.tree["user"] = "x"
            exchange.body.touch()

    judge = policy_builder(Judge)
    await run(chain_of(policy_builder(Edits), judge), *(exchange_builder(HELLO) for _ in range(4)))
    assert judge.looked == 4


async def test_a_policy_that_looks_at_more_than_the_body_is_always_called():
    looked: list[str] = []

    class Counts(Policy):
        name = "counts"

        def on_request(self, exchange: Exchange) -> None:
            looked.append(exchange.id)

    chain = chain_of(policy_builder(Judge), policy_builder(Counts))
    await run(chain, *(exchange_builder(HELLO, id=name) for name in "abcd"))
    assert looked == ["a", "b", "c", "d"]


async def test_a_refused_body_is_refused_again():
    chain = chain_of(policy_builder(Validate))
    for _ in range(4):
        with pytest.raises(ProxyError, match="model"):
            await run(chain, exchange_builder({"messages": []}))
        with pytest.raises(ProxyError, match="twice"):
            await run(chain, exchange_builder(b'{"model": "m", "model": "n"}'))


async def test_personal_data_is_masked_each_time_it_comes():
    body = {"model": "m", "messages": [{"role": "user", "content": "I am at jane@example.org"}]}
    chain = chain_of(policy_builder(Validate), policy_builder(Pii, {"entities": ["EMAIL"], "allow": []}))
    for _ in range(4):
        exchange = exchange_builder(body)
        await run(chain, exchange)
        assert exchange.tree is not None
        assert exchange.tree["messages"][0]["content"] == "I am at <EMAIL_1>"


async def test_content_that_cannot_be_searched_is_counted_each_time():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [image]}]}
    chain = chain_of(policy_builder(Pii, {"entities": "all"}))
    for _ in range(4):
        exchange = exchange_builder(body)
        await run(chain, exchange)
        assert exchange.findings


async def test_model_stream_and_estimate_are_known_without_reading_the_body_again():
    chain = chain_of(policy_builder(Judge))
    for _ in range(2):
        before = exchange_builder({**HELLO, "stream": True})
        await run(chain, before)
        estimate = before.input_estimate()
        assert before.streaming
    again = exchange_builder({**HELLO, "stream": True})
    await run(chain, again)
    assert (again.model_asked, again.streaming, again.input_estimate()) == ("m", True, estimate)
    assert again.body is not None
    assert not again.body.was_read


async def test_a_body_whose_answer_is_not_found_is_not_remembered():
    bodies = SeenBodies()
    assert [bodies.of(exchange_builder(HELLO)) for _ in range(3)] == [None] * 3
    assert len(bodies) == 0


async def test_the_number_of_bodies_is_bounded_and_the_oldest_goes():
    bodies = SeenBodies(most=4)
    for number in range(9):
        first, again = (look(bodies, exchange_builder({**HELLO, "n": number})) for _ in range(2))
        assert first is None
        assert again is not None
        assert len(bodies) <= 4
    assert look(bodies, exchange_builder({**HELLO, "n": 8})) is again
    assert bodies.of(exchange_builder({**HELLO, "n": 0})) is None


async def test_what_comes_again_and_again_is_not_forgotten():
    bodies = SeenBodies(most=4)
    look(bodies, exchange_builder(HELLO))
    popular = look(bodies, exchange_builder(HELLO))
    assert popular is not None
    for number in range(20):
        for _ in range(2):
            look(bodies, exchange_builder({**HELLO, "n": number}))
        assert look(bodies, exchange_builder(HELLO)) is popular


async def test_a_large_body_is_not_remembered():
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * LARGEST}]}
    bodies = SeenBodies()
    assert [look(bodies, exchange_builder(body)) for _ in range(3)] == [None] * 3
    assert len(bodies) == 0


async def test_nothing_of_a_body_is_kept():
    bodies = SeenBodies()
    for _ in range(3):
        exchange = exchange_builder({"model": "m", "messages": [{"role": "user", "content": "walrus in moonlight"}]})
        exchange.seen = look(bodies, exchange)
        exchange.input_estimate()
        assert exchange.streaming is False
        del exchange
    left, kept = [bodies], []
    while left:
        one = left.pop()
        if any(one is other for other in kept) or isinstance(one, type):
            continue
        kept.append(one)
        left += gc.get_referents(one)
    assert not [one for one in kept if isinstance(one, str | bytes) and "walrus" in str(one)]


texts = st.lists(
    st.sampled_from(["Hello", "I am jane@example.org", "call +49 30 901820 now", "<EMAIL_1>", "4111 1111 1111 1111"]),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4).map(lambda calls: calls * 4))
async def test_what_is_sent_is_the_same_with_and_without_a_memory(calls: list[list[str]]) -> None:
    def made(split: bool) -> Chain:
        return chain_of(policy_builder(Validate), policy_builder(Pii, {"entities": "all"}), split=split)

    remembers, forgets = made(split=True), made(split=False)
    for call in calls:
        body = {"model": "m", "messages": [{"role": "user", "content": text} for text in call]}
        one, two = exchange_builder(body), exchange_builder(body)
        await run(remembers, one)
        await run(forgets, two)
        assert one.body is not None
        assert two.body is not None
        assert one.body.encode() == two.body.encode()
        assert one.findings == two.findings


async def test_a_whole_proxy_masks_a_repeated_call_that_misses_the_cache() -> None:
    config: dict[str, Any] = {
        "chains": {"main": ["validate", {"pii": {"entities": ["EMAIL"]}}, "cache"]},
        "routes": [{"upstream": "up", "chain": "main"}],
    }
    body = {"model": "m", "messages": [{"role": "user", "content": "I am jane@example.org"}]}
    async with (
        FakeUpstream(*[reply(chat_answer("Hello <EMAIL_1>"))] * 4) as upstream,
        RunningProxy(config | {"upstreams": {"up": {"api": "openai", "base_url": upstream.url}}}) as proxy,
        aiohttp.ClientSession() as client,
    ):
        for _ in range(4):
            headers = {"x-sidecar-cache": "no-cache, no-store"}
            async with client.post(f"{proxy.url}/chat/completions", json=body, headers=headers) as answer:
                said: dict[str, Any] = await answer.json()
            assert said["choices"][0]["message"]["content"] == "Hello jane@example.org"
        assert len(upstream.calls) == 4
        assert not [call for call in upstream.calls if b"jane" in call.body]


async def test_a_call_that_comes_again_and_again_is_answered_from_the_cache_whatever_else_differs() -> None:
    config: dict[str, Any] = {
        "chains": {"main": ["validate", {"pii": {"entities": ["EMAIL"]}}, {"cache": {"scope": "project"}}]},
        "routes": [{"upstream": "up", "chain": "main"}],
    }
    async with (
        FakeUpstream(*[reply(chat_answer(f"answer {number}")) for number in range(3)]) as upstream,
        RunningProxy(config | {"upstreams": {"up": {"api": "openai", "base_url": upstream.url}}}) as proxy,
        aiohttp.ClientSession() as client,
    ):
        said: list[tuple[str, str]] = []
        for project in "aabbabab":
            for body in (HELLO, HELLO | {"stream": False}):
                headers = {"x-sidecar-project": project}
                async with client.post(f"{proxy.url}/chat/completions", json=body, headers=headers) as answer:
                    assert answer.status == 200
                    content = (await answer.json())["choices"][0]["message"]["content"]
                    said.append((project, content))
        assert set(said) == {("a", "answer 0"), ("b", "answer 1")}
        assert len(upstream.calls) == 2
