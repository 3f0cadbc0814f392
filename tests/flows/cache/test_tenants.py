"""Whoever may not share does not: scopes, credentials, policies, invalidation."""

from __future__ import annotations

import hashlib
import sys

import pytest

from proxy.exchange import Target
from proxy.policy import Policy
from proxy.testing import FakeUpstream, chat_answer, reply


def key(name: str, **more):
    return {"id": name, "sha256": hashlib.sha256(f"sk-{name}".encode()).hexdigest(), "principal": name, **more}


def auth(*keys):
    return [{"authenticate": {"method": "keys", "keys": list(keys)}}]


def who(name: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{name}", **more}


async def test_principals_do_not_share_by_default(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=auth(key("ann"), key("bob")))
        assert [(await caller.say(headers=who(name))).cache for name in ("ann", "bob", "ann", "bob")] == [
            "miss", "miss", "hit", "hit",
        ]  # fmt: skip


async def test_a_project_shares_when_told_to(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        keys = [key("ann", project="x"), key("bob", project="x"), key("eve", project="y")]
        caller = await cached(upstream, above=auth(*keys), scope="project")
        assert [(await caller.say(headers=who(name))).cache for name in ("ann", "bob", "eve")] == [
            "miss",
            "hit",
            "miss",
        ]


async def test_callers_without_a_project_have_none_in_common(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=auth(key("ann"), key("bob"), key("eve", project="x")), scope="project")
        got = [(await caller.say(headers=who(name))).cache for name in ("ann", "bob", "eve", "ann", "bob", "eve")]
        assert got == ["miss"] * 3 + ["hit"] * 3


async def test_everybody_shares_when_told_to(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=auth(key("ann"), key("bob")), scope="global")
        assert [(await caller.say(headers=who(name))).cache for name in ("ann", "bob")] == ["miss", "hit"]


@pytest.mark.parametrize("scope", ["principal", "project"])
async def test_without_authenticate_the_credential_is_the_tenant(cached, scope):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, scope=scope)
        same = {"x-sidecar-project": "x"}
        got = [(await caller.say(headers=who(name, **same))).cache for name in ("ann", "bob", "ann")]
        assert got == ["miss", "miss", "hit"]


async def test_a_claimed_project_opens_nobody_elses_entries(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=[{"authenticate": {"method": "passthrough"}}], scope="project")
        got = [(await caller.say(headers=who(name, **{"x-sidecar-project": "x"}))).cache for name in ("ann", "bob")]
        assert got == ["miss", "miss"]


@pytest.mark.parametrize(
    ("ann", "bob"),
    [
        ({"authorization": "sk-ann"}, {"authorization": "sk-bob"}),
        ({"authorization": "Basic ann"}, {"authorization": "Basic bob"}),
        ({"authorization": "Bearer one", "x-api-key": "ann"}, {"authorization": "Bearer one", "x-api-key": "bob"}),
        ({"authorization": "Bearer one", "api-key": "ann"}, {"authorization": "Bearer one", "api-key": "bob"}),
        ({"x-api-key": "ann"}, {"x-api-key": "bob"}),
    ],
)
async def test_whatever_credential_goes_up_is_the_tenant(cached, ann, bob):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=["account", {"authenticate": {"method": "passthrough"}}])
        assert [(await caller.say(headers=one)).cache for one in (ann, bob, ann)] == ["miss", "miss", "hit"]
        await caller.until(lambda: len(caller.proxy.exchanges) == 3)
        first, second, third = [exchange.principal.id for exchange in caller.proxy.exchanges]
        assert first == third != second


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key"])
async def test_answers_vary_by_a_credential_when_told_to(cached, name):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=auth(key("ann"), key("bob")), scope="global", vary=[name])
        got = [(await caller.say(headers={name: f"Bearer sk-{one}" if name != "X-Api-Key" else f"sk-{one}"})).cache
               for one in ("ann", "bob", "ann")]  # fmt: skip
        assert got == ["miss", "miss", "hit"]


@pytest.mark.parametrize("scope", ["principal", "global"])
@pytest.mark.parametrize("entry", [{"mode": "observe"}, {"when": {"model": "other"}}])
async def test_what_was_not_masked_is_kept_for_its_own_caller_only(cached, scope, entry):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=[{"pii": {"entities": ["EMAIL"], **entry}}], scope=scope)
        got = [(await caller.say("I am ann@example.com")).cache for _ in range(2)]
        assert got == (["miss", "hit"] if scope == "principal" else ["bypass", "bypass"])


