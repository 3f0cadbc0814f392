"""/metrics: what calls leave there, and that nobody can fill it up."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Answer, Attempt, Target
from proxy.telemetry import prometheus
from proxy.telemetry.metrics import MOST_MODELS, OTHER, Family, Metrics, Sample
from proxy.testing import exchange_builder, reply


async def test_calls_tokens_cost_and_times_are_counted(operator, whole):
    admin = await operator(whole())
    await admin.call()
    await admin.call()
    found = await admin.metrics()
    target = 'route="#1",upstream="up",model="gpt-4o"'
    asked = '{route="#1",chain="main",upstream="up",model="gpt-4o",status="200",outcome="answered"}'
    assert found[f"llm_sidecar_calls_total{asked}"] == 1
    assert found[f'llm_sidecar_tokens_total{{{target},kind="input"}}'] == 9
    assert found[f"llm_sidecar_cost_usd_total{{{target}}}"] > 0
    assert found[f'llm_sidecar_call_duration_seconds_bucket{{{target},le="+Inf"}}'] == 1
    assert found[f"llm_sidecar_time_to_first_byte_seconds_count{{{target}}}"] == 1
    assert found['llm_sidecar_cache_total{status="hit"}'] == 1
    assert found['llm_sidecar_cache_total{status="miss"}'] == 1


async def test_calls_whose_price_is_not_known_are_counted_and_cost_no_zero(operator, whole):
    admin = await operator(whole())
    await admin.call(model="mine")
    found = await admin.metrics()
    target = 'route="#1",upstream="up",model="mine"'
    assert found[f"llm_sidecar_unpriced_calls_total{{{target}}}"] == 1
    assert f"llm_sidecar_cost_usd_total{{{target}}}" not in found


async def test_what_pii_found_and_could_not_read_is_counted(operator, setting, upstream):
    admin = await operator(setting(upstream, {"pii": {"entities": ["EMAIL"]}}))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    text = {"type": "text", "text": "ann@corp-mail.io and bob@corp-mail.io"}
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": [image, text]}]}
    async with admin.client.post(admin.proxy.base_url + "/chat/completions", json=body) as answer:
        assert answer.status == 200
    found = await admin.metrics()
    assert found['llm_sidecar_pii_total{type="EMAIL",action="mask"}'] == 2
    assert found['llm_sidecar_pii_total{type="opaque",action="allow"}'] == 1
    assert any('model="gpt-4o"' in name for name in found if name.startswith("llm_sidecar_calls_total"))


async def test_retries_failures_and_errors_are_counted(operator, whole, upstream):
    admin = await operator(whole())
    upstream.default = reply({}, status=500)
    await admin.call()
    found = await admin.metrics()
    assert found['llm_sidecar_attempt_failures_total{upstream="up",class="server_error"}'] == 2
    assert found['llm_sidecar_retries_total{route="#1",upstream="up",model="other"}'] == 1


async def test_parts_tell_how_they_stand(operator, whole, upstream):
    admin = await operator(whole())
    await admin.call()
    found = await admin.metrics()
    assert found['llm_sidecar_key_state{pool="pool",key="main_key",state="ready"}'] == 1
    assert [value for name, value in found.items() if name.startswith("llm_sidecar_breaker_state")] == [0]
    assert found["llm_sidecar_calls_in_flight"] == 0
    assert (found["llm_sidecar_journal_ok"], found["llm_sidecar_ledger_up"]) == (1, 1)
    assert found["llm_sidecar_config_generation"] == 1
    assert found['llm_sidecar_upstream_connections{upstream="up",state="idle"}'] == 1


async def test_a_proxy_without_calls_has_metrics_too(operator, setting, upstream):
    admin = await operator(setting(upstream))
    assert (await admin.metrics())["llm_sidecar_calls_in_flight"] == 0


def ended(model: str, status: int = 200):
    exchange = exchange_builder({"model": model, "messages": []})
    assert exchange.model_asked == model
    attempt = Attempt(1, 1, Target("up"), "up", exchange.started_at)
    exchange.served_by = attempt
    exchange.attempts.append(attempt)
    exchange.answer = Answer(status, [], origin="upstream")
    exchange.outcome = "answered"
    exchange.ended_at = exchange.started_at + 0.3
    return exchange


def models(metrics: Metrics) -> set[str]:
    return {sample.labels["model"] for sample in metrics.families()[0].samples}


def test_models_that_never_answered_are_counted_together():
    metrics = Metrics()
    for number in range(50):
        metrics.record(ended(f"made-up-{number}", 404))
    metrics.record(ended("gpt-4o"))
    assert models(metrics) == {OTHER, "gpt-4o"}


def test_the_number_of_models_is_bounded():
    metrics = Metrics()
    for number in range(MOST_MODELS + 50):
        metrics.record(ended(f"model-{number}"))
    assert len(models(metrics)) == MOST_MODELS + 1


def test_a_histogram_counts_each_call_in_the_bucket_of_its_time():
    metrics = Metrics()
    metrics.record(ended("gpt-4o"))
    lines = prometheus.text(metrics.families()).splitlines()
    counts = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines if "duration_seconds_bucket" in line}
    by_bound = {re.search(r'le="([^"]+)"', name)[1]: int(count) for name, count in counts.items()}
    assert (by_bound["0.25"], by_bound["0.5"], by_bound["+Inf"]) == (0, 1, 1)


@given(st.text())
def test_any_label_value_stays_on_its_line(value):
    text = prometheus.text([Family("name", "gauge", "Help.", [Sample({"label": value}, 1)])])
    lines = text.split("\n")
    assert len(lines) == 4
    assert re.fullmatch(r'name\{label="(?:[^"\\\n]|\\[\\n"])*"\} 1', lines[2])
