"""Names of entries: tenants never share, nothing that changes the answer is left out, and they say nothing."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import ProxyError
from proxy.exchange import Principal, Target
from proxy.policies.cache.control import Control, parse
from proxy.policies.cache.key import Keyer
from proxy.testing import exchange_builder

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
    same = one[0] == other[0] and (one[3] if one[2] == "none" else None) == (other[3] if other[2] == "none" else None)
    assert (named_for(keyer, one) == named_for(keyer, other)) == same


@settings(max_examples=300)
@given(tenants, tenants)
def test_projects_never_share_and_a_claimed_one_is_shared_with_nobody(one, other):
    keyer = Keyer(SECRET, "project")
    settled = {"keys", "jwt"}
    shared = named_for(keyer, one) == named_for(keyer, other)
    if one[1] != other[1]:
        assert not shared
    elif one[2] in settled and other[2] in settled:
        assert shared
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


def test_a_name_says_nothing_without_the_secret():
    assert name(Keyer(SECRET, "global")) != name(Keyer(b"t" * 32, "global"))


def test_tags_name_models_project_and_tags():
    keyer = Keyer(SECRET, "global")
    exchange = exchange_builder(BODY, project="red", tags={"team": "a"}, target=Target("openai", "x"))
    assert set(keyer.tags(exchange)) == {
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
