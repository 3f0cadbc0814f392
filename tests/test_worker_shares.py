"""`workers: N` with `state: memory`: the workers' shares add up to each limit, and none of them is left without."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.config import ConfigError
from proxy.load import load_config
from proxy.testing import FakeUpstream, chat_answer, reply
from tests.test_workers import Gang, Start, gang  # noqa: F401 - a fixture

KEY = {"id": "a", "secret": "sk-a"}


def problems(folder: Path, workers: int, *chain: Any, key: dict[str, Any] | None = None, **more: Any) -> list[str]:
    file = folder / "config.yaml"
    config = {
        "data": str(folder),
        "server": {"workers": workers},
        "upstreams": {"up": {"api": "openai", "base_url": "http://127.0.0.1:9/v1", "keys": "pool"}},
        "routes": [{"upstream": "up", "chain": "main"}],
        "chains": {"main": ["select_key", *chain]},
        "keys": {"pool": {"keys": [{**KEY, **(key or {})}]}},
        **more,
    }
    file.write_text(json.dumps(config, indent=1))
    try:
        load_config(file, env={})
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize("name", ["max_rpm", "max_tpm", "max_concurrent"])
def test_a_keys_limit_below_the_number_of_workers_is_a_mistake(tmp_path: Path, name: str) -> None:
    assert problems(tmp_path, 4, key={name: 4}) == []
    [said] = problems(tmp_path, 4, key={name: 3})
    place = next(
        number for number, line in enumerate((tmp_path / "config.yaml").read_text().splitlines(), 1) if name in line
    )
    assert f"config.yaml:{place}:" in said
    assert f"keys.pool.keys.0.{name}: with state: memory" in said
    assert "a limit of 3 cannot be divided among 4 workers" in said
    assert "set server.workers to at most 3, this limit to at least 4, or state: redis://" in said


@pytest.mark.parametrize(
    ("policy", "place"),
    [
        ({"rate_limit": {"per": "all", "rpm": 3}}, "rpm"),
        ({"rate_limit": {"per": "all", "tpm": 3}}, "tpm"),
        ({"rate_limit": {"per": "all", "rpm": 600, "burst": 3}}, "burst"),
        ({"rate_limit": {"per": "all", "max_concurrent": 3}}, "max_concurrent"),
        ({"rate_limit": {"rpm": 60, "limits": [{"per": "all", "rpm": 3}]}}, "limits.0.rpm"),
        ({"budget": {"calls": 3}}, "calls"),
        ({"budget": {"tokens": 3}}, "tokens"),
    ],
)
def test_a_policys_limit_below_the_number_of_workers_is_a_mistake(tmp_path: Path, policy: Any, place: str) -> None:
    [said] = problems(tmp_path, 4, policy)
    assert f".{place}: with state: memory" in said
    assert "a limit of 3 cannot be divided among 4 workers" in said
    assert problems(tmp_path, 3, policy) == []


def test_what_is_shared_off_or_counted_by_one_process_need_not_be_divided(tmp_path: Path) -> None:
    small = {"rate_limit": {"per": "all", "rpm": 1}}
    assert problems(tmp_path, 1, small) == []
    assert problems(tmp_path, 4, small, state="redis://127.0.0.1:6379/0") == []
    assert problems(tmp_path, 4, {"rate_limit": {"per": "all", "rpm": 1, "mode": "off"}}) == []
    assert problems(tmp_path, 4, {"rate_limit": {"per": "all", "rpm": 1, "burst": 4}}) == []
    assert problems(tmp_path, 4, {"budget": {"usd": 0.001}}) == []


@pytest.mark.parametrize(
    ("workers", "limit", "chain"),
    [
        (2, 3, {"key": {"max_rpm": 3}}),
        (4, 7, {"key": {"max_rpm": 7}}),
        (2, 3, {"policy": {"budget": {"calls": 3, "max_wait": "10ms"}}}),
        (2, 3, {"policy": {"rate_limit": {"per": "all", "rpm": 3}}}),
    ],
)
async def test_the_workers_together_let_through_the_limit_and_no_more(
    gang: Start,  # noqa: F811
    upstream: FakeUpstream,
    workers: int,
    limit: int,
    chain: dict[str, Any],
) -> None:
    one = await together(gang, upstream, workers, chain)
    said = await asyncio.gather(*(one.call() for _ in range(16 * workers)))
    assert workers <= said.count(200) <= limit
    assert len(upstream.calls) == said.count(200)
    if "key" in chain:
        assert said.count(200) == limit


async def test_no_more_calls_run_at_one_time_than_the_limit_allows(
    gang: Start,  # noqa: F811
    upstream: FakeUpstream,
) -> None:
    running: list[int] = [0, 0]

    async def slow(call: Any) -> None:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(0.5)
        running[0] -= 1
        await reply(chat_answer("ok"))(call)

    upstream.default = slow
    one = await together(gang, upstream, 2, {"key": {"max_concurrent": 3}})
    await asyncio.gather(*(one.call() for _ in range(32)))
    assert running[1] == 3


async def together(gang: Start, upstream: FakeUpstream, workers: int, chain: dict[str, Any]) -> Gang:  # noqa: F811
    """A supervisor with one key of these limits, or this policy."""
    policies = [chain["policy"]] if "policy" in chain else []
    return await gang(upstream, workers=workers, chain=["select_key", *policies], key=chain.get("key", {}))
