"""classify: tags from what is declared, from metadata and from rules, with the reason."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from proxy.policies.classify import Classify
from proxy.testing import called, exchange_builder, policy_builder

MEDICAL = {
    "rules": [
        {"name": "genomics", "words": ["genome", "BRCA1", "variant calling", "exome"], "tags": {"task": "genomics"}},
        {"name": "reports", "words": ["report", "findings", "impression"], "tags": {"task": "report"}},
        {"name": "urgent", "pattern": r"(?i)\b(stat|immediately)\b", "tags": {"urgency": "high"}},
        {"name": "pictures", "images": True, "confidence": 0.95, "tags": {"task": "fusion", "domain": "imaging"}},
        {"name": "live", "stream": True, "tags": {"task": "streaming"}},
    ],
    "default": {"task": "general"},
}


def say(text, **body):
    return {"model": "m", "messages": [{"role": "user", "content": text}], **body}


async def run(body, options=MEDICAL, observe=False, **call):
    policy = policy_builder(Classify, options, observe=observe)
    exchange = exchange_builder(body, **call)
    await called(policy.on_request(exchange))
    return exchange, policy.decisions(exchange)


@pytest.mark.parametrize(
    ("text", "task", "confidence", "rule"),
    [
        ("Look at this GENOME.", "genomics", 0.5, "genomics"),
        ("The exome after variant\n calling, one finding", "genomics", 0.75, "genomics"),
        ("Findings and impression for the report on the genome", "report", 0.875, "reports"),
        ("reporting genomes", "general", 0.0, "default"),
        ("Hello", "general", 0.0, "default"),
    ],
)
async def test_the_most_confident_rule_decides(text, task, confidence, rule):
    exchange, why = await run(say(text))
    assert exchange.task == task
    assert why["task"] == (task, confidence, rule)


async def test_each_tag_is_decided_by_itself():
    exchange, why = await run(say("The report, STAT please"))
    assert exchange.tags == {"task": "report", "urgency": "high"}
    assert why["urgency"] == ("high", 0.8, "urgent")


async def test_what_the_client_declares_wins_then_metadata():
    exchange, why = await run(say("genome", metadata={"task": "mine", "urgency": "low"}), tags={"task": "declared"})
    assert exchange.tags == {"task": "declared", "urgency": "low"}
    assert why["task"].rule == "declared" and why["urgency"] == ("low", 1.0, "metadata")


async def test_the_shape_of_a_call_decides_too():
    image = [{"type": "text", "text": "genome?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
    exchange, _ = await run({"model": "m", "messages": [{"role": "user", "content": image}]})
    assert exchange.tags == {"task": "fusion", "domain": "imaging"}
    exchange, why = await run(say("Hello", stream=True))
    assert why["task"] == ("streaming", 0.6, "live")


async def test_when_tools_and_tokens_are_conditions():
    options = {
        "rules": [
            {"when": {"tokens": ">= 1000"}, "tags": {"size": "long"}},
            {"when": {"model": "gpt-*"}, "tools": True, "tags": {"kind": "agent"}},
        ]
    }
    body = say("word " * 2000, tools=[{"type": "function", "function": {"name": "f"}}]) | {"model": "gpt-4o"}
    exchange, _ = await run(body, options)
    assert exchange.tags == {"size": "long", "kind": "agent"}
    exchange, _ = await run(say("short"), options)
    assert exchange.tags == {}


async def test_only_what_the_caller_says_is_looked_at():
    talk = [{"role": "assistant", "content": "your genome"}, {"role": "user", "content": "thanks"}]
    exchange, _ = await run({"model": "m", "messages": talk})
    assert exchange.task == "general"


async def test_the_newest_text_is_looked_at_first():
    options = {
        "scan": "1KiB",
        "rules": [{"words": ["old"], "tags": {"t": "old"}}, {"words": ["new"], "tags": {"t": "new"}}],
    }
    talk = [{"role": "user", "content": "old " + "x" * 2000}, {"role": "user", "content": "new"}]
    exchange, _ = await run({"model": "m", "messages": talk}, options)
    assert exchange.tags == {"t": "new"}


async def test_words_in_other_scripts():
    options = {"rules": [{"words": ["геном", "遺伝子", "C++"], "min_words": 2, "tags": {"task": "genomics"}}]}
    exchange, _ = await run(say("Мой ГЕНОМ и 遺伝子です"), options)
    assert exchange.task == "genomics"
    exchange, _ = await run(say("геном"), options)
    assert exchange.task is None


async def test_a_low_confidence_decides_nothing():
    exchange, _ = await run(say("genome"), MEDICAL | {"min_confidence": 0.7, "default": {}})
    assert exchange.tags == {}


async def test_observe_only_says_what_it_would_do():
    exchange, _ = await run(say("genome"), observe=True)
    assert exchange.tags == {}
    assert exchange.notes == [("classify", "would tag task=genomics (genomics, confidence 0.50)")]


async def test_calls_without_a_body_get_the_default():
    exchange, _ = await run(None, path="/v1/models", method="GET", dialect=None)
    assert exchange.task == "general"


async def test_the_same_call_is_always_classified_the_same():
    seen = {str((await run(say("report genome exome impression")))[1]) for _ in range(5)}
    assert len(seen) == 1


async def test_hostile_text_costs_linear_time():
    options = {"rules": [{"pattern": "(a+)+$", "tags": {"t": "x"}}, {"words": ["a a a a b"], "tags": {"t": "y"}}]}
    began = time.perf_counter()
    await run(say("a " * 16_000 + "!"), options)
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"tags": {"t": "x"}}, "at least one of when, words, pattern"),
        ({"pattern": "(", "tags": {"t": "x"}}, "no RE2 expression"),
        ({"pattern": r"(?=a)", "tags": {"t": "x"}}, "no RE2 expression"),
        ({"words": ["a"], "min_words": 2, "tags": {"t": "x"}}, "min_words is larger"),
        ({"words": ["a"], "tags": {}}, "at least 1 item"),
    ],
)
def test_wrong_rules_are_refused_at_load(rule, said):
    with pytest.raises(ValidationError, match=said):
        Classify.Options.model_validate({"rules": [rule]})