async def test_a_masked_value_is_no_part_of_the_question_and_each_gets_its_own_back(cached):
    async def echo(call):
        await reply(chat_answer("You are " + call.json["messages"][0]["content"]))(call)

    async with FakeUpstream(default=echo) as upstream:
        caller = await cached(upstream, above=[{"pii": {"entities": ["EMAIL"], "action": "mask", "restore": True}}])
        ann, bob = await caller.say("ann@example.com"), await caller.say("bob@example.com")
        assert (ann.cache, bob.cache) == ("miss", "hit")
        assert (ann.content, bob.content) == ("You are ann@example.com", "You are bob@example.com")
        streamed = await caller.say("eve@example.com", stream=True)
        assert streamed.cache == "hit"
        assert "eve@example.com" in streamed.text
        assert b"@example.com" not in upstream.calls[0].body
        for shard in caller.cache.shelf.store.lru.scan():
            assert all(b"@example.com" not in data for _, data in shard)


async def test_entries_are_cleared_by_model_project_tag_and_key(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        calls = [
            {"model": "gpt-4o"},
            {"model": "other"},
            {"headers": {"x-sidecar-project": "red"}},
            {"headers": {"x-sidecar-tags": "team=a"}},
        ]
        for number, call in enumerate(calls):
            await caller.say(f"question {number}", **call)
        cache = caller.cache
        assert cache.stats()["entries"] == 4
        assert await cache.clear(model="other") == 1
        assert await cache.clear(model="other") == 0
        assert await cache.clear(model="gpt-4o", project="red") == 1
        assert await cache.clear(project="blue") == 0
        assert await cache.clear(tags={"team": "a"}) == 1
        [name] = [name for shard in cache.shelf.store.lru.scan() for name, _ in shard]
        assert await cache.clear(key_prefix=("0" if name.hex()[0] != "0" else "1")) == 0
        assert await cache.clear(key_prefix=name.hex()[:6]) == 1
        await caller.say("again")
        assert await cache.clear() == 1
        assert (await caller.say("again")).cache == "miss"


async def test_a_model_is_cleared_by_any_name_that_leads_to_it(cached):
    more = {
        "models": {"quick": {"model": "gpt-4o"}},
        "routes": [
            {"match": {"model": "fast"}, "upstream": "up", "chain": "main", "model": "gpt-4o"},
            {"match": {"path": "/v1/*"}, "upstream": "up", "chain": "main"},
        ],
    }
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, more=more)
        for alias in ("fast", "quick"):
            assert (await caller.say(model="gpt-4o")).cache == "miss"
            assert (await caller.say(model=alias)).cache == "hit"
            assert await caller.cache.clear(model="other") == 0
            assert await caller.cache.clear(model=alias) == 1
            assert (await caller.say(model=alias)).cache == "miss"
            await caller.cache.clear()


