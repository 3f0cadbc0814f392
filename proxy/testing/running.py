"""A whole proxy in the test's own process and loop, on free ports, from a configuration written as a mapping."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson

if TYPE_CHECKING:
    from proxy.app import App


class RunningProxy:
    """The proxy as ``llm-sidecar serve`` runs it, but for signals; use it as an async context manager.

    config: what the YAML file would say. Left out, server and admin take free ports on loopback, ``data`` is a folder
    that goes away, and the log goes to ``log_file``. url: the base URL for clients, with ``/v1``; origin: without.
    Raises ConfigError or StartError as the command would.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._given = config
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.app: App
        self.log_file = Path()

    @property
    def origin(self) -> str:
        """Scheme, host and port of the data port."""
        return self.app.where[0]

    @property
    def url(self) -> str:
        """What a client's base URL is set to."""
        return f"{self.origin}/v1"

    def access_log(self) -> list[dict[str, Any]]:
        """The lines of the log so far; those of calls are complete once the proxy has stopped."""
        return [orjson.loads(line) for line in self.log_file.read_bytes().splitlines()]

    async def __aenter__(self) -> Self:
        from proxy.app import App  # noqa: PLC0415 - the whole proxy, only for tests of the whole proxy
        from proxy.load import load_config  # noqa: PLC0415

        self._folder = tempfile.TemporaryDirectory(prefix="llm-sidecar-test-")
        folder = Path(self._folder.name)
        self.log_file = folder / "log.jsonl"
        config = {
            "data": str(folder),
            **self._given,
            "server": {"port": 0, **self._given.get("server", {})},
            "admin": {"port": 0, "enabled": False, **self._given.get("admin", {})},
            "log": {"format": "json", "file": str(self.log_file), **self._given.get("log", {})},
        }
        path = folder / "config.yaml"
        path.write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
        try:
            loaded, warnings = load_config(path, env={})
            self.app = App(loaded, warnings)
            try:
                await self.app.start()
            except BaseException:
                await self.app.stop()
                raise
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.app.stop()
        finally:
            assert self._folder is not None
            self._folder.cleanup()
