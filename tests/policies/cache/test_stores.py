"""Stores outlive the configuration that opened them, and say what is wrong with one that cannot be opened."""

from __future__ import annotations

import pytest

from proxy.policies.cache import Cache
from proxy.policies.cache.entry import Entry
from proxy.policies.cache.options import CacheOptions
from proxy.policies.cache.stores import StoreError, acquire, release
from proxy.testing import policy_builder, services_builder


async def test_a_reload_keeps_what_was_stored():
    services = services_builder()
    old = policy_builder(Cache, {"ttl": "1h"}, services=services)
    await old.start()
    old.shelf.keep(b"n" * 16, Entry(b"{}", services.clock.now(), 60), b"")
    new = policy_builder(Cache, {"ttl": "2h"}, services=services)
    await new.start()
    await old.stop()
    assert await new.shelf.find(b"n" * 16) is not None
    await new.stop()
    again = policy_builder(Cache, {"ttl": "1h"}, services=services)
    await again.start()
    assert await again.shelf.find(b"n" * 16) is None
    await again.stop()


async def test_a_dry_run_sees_and_touches_nothing_live():
    live = await acquire(CacheOptions(), services_builder())
    dry = await acquire(CacheOptions(), services_builder(dry=True))
    assert dry[1] is not live[1]
    await release(dry[0])
    await release(live[0])


def test_a_shared_store_needs_a_redis():
    with pytest.raises(StoreError, match="set `redis:` here, or `state:"):
        policy_builder(Cache, {"store": "redis"})


def test_encryption_that_is_demanded_needs_a_key(monkeypatch):
    monkeypatch.delenv("LLM_SIDECAR_MASTER_KEY", raising=False)
    monkeypatch.delenv("LLM_SIDECAR_MASTER_KEY_FILE", raising=False)
    with pytest.raises(StoreError, match="needs a master key"):
        policy_builder(Cache, {"store": "redis", "redis": "redis://127.0.0.1/0", "encrypt": "always"})


def test_a_password_in_the_address_is_not_shown():
    options = CacheOptions.model_validate({"store": "redis", "redis": "redis://:s3cret@127.0.0.1/0"})
    assert "s3cret" not in repr(options)


def test_memory_alone_does_not_load_redis():
    import subprocess
    import sys

    code = "import sys, proxy.policies.cache; sys.exit('redis' in sys.modules or 'aiocache' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
