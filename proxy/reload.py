"""Reload: all or nothing, and no call notices.

    load (in a thread) -> may it be taken over? -> build the new snapshot beside the old -> start it
        -> swap one reference -> the old one ends when its last call has

Whatever goes wrong before the swap leaves everything as it was; the mistakes go to the log and to who asked. What lives
on: keys' history, circuits, counters, the cache's entries, budgets, and the connections of upstreams that are the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.config import ConfigError, Loaded
from proxy.config.problem import Problem
from proxy.config.reload import Files, Picture, needs_restart

if TYPE_CHECKING:
    from proxy.app import App
    from proxy.snapshot import Snapshot

log = logging.getLogger("llm_sidecar.reload")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the files."""
SETTLES_IN: Final = 0.25
"""Seconds from the look that saw a change to the next: it is taken over when two looks agree that it is complete."""

Load = Callable[[], tuple[Loaded, list[Problem]]]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of it. generation: of the configuration that is used now. problems: why it was refused, one a line."""

    ok: bool
    generation: int
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Reloader:
    """Replaces the application's snapshot. generation: 1 for the configuration of the start."""

    def __init__(self, app: App, load: Load | None) -> None:
        """load: reads the configuration again; None when it came from where nothing can be read again."""
        self.app = app
        self.load = load
        self.generation = 1
        self.at = time.time()
        self.last: Reloaded | None = None
        self._lock = asyncio.Lock()
        self._retiring: dict[Snapshot, asyncio.Task[None]] = {}
        self._asked: set[asyncio.Task[object]] = set()
        self._watch: asyncio.Task[None] | None = None

    @property
    def retiring(self) -> list[Snapshot]:
        """Snapshots whose last calls still run."""
        return list(self._retiring)

    # --- who asks ----------------------------------------------------------------------------------

    def ask(self, why: str) -> None:
        """Reload soon; for signal handlers."""
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(self.reload(why), name="reload")
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    def watch(self, every: float = LOOK_EVERY) -> None:
        """Reload whenever the files have changed."""
        if self.load is not None and self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._look(every), name="config-watch")

    async def _look(self, every: float) -> None:
        files = Files(self.app.loaded.sources)
        seen = await asyncio.to_thread(files.look)
        changed: Picture | None = None
        while True:
            await asyncio.sleep(every if changed is None else min(every, SETTLES_IN))
            now = await asyncio.to_thread(files.look)
            if now == seen:
                changed = None
            elif now != changed:
                changed = now  # perhaps still being written
            else:
                changed = None
                await self.reload("the files have changed")
                files = Files(self.app.loaded.sources)
                after = await asyncio.to_thread(files.look)
                # What was written while we loaded counts as a change of its own.
                seen = {**after, **{path: digest for path, digest in now.items() if path in after}}

    # --- the reload --------------------------------------------------------------------------------

    async def reload(self, why: str) -> Reloaded:
        """Take the configuration over as it stands in its files now. Never raises but on cancel."""
        async with self._lock:
            try:
                self.last = await self._reload(why)
            except Exception as error:
                log.exception("reload failed")
                self.last = self._refused(why, [f"the reload failed: {type(error).__name__}: {error}"])
            return self.last

    async def _reload(self, why: str) -> Reloaded:
        app = self.app
        before = app.snapshot
        if self.load is None:
            return self._refused(why, ["this configuration was not read from a file that can be read again"])
        if before is None or app.draining:
            return self._refused(why, ["the process is starting or draining"])
        try:
            # Reading, and importing what new policies need, takes tens of milliseconds that no stream may wait for.
            loaded, warnings = await asyncio.to_thread(self.load)
        except ConfigError as error:
            return self._refused(why, [str(problem) for problem in error.problems])
        problems = [str(problem) for problem in needs_restart(app.loaded, loaded)]
        if problems:
            return self._refused(why, problems)
        fresh: Snapshot | None = None
        try:
            addresses = await app.start_demo(loaded.config)
            fresh = app.make_snapshot(loaded.config, addresses, before)
            await fresh.start()
            app.take_over(loaded, warnings, fresh)
        except BaseException as error:
            if fresh is not None:
                await fresh.stop([before, *self._retiring])
            if not isinstance(error, Exception):
                raise
            return self._refused(why, [str(error) or type(error).__name__])
        self.generation += 1
        app.metrics.reloads["taken"] += 1
        self.at = time.time()
        task = asyncio.get_running_loop().create_task(self._retire(before, fresh), name="retire-snapshot")
        self._retiring[before] = task
        for problem in warnings:
            log.warning(str(problem))
        log.info("configuration reloaded", extra={"why": why, "generation": self.generation})
        return Reloaded(True, self.generation, warnings=tuple(map(str, warnings)))

    def _refused(self, why: str, problems: list[str]) -> Reloaded:
        for problem in problems:
            log.error(problem, extra={"why": why})
        self.app.metrics.reloads["refused"] += 1
        log.error("reload refused: the configuration before it stays in use", extra={"mistakes": len(problems)})
        return Reloaded(False, self.generation, tuple(problems))

    async def _retire(self, old: Snapshot, after: Snapshot) -> None:
        try:
            await old.retire(after)
            await self._stop(old)
        except Exception:
            log.exception("an old configuration could not be stopped")

    async def _stop(self, old: Snapshot) -> None:
        self._retiring.pop(old, None)
        current = self.app.snapshot
        await old.stop([*self._retiring, *([current] if current is not None else [])])

    async def stop(self) -> None:
        """No reload from now on; snapshots that still had calls are stopped."""
        tasks = [*self._asked, *self._retiring.values()]
        if self._watch is not None:
            tasks.append(self._watch)
            self._watch = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for old in list(self._retiring):
            await self._stop(old)
