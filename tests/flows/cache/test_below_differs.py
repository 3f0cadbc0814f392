"""What stands below the cache and acts on some calls only: who is treated differently has answers of his own."""

from __future__ import annotations

import orjson
import pytest

from proxy.testing import FakeUpstream, chat_answer, reply
from tests.flows.cache.test_tenants import auth, key, who

SECRET = "Secret of the lab: 42."


async def echo(call):
    """Answers with the messages and the organization as they were sent up."""
    said = [call.json["messages"], call.header("openai-organization")]
    await reply(chat_answer(orjson.dumps(said).decode()))(call)


@pytest.mark.parametrize(
    "below",
    [
        [{"defaults": {"rules": [{"when": {"principal": "ann"}, "system": SECRET}]}}],
        [{"defaults": {"rules": [{"when": {"not": {"principal": "bob"}}, "system": SECRET}]}}],
        [{"defaults": {"rules": [{"when": {"tags": {"team": "lab"}}, "system": SECRET}]}}],
        [{"defaults": {"when": {"principal": "ann"}, "rules": [{"system": SECRET}]}}],
        [
            {"classify": {"rules": [{"when": {"headers": {"x-lab": "yes"}}, "tags": {"area": "lab"}}]}},
            {"defaults": {"rules": [{"when": {"tags": {"area": "lab"}}, "system": SECRET}]}},
        ],
        [{"headers": {"when": {"principal": "ann"}, "set": {"openai-organization": SECRET}}}],
    ],
    ids=["a rule", "a rule turned around", "a rule by tag", "an entry", "a tag given below", "a header"],
)
async def test_a_condition_that_holds_for_one_caller_keeps_the_others_apart(cached, below):
    async with FakeUpstream(default=echo) as upstream:
        caller = await cached(upstream, above=auth(key("ann"), key("bob"), key("eve")), below=below, scope="global")
        ann = await caller.say(headers=who("ann", **{"x-sidecar-tags": "team=lab", "x-lab": "yes"}))
        bob, eve = [await caller.say(headers=who(name)) for name in ("bob", "eve")]
        assert SECRET in ann.content
        assert bob.cache == "miss"
        assert SECRET not in bob.content
        if "not" not in str(below):
            assert (eve.cache, eve.content) == ("hit", bob.content)


@pytest.mark.parametrize("place", ["below", "upstream"])
async def test_another_organization_has_other_answers(cached, redis, place):
    async with FakeUpstream(default=echo) as upstream:
        got = []
        for name in ("a", "b"):
            header = {"openai-organization": name}
            of_upstream = {"up": {"api": "openai", "base_url": upstream.url, "headers": header}}
            caller = await cached(
                upstream,
                store="redis",
                redis=redis.url,
                below=[{"headers": {"set": header}}] if place == "below" else [],
                more={"upstreams": of_upstream} if place == "upstream" else {},
            )
            got.append(orjson.loads((await caller.say()).content)[1])
            await caller.until(lambda at=caller: not at.cache.shelf.store._pending)
        assert got == ["a", "b"]


async def test_what_a_response_says_of_who_asked_is_given_to_nobody_else(cached):
    async def answer(call):
        text = {"type": "output_text", "text": "hi", "annotations": []}
        item = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [text]}
        told = {name: call.json.get(name) for name in ("metadata", "user")}
        await reply(
            {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m",
             "output": [item], **told}
        )(call)  # fmt: skip

    async with FakeUpstream(default=answer) as upstream:
        caller = await cached(upstream, above=auth(key("ann"), key("bob")), scope="global")
        ask = {"model": "m", "input": "q"}
        ann = {"metadata": {"patient": "Ann"}, "user": "ann@example.com"}
        await caller.post("/responses", {**ask, **ann}, who("ann"))
        bob = await caller.post("/responses", {**ask, "metadata": {}, "user": "bob"}, who("bob"))
        assert (bob.json["metadata"], bob.json["user"]) == ({}, "bob")
        assert (await caller.post("/responses", {**ask, **ann}, who("bob"))).cache == "hit"