async def test_a_call_with_more_tags_than_an_entry_has_room_for_is_not_stored(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        for count, kept in ((37, 1), (38, 0)):
            tags = ",".join(f"t{number}=v" for number in range(count))
            await caller.say(f"with {count}", headers={"x-sidecar-tags": tags})
            assert await caller.cache.clear(tags={f"t{count - 1}": "v"}) == kept
            assert caller.cache.stats()["entries"] == 0


async def test_a_call_that_is_debugged_notes_the_key_of_its_entry(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=["account"])
        await caller.say(headers={"x-sidecar-debug": "1"})
        await caller.until(lambda: len(caller.proxy.exchanges) == 1)
        [(policy, said)] = caller.proxy.exchanges[0].notes
        assert policy == "cache"
        assert await caller.cache.clear(key_prefix=said.rpartition(" ")[2]) == 1


async def test_an_answer_under_way_while_the_cache_is_cleared_is_given_and_not_stored(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"), delay=0.05)) as upstream:
        caller = await cached(upstream)
        import asyncio

        asking = asyncio.ensure_future(caller.say())
        await upstream.call(0)
        await caller.cache.clear()
        assert (await asking).content == "Hi"
        assert caller.cache.stats()["entries"] == 0


async def test_clears_and_calls_at_once_leave_a_store_that_adds_up(cached):
    import asyncio

    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, max_bytes="64KiB")

        async def ask(number: int) -> None:
            assert (await caller.say(f"question {number % 40}")).status == 200

        async def clear(number: int) -> None:
            await caller.cache.clear(**({} if number % 3 else {"model": "gpt-4o"}))

        await asyncio.gather(*(clear(n) if n % 10 == 0 else ask(n) for n in range(300)))
        lru = caller.cache.shelf.store.lru
        entries = [pair for shard in lru.scan() for pair in shard]
        assert lru.entries == len(entries)
        await caller.cache.clear()
        assert (lru.entries, lru.bytes) == (0, 0)


async def test_the_store_is_bounded_by_bytes(cached):
    async with FakeUpstream(default=reply(chat_answer("x" * 1000))) as upstream:
        caller = await cached(upstream, max_bytes="20KiB")
        for number in range(40):
            await caller.say(f"question {number}")
        stats = caller.cache.stats()
        assert stats["bytes"] <= 20 * 1024
        assert stats["evicted"] > 20
        assert (await caller.say("question 39")).cache == "hit"
        assert (await caller.say("question 0")).cache == "miss"


async def test_an_entry_that_cannot_be_read_is_a_miss_and_goes(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream)
        await caller.say()
        cache = caller.cache
        [(name, data)] = [pair for shard in cache.shelf.store.lru.scan() for pair in shard]
        for damage in (b"", b"\xce", data[8:40], b"\x00" * 50, data[8:-20]):
            cache.shelf.store.lru.put(name, damage, 100)
            got = await caller.say(stream=damage == data[8:-20])
            assert got.status == 200
            assert got.cache == "miss"
        assert cache.stats()["damaged"] == 5


VARIANTS = [
    who("ann"),
    who("bob"),
    who("ann", **{"openai-beta": "a"}),
    who("ann", **{"openai-organization": "o"}),
    who("ann", **{"x-flavour": "mint"}),
    who("ann", **{"x-sidecar-tags": "team=b"}),  # a tag changes nothing
]


@pytest.mark.parametrize("above", [["validate"], ["validate", {"pii": {"entities": ["EMAIL"]}}]])
async def test_bytes_that_came_before_are_named_anew_for_everybody_else(cached, above):
    """A chain remembers bodies (``proxy.seen``); what is remembered of one caller's call is not taken for another's,
    in any order, on any connection."""
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=above, vary=["x-flavour"])
        for expected in ("miss", "hit", "hit"):
            for place, headers in enumerate(VARIANTS):
                same_as_first = place == len(VARIANTS) - 1
                assert (await caller.say(headers=headers)).cache == ("hit" if same_as_first else expected), headers
        assert len(upstream.calls) == len(VARIANTS) - 1


async def test_bytes_that_came_before_are_not_cached_where_they_were_not(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=["validate"], max_temperature=0.5)
        assert [(await caller.say(temperature=0.9)).cache for _ in range(3)] == ["bypass"] * 3
        assert [(await caller.say(temperature=0.5)).cache for _ in range(3)] == ["miss", "hit", "hit"]


async def test_bytes_that_came_before_are_served_in_every_form_and_cleared(cached):
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=["validate"])
        said = [
            (await caller.say()).cache,
            (await caller.say(stream=True)).cache,
            (await caller.say(stream=True)).cache,
        ]
        assert said == ["miss", "hit", "hit"]
        await caller.cache.clear()
        assert [(await caller.say(stream=True)).cache, (await caller.say()).cache] == ["miss", "hit"]
        assert [(await caller.say(headers={"x-sidecar-cache": word})).cache for word in ("no-cache", "no-store")] == [
            "miss", "hit",
        ]  # fmt: skip


class Chooser(Policy):
    """Stands above the cache and sends a call to another model, without a word in its body."""

    name = "chooser"

    def on_request(self, exchange):
        if exchange.tags.get("size") == "large":
            exchange.target = Target(exchange.target.upstream, "larger")


async def test_bytes_that_came_before_may_be_asked_of_another_model(cached, monkeypatch):
    monkeypatch.setitem(sys.modules, "tenant_policies", sys.modules[__name__])
    async with FakeUpstream(default=reply(chat_answer("Hi"))) as upstream:
        caller = await cached(upstream, above=["validate", "tenant_policies:Chooser"])
        large = {"x-sidecar-tags": "size=large"}
        for expected in ("miss", "hit"):
            assert [(await caller.say(headers=headers)).cache for headers in (None, large)] == [expected] * 2
        assert [call.json["model"] for call in upstream.calls] == ["gpt-4o", "larger"]
