"""``defaults`` through the policy interface."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from proxy.dialects.base import Dialect
from proxy.exchange import Exchange, Target
from proxy.policies.defaults import Defaults
from proxy.testing import called, exchange_builder, policy_builder


class Chat(Dialect):
    """As much of the chat dialect as the policy uses."""

    name = "openai_chat"

    def model(self, body: Any) -> str | None:
        return body.get("model")  # type: ignore[no-any-return]

    def wants_stream(self, body: Any) -> bool:
        return False

    def add_system(self, body: Any, text: str) -> None:
        body["messages"].insert(0, {"role": "system", "content": text})


MESSAGES = [{"role": "user", "content": "hi"}]


def asking(more: dict[str, Any] | None = None, **context: Any) -> Exchange:
    return exchange_builder({"model": "gpt-4o-mini", "messages": MESSAGES, **(more or {})}, dialect=Chat(), **context)


async def after(rules: list[dict[str, Any]], more: dict[str, Any] | None = None, **context: Any) -> Exchange:
    exchange = asking(more, **context)
    assert await called(policy_builder(Defaults, {"rules": rules}).on_request(exchange)) is None
    return exchange


def tree(exchange: Exchange) -> dict[str, Any]:
    assert exchange.tree is not None
    return {key: value for key, value in exchange.tree.items() if key not in ("model", "messages")}


def edited(exchange: Exchange) -> bool:
    assert exchange.body is not None
    return exchange.body.edited


@pytest.mark.parametrize(
    ("sent", "left"),
    [({}, 0.5), ({"temperature": None}, 0.5), ({"temperature": 0}, 0), ({"temperature": 1}, 1)],
)
async def test_a_default_fills_only_what_is_left_out(sent: dict[str, Any], left: float) -> None:
    exchange = await after([{"default": {"temperature": 0.5}}], sent)
    assert tree(exchange) == {"temperature": left}


@pytest.mark.parametrize("sent", [{}, {"temperature": None}, {"temperature": 1.5}, {"temperature": "hot"}])
async def test_set_wins_over_the_call(sent: dict[str, Any]) -> None:
    exchange = await after([{"set": {"temperature": 0.5}}], sent)
    assert tree(exchange) == {"temperature": 0.5}
    assert edited(exchange)


async def test_set_to_null_removes() -> None:
    exchange = await after([{"set": {"user": None, "seed": None, "metadata.team": None}}], {"user": "bob"})
    assert tree(exchange) == {}
    assert edited(exchange)


async def test_dots_lead_into_objects() -> None:
    exchange = await after(
        [{"set": {"reasoning.effort": "low"}, "default": {"stream_options.include_usage": True}}],
        {"reasoning": {"summary": "auto"}},
    )
    assert tree(exchange) == {
        "reasoning": {"summary": "auto", "effort": "low"},
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("clamp", "sent", "left"),
    [
        ([0, 1], 1.5, 1),
        ([0, 1], -1, 0),
        ([0, 1], 0.5, 0.5),
        ({"max": 1}, 7, 1),
        ({"max": 1}, -7, -7),
        ({"min": 0.5}, 0, 0.5),
        ([None, 1], 2, 1),
        (1, 1.5, 1),
        (1, -1, -1),
        ([0, 1], None, None),
        ([0, 1], "hot", "hot"),
        ([0, 1], True, True),
    ],
)
async def test_clamp_keeps_numbers_within_bounds(clamp: Any, sent: Any, left: Any) -> None:
    exchange = await after([{"clamp": {"temperature": clamp}}], {"temperature": sent})
    assert tree(exchange) == {"temperature": left}
    assert edited(exchange) == (sent != left)


async def test_clamp_leaves_out_what_is_left_out() -> None:
    assert tree(await after([{"clamp": {"temperature": [0, 1]}}])) == {}


@pytest.mark.parametrize("named", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
async def test_bounds_of_the_output_hold_whatever_it_is_called(named: str) -> None:
    exchange = await after([{"clamp": {"max_tokens": {"max": 100}}}], {named: 5000})
    assert tree(exchange) == {named: 100}
    assert type(tree(exchange)[named]) is int


async def test_a_default_is_clamped_too() -> None:
    exchange = await after([{"default": {"max_tokens": 500}}, {"clamp": {"max_tokens": {"max": 100}}}])
    assert tree(exchange) == {"max_tokens": 100}


async def test_a_system_prompt_comes_first() -> None:
    exchange = await after([{"system": "Be brief."}])
    assert exchange.tree is not None
    assert exchange.tree["messages"] == [{"role": "system", "content": "Be brief."}, *MESSAGES]
    assert edited(exchange)


async def test_rules_act_on_the_calls_their_when_names() -> None:
    rules = [
        {"when": {"model": "gpt-*"}, "set": {"a": 1}},
        {"when": {"model": "claude-*"}, "set": {"b": 1}},
        {"when": {"tags": {"team": "red"}}, "set": {"c": 1}},
        {"when": {"project": "x"}, "set": {"d": 1}},
    ]
    assert tree(await after(rules, tags={"team": "red"})) == {"a": 1, "c": 1}


async def test_later_rules_win() -> None:
    assert tree(await after([{"set": {"seed": 1}}, {"set": {"seed": 2}}])) == {"seed": 2}


@pytest.mark.parametrize(
    ("rule", "target"),
    [
        ({"upstream": "azure"}, Target("azure", "routed")),
        ({"model": "gpt-4o"}, Target("openai", "gpt-4o")),
        ({"upstream": "azure", "model": "gpt-4o"}, Target("azure", "gpt-4o")),
    ],
)
async def test_a_rule_chooses_the_target_and_leaves_the_body(rule: dict[str, Any], target: Target) -> None:
    exchange = await after([rule], target=Target("openai", "routed"))
    assert exchange.target == target
    assert not edited(exchange)


async def test_a_rule_that_changes_nothing_keeps_the_received_bytes() -> None:
    exchange = await after([{"set": {"seed": 5}, "default": {"n": 2}}], {"seed": 5, "n": 1})
    assert not edited(exchange)


async def test_true_and_one_are_different_values() -> None:
    assert tree(await after([{"set": {"logprobs": True}}], {"logprobs": 1})) == {"logprobs": True}


async def test_what_a_call_gets_is_its_own() -> None:
    policy = policy_builder(Defaults, {"rules": [{"set": {"metadata": {"tags": ["a"]}}}]})
    first, second = asking(), asking()
    await called(policy.on_request(first))
    assert first.tree is not None
    first.tree["metadata"]["tags"].append("b")
    await called(policy.on_request(second))
    assert tree(second) == {"metadata": {"tags": ["a"]}}


async def test_calls_without_a_body_only_get_a_target() -> None:
    exchange = exchange_builder(None, dialect=None, path="/v1/files")
    rules = [{"set": {"a": 1}, "system": "x", "upstream": "azure"}]
    await called(policy_builder(Defaults, {"rules": rules}).on_request(exchange))
    assert exchange.target.upstream == "azure"


async def test_observe_says_what_it_would_do() -> None:
    exchange = asking({"temperature": 2})
    rules = [{"clamp": {"temperature": [0, 1]}, "set": {"user": "u"}, "system": "x", "upstream": "azure"}]
    await called(policy_builder(Defaults, {"rules": rules}, observe=True).on_request(exchange))
    assert exchange.notes == [
        ("defaults", "would change: user = u; temperature = 1; a system prompt; target azure"),
    ]
    assert tree(exchange) == {"temperature": 2}
    assert exchange.target == Target("openai")
    assert not edited(exchange)


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"when": {"model": "x"}},
        {"set": {"model": "x"}},
        {"set": {"stream": True}},
        {"set": {"a..b": 1}},
        {"clamp": {"temperature": [2, 1]}},
        {"clamp": {"temperature": [None, None]}},
        {"clamp": {"temperature": {}}},
        {"clamp": {"temperature": [0, "x"]}},
        {"clamp": {"temperature": "1"}},
        {"clamp": {"temperature": True}},
        {"clamp": {"temperature": {"maximum": 1}}},
        {"sett": {"a": 1}},
        {"when": {"modle": "x"}, "set": {"a": 1}},
    ],
)
def test_wrong_rules_are_refused_at_load(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy_builder(Defaults, {"rules": [rule]})


def test_rules_are_required() -> None:
    with pytest.raises(ValidationError):
        policy_builder(Defaults, {"rules": []})
