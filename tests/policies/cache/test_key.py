"""Names of entries: tenants never share, nothing that changes the answer is left out, and they say nothing."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import ProxyError
from proxy.exchange import Principal, Target
from proxy.head import Head
from proxy.policies.cache.control import Control, parse
from proxy.policies.cache.entry import TAG
from proxy.policies.cache.key import Keyer
from proxy.testing import exchange_builder
from tests.test_head import HEAD, remembered

SECRET = b"s" * 32
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0.5}


def name(keyer: Keyer, body=BODY, digest="d", **options) -> bytes:
    exchange = exchange_builder(body, **options)
    return keyer.name(exchange, exchange.tree, digest)


text = st.text(max_size=12)
method = st.sampled_from(["none", "passthrough", "keys", "jwt"])
tenants = st.tuples(
    text, st.one_of(st.none(), text), method, st.one_of(st.none(), st.sampled_from(["Bearer a", "Bearer b"]))
)


def named_for(keyer: Keyer, tenant) -> bytes:
    who, project, how, credential = tenant
    headers = {} if credential is None else {"authorization": credential}
    return name(keyer, principal=Principal(who, method=how), project=project, headers=headers)


@settings(max_examples=300)
@given(tenants, tenants)
def test_principals_never_share(one, other):
    keyer = Keyer(SECRET, "principal")
    # Two whom nobody has told apart by name are told apart by their credentials.
    unnamed = {"none", "passthrough"}
    same = one[0] == other[0] and (one[3] if one[2] in unnamed else None) == (other[3] if other[2] in unnamed else None)
    assert (named_for(keyer, one) == named_for(keyer, other)) == same


@settings(max_examples=300)
@given(tenants, tenants)
def test_projects_never_share_and_a_claimed_one_is_shared_with_nobody(one, other):
    keyer = Keyer(SECRET, "project")
    settled = {"keys", "jwt"}
    shared = named_for(keyer, one) == named_for(keyer, other)
    if (one[1] or None) != (other[1] or None):
        assert not shared
    elif one[2] in settled and other[2] in settled:
        assert shared == (bool(one[1]) or one[0] == other[0])  # to have no project is nothing in common
    elif one[2] not in settled and other[2] not in settled:
        assert not shared or one[0] == other[0]
    else:
        assert not shared  # one proved its project, the other only says so


def test_everybody_shares_under_global_whatever_they_hold():
    keyer = Keyer(SECRET, "global")
    names = {
        named_for(keyer, ("a", "x", "keys", None)),
        named_for(keyer, ("b", "y", "none", "Bearer b")),
        named_for(keyer, ("c", None, "jwt", None)),
    }
    assert len(names) == 1


def test_scopes_do_not_meet():
    exchange = exchange_builder(BODY, principal=Principal("a", method="keys"), project="a")
    assert len({Keyer(SECRET, scope).name(exchange, BODY, "d") for scope in ("principal", "project", "global")}) == 3


def test_a_number_is_the_same_however_it_is_written():
    keyer = Keyer(SECRET, "global")
    assert name(keyer, body={**BODY, "temperature": 1.0}) == name(keyer, body={**BODY, "temperature": 1})
    assert name(keyer, body={**BODY, "temperature": 1.0}) != name(keyer, body={**BODY, "temperature": 1.5})
    assert name(keyer, body={**BODY, "seed": 1e300}) != name(keyer, body={**BODY, "seed": 1e301})
    assert name(keyer, body={**BODY, "n": True}) != name(keyer, body={**BODY, "n": 1})


VARIANTS = {
    "plain": {},
    "other text": {"body": {**BODY, "messages": [{"role": "user", "content": "hello"}]}},
    "other model": {"body": {**BODY, "model": "n"}},
    "other temperature": {"body": {**BODY, "temperature": 0.6}},
    "more fields": {"body": {**BODY, "top_k": 3}},
    "another path": {"path": "/v1/other"},
    "a query": {"path": "/v1/chat/completions?api-version=2"},
    "another upstream": {"target": Target("azure")},
    "a renamed model": {"target": Target("openai", "x")},
    "a beta": {"headers": {"OpenAI-Beta": "assistants=v2"}},
    "another beta": {"headers": {"anthropic-beta": "assistants=v2"}},
    "a version": {"headers": {"anthropic-version": "2023-06-01"}},
    "an organization": {"headers": {"openai-organization": "o"}},
    "a project header": {"headers": {"openai-project": "o"}},
    "a header to vary by": {"headers": {"X-Flavour": "mint"}},
    "other policies below": {"digest": "e"},
    "another dialect": {"dialect": "generic", "path": "/v1/chat/completions"},
}


def test_everything_that_changes_the_answer_changes_the_name():
    keyer = Keyer(SECRET, "global", ["x-flavour"])
    names = {label: name(keyer, **options) for label, options in VARIANTS.items()}
    assert [pair for pair in combinations(names, 2) if names[pair[0]] == names[pair[1]]] == []


@pytest.mark.parametrize("more", [
    {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}, {"user": "u"},
    {"metadata": {"a": "b"}},
])  # fmt: skip
def test_how_it_travels_and_who_asks_does_not(more):
    keyer = Keyer(SECRET, "global")
    assert name(keyer) == name(keyer, body={**BODY, **more})


def test_an_upstream_that_leads_elsewhere_has_other_answers():
    names = {
        name(Keyer(SECRET, "global", addresses={"openai": address}))
        for address in ("https://one.example/v1", "https://two.example/v1", None)
    }
    assert len(names) == 3


def test_the_order_of_fields_does_not():
    keyer = Keyer(SECRET, "global")
    assert name(keyer) == name(keyer, body=dict(reversed(BODY.items())))


def test_an_alias_and_its_target_share():
    keyer = Keyer(SECRET, "global")
    by_alias = name(keyer, body={**BODY, "model": "fast"}, target=Target("openai", "m"))
    assert by_alias == name(keyer, target=Target("openai", "m"))


def test_an_edited_header_counts_as_it_is_sent():
    keyer = Keyer(SECRET, "global")
    exchange = exchange_builder(BODY, headers={"OpenAI-Beta": "a"})
    exchange.request.set_header("openai-beta", "b")
    assert keyer.name(exchange, BODY, "d") == name(keyer, headers={"openai-beta": "b"})
    exchange.request.remove_header("openai-beta")
    assert keyer.name(exchange, BODY, "d") == name(keyer)


def again(head: Head, tenant, length: int, **options):
    """An exchange of a call whose head came before, but for the length of its body."""
    who, project, how, _ = tenant
    exchange = exchange_builder(BODY, principal=Principal(who, method=how), project=project, **options)
    request = exchange.request
    request.head = head.with_length(length)
    request.raw_headers = request.head.raw_headers
    return exchange


@settings(max_examples=200)
@given(st.lists(st.tuples(tenants, st.integers(1, 50), st.sampled_from(["a", "b"])), min_size=2, max_size=5),
       st.sampled_from(["principal", "project", "global"]), st.sampled_from([(), ("content-length",), ("x-odd",)]))  # fmt: skip
def test_a_head_that_comes_again_gives_the_same_names(calls, scope, vary):
    """Whoever asks with it: what was worked out for one call is not taken for another's."""
    repeat = remembered(HEAD % b"5" + b"12345")
    assert repeat is not None
    keyer = Keyer(SECRET, scope, vary)
    for tenant, length, digest in calls:
        exchange = again(repeat.head, tenant, length)
        named = keyer.name(exchange, exchange.tree, digest)
        repeat.head.framed = exchange.request.head.framed
        assert (repeat.head.framed is None) is ("content-length" in vary)
        exchange.request.head = None
        assert (
            named
            == keyer.name(exchange, exchange.tree, digest)
            == Keyer(SECRET, scope, vary).name(exchange, exchange.tree, digest)
        )


