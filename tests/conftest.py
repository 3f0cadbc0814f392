"""What every test may use: a whole proxy in this process, on real sockets.

    async def test_something(sidecar, upstream):
        proxy = await sidecar(routes_to(upstream))      # YAML text, or a dict
        proxy.url, proxy.admin_url, proxy.app
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.app import App
from proxy.load import load_config


@dataclass
class Sidecar:
    """A proxy that runs in this process. url: of the data port, without /v1. exchanges: those that ended, in order."""

    app: App
    url: str
    admin_url: str
    exchanges: list[Any]

    @property
    def base_url(self) -> str:
        """What a client takes as OPENAI_BASE_URL."""
        return self.url + "/v1"

    @property
    def port(self) -> int:
        """Of the data port."""
        return int(self.url.rsplit(":", 1)[1])


Start = Callable[..., Awaitable[Sidecar]]


@pytest.fixture
async def sidecar(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a proxy from YAML text or a dict; ports are free ones unless the configuration says otherwise."""
    running: list[App] = []

    async def start(
        config: str | dict[str, Any], *, overrides: Iterable[str] = (), env: dict[str, str] | None = None
    ) -> Sidecar:
        file = tmp_path / f"config{len(running)}.yaml"
        file.write_text(config if isinstance(config, str) else json.dumps(config))
        free = ["server.port=0", "admin.port=0", f"data={tmp_path}", "log.access=false", "log.level=error"]
        loaded, warnings = load_config(file, overrides=[*free, *overrides], env=env or {})
        app = App(loaded, warnings)
        running.append(app)
        await app.start()
        assert app.snapshot is not None
        ended: list[Any] = []
        app.snapshot.watchers.append(ended.append)
        return Sidecar(app, app.where[0], app.admin_url or "", ended)

    yield start
    for app in running:
        await app.stop()
