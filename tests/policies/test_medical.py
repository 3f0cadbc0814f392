"""policies/medical.yaml: loads without a mistake, and each kind of work reaches its own key, then the backup."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.clock import FakeClock
from proxy.exchange import Attempt, Target
from proxy.load import load_config
from proxy.policies.classify import Classify
from proxy.policies.select_key import SelectKey
from proxy.services import Services
from proxy.state import MemoryState
from proxy.testing import called, exchange_builder
from proxy.upstream.keys import KeyRings

ROOT = Path(__file__).parents[2]
NAMES = ("MEDICAL_TEXT", "DIAGNOSTICS", "GENOMICS", "STREAMING", "BATCH", "FUSION", "GENERAL")
IMAGE = [{"type": "text", "text": "Describe"}, {"type": "image_url", "image_url": {"url": "https://x.test/ct.png"}}]


@pytest.fixture
def loaded(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"include: [{ROOT}/policies/medical.yaml]\n"
        "routes:\n  - {match: {path: /v1/*}, upstream: medical, chain: medical}\n"
    )
    return load_config(
        config, env={f"NVIDIA_API_KEY_{name}": f"nvapi-{name.lower()}" for name in NAMES} | {"HOME": "/"}
    )


@pytest.fixture
def parts(loaded):
    """The two policies that matter here, over one memory state."""
    config = loaded[0].config
    clock = FakeClock()
    state = MemoryState(clock)
    services = Services(clock, config)
    rings = KeyRings(config.keys, state, clock)
    services.offer("state", lambda _: state)
    services.offer("keys", lambda _: rings)
    entries = {entry.policy: entry for entry in config.chains["medical"]}
    return (
        Classify(entries["classify"].options, services),
        SelectKey(entries["select_key"].options, services),
        rings,
    )


async def key_for(parts, text, **options):
    classify, select_key, _ = parts
    stream = options.pop("stream", False)
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]}
    exchange = exchange_builder(body, target=Target("medical"), **options)
    await called(classify.on_request(exchange))
    attempt = Attempt(1, 1, exchange.target, "medical", 0.0)
    assert await called(select_key.on_attempt(exchange, attempt)) is None
    return exchange.tags["task"], attempt.key.id


@pytest.mark.parametrize(
    ("text", "stream", "task", "key"),
    [
        ("Summarise the patient's medication and symptoms.", False, "medical_text_analysis", "medical_text_primary"),
        (
            "The radiology report: findings, impression.",
            False,
            "diagnostic_report_generation",
            "diagnostics_primary",
        ),
        ("Which BRCA1 variants are in this exome?", False, "genomics_analysis", "genomics_primary"),
        ("What do you see now?", True, "streaming_insights", "streaming_primary"),
        ("Code each record of the cohort, nightly.", False, "batch_processing", "batch_primary"),
        (IMAGE, False, "multi_modal_fusion", "fusion_primary"),
        ("Hello", False, "medical_text_analysis", "medical_text_primary"),
    ],
)
async def test_each_kind_of_work_has_its_own_key(parts, text, stream, task, key):
    assert await key_for(parts, text, stream=stream) == (task, key)


async def test_what_the_application_says_is_believed_and_unknown_work_goes_to_the_backup(parts):
    assert await key_for(parts, "BRCA1", tags={"task": "batch_processing"}) == ("batch_processing", "batch_primary")
    assert await key_for(parts, "BRCA1", tags={"task": "billing"}) == ("billing", "general_backup")


async def test_the_backup_stands_in_for_a_key_that_is_out(parts):
    parts[2].switch("genomics_primary", on=False)
    assert await key_for(parts, "germline variants") == ("genomics_analysis", "general_backup")


async def test_there_are_no_mistakes_and_no_warnings(loaded):
    config, warnings = loaded
    assert [str(warning) for warning in warnings] == []
    assert len(config.config.keys["medical"].keys) == 7