def test_an_edited_header_is_not_taken_for_the_one_that_came():
    repeat = remembered(HEAD % b"5" + b"12345")
    assert repeat is not None
    keyer = Keyer(SECRET, "global", ["x-odd"])
    exchange = again(repeat.head, ("w", None, "keys", None), 5)
    before = keyer.name(exchange, exchange.tree, "d")
    exchange.request.set_header("x-odd", "other")
    assert keyer.name(exchange, exchange.tree, "d") != before


def test_a_name_says_nothing_without_the_secret():
    assert name(Keyer(SECRET, "global")) != name(Keyer(b"t" * 32, "global"))


def test_tags_name_models_project_and_tags():
    keyer = Keyer(SECRET, "global")
    exchange = exchange_builder(BODY, project="red", tags={"team": "a"}, target=Target("openai", "x"))
    joined = keyer.tags(exchange)
    assert {joined[at : at + TAG] for at in range(0, len(joined), TAG)} == {
        keyer.tag("model", "m"), keyer.tag("model", "x"), keyer.tag("project", "red"), keyer.tag("tag", "team=a"),
    }  # fmt: skip


@pytest.mark.parametrize(("header", "control"), [
    (None, Control()),
    ("no-cache", Control(fetch=True)),
    ("No-Store , max-age=5", Control(keep=False, max_age=5.0)),
    ("max-age=0", Control(fetch=True, max_age=0.0)),
    ("only-if-cached", Control(only_cached=True)),
    ("", Control()),
])  # fmt: skip
def test_a_client_controls_its_call(header, control):
    assert parse(header) == control


@pytest.mark.parametrize("header", ["no-chache", "max-age", "max-age=-1", "max-age=x", "max-age=1.5"])
def test_a_word_that_is_not_known_is_refused(header):
    with pytest.raises(ProxyError, match="x-sidecar-cache"):
        parse(header)
