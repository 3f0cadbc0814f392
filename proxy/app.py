"""Wires one snapshot into a running process: starts it, drains it, stops it.

App(loaded).run()      what `llm-sidecar serve` does
start, drain, stop     the steps, for tests and for the worker supervisor
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

from proxy import lifecycle, trial
from proxy.build import ChainError
from proxy.clock import SystemClock
from proxy.config.units import show_duration
from proxy.connection import Connection
from proxy.listener import Listener
from proxy.reload import Reloader
from proxy.services import Services
from proxy.snapshot import Snapshot
from proxy.telemetry.alarms import Alarms
from proxy.telemetry.calls import RecentCalls
from proxy.telemetry.logs import Logs
from proxy.telemetry.metrics import Metrics
from proxy.wiring import hand_over, offer_services

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from proxy.config import Loaded
    from proxy.config.model import Config
    from proxy.config.problem import Problem
    from proxy.config.server import Server, ServerTls
    from proxy.head import Head, Payload
    from proxy.reload import Load, Reloaded

log = logging.getLogger("llm_sidecar.app")


class StartError(Exception):
    """The process cannot start as configured; one line that says what to do."""


class App:
    """One process. ``ready`` is what /readyz says; ``where`` the URLs of the data port."""

    def __init__(
        self,
        loaded: Loaded,
        warnings: list[Problem] | None = None,
        *,
        reuse_port: bool = False,
        listening: socket.socket | None = None,
        load: Load | None = None,
        worker: int = 0,
    ) -> None:
        """reuse_port: share the port with other processes. listening: a socket to serve instead of a port of one's own.
        load: reads the configuration again, for a reload; without it a reload is refused. worker: which of
        ``server.workers`` this is, from 0."""
        self.loaded = loaded
        self.config = loaded.config
        self.warnings = warnings or []
        self.logs: Logs | None = None
        self.snapshot: Snapshot | None = None
        self.listener: Listener | None = None
        self.admin: Any = None
        self.ready = False
        self.draining = False
        self.where: list[str] = []
        self.admin_url: str | None = None
        self.reuse_port = reuse_port
        self.worker = worker
        self._listening = listening
        self.reloader = Reloader(self, load)
        self.metrics = Metrics()
        self.calls = RecentCalls()
        self.alarms = Alarms()
        self._demo: Any = None
        self._demo_url = ""
        self._stop: asyncio.Event = asyncio.Event()
        self._hurry: asyncio.Event = asyncio.Event()

    # --- steps -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everything up and listening. Raises StartError."""
        config = self.config
        self._refuse_bad_certificate("server", config.server.tls)
        self._refuse_bad_certificate("admin", config.admin.tls)
        try:
            self.logs = Logs(config.log)
        except OSError as error:
            raise StartError(
                f"log.file {config.log.file}: cannot be opened ({error.strerror}); check the path"
            ) from None
        if config.admin.enabled:
            self.alarms.start()
        for problem in self.warnings:
            log.warning(str(problem))
        try:
            self.snapshot = self.make_snapshot(config, await self.start_demo(config))
        except ChainError as error:
            every = dict.fromkeys(str(self.loaded.problem(at, text)) for at, text in trial.mistakes(config))
            raise StartError("\n".join(every) or str(error)) from None
        try:
            await self.snapshot.start()
        except OSError as error:  # what a policy needs of this machine: the folder of the journal
            raise StartError(str(error)) from None
        self.listener = Listener(config.server, self._serve)
        try:
            self.where = await self.listener.open(reuse_port=self.reuse_port, sock=self._listening)
        except (OSError, OverflowError) as error:
            raise StartError(self.listen_problem(config.server, error)) from None
        if config.admin.enabled:
            from proxy.admin.app import Admin  # noqa: PLC0415 - not every process has an admin port

            # Nobody else reads them; the list is handed from snapshot to snapshot.
            self.snapshot.watchers += [self.metrics.record, self.calls.record]
            self.admin = Admin(self)
            try:
                self.admin_url = await self.admin.start()
            except (OSError, OverflowError) as error:
                raise StartError(self.bind_problem("admin", config.admin.host, config.admin.port, error)) from None
        self.ready = True

    def make_snapshot(self, config: Config, addresses: dict[str, str], before: Snapshot | None = None) -> Snapshot:
        """Everything built, nothing started. before: the snapshot that this one will replace."""
        services = Services(SystemClock(), config, workers=config.server.workers, worker=self.worker)
        offer_services(services)
        if before is not None:
            hand_over(services, before.services)
        access = None if self.logs is None else self.logs.access
        return Snapshot(config, services, addresses=addresses, access=access, before=before)

    def take_over(self, loaded: Loaded, warnings: list[Problem], snapshot: Snapshot) -> None:
        """The last step of a reload: from here on new calls go to ``snapshot``. Raises OSError for a bad log file."""
        config = loaded.config
        if config.log != self.config.log:
            logs, self.logs = self.logs, Logs(config.log)
            if logs is not None:
                logs.close()
            snapshot.access = self.logs.access
        self.loaded, self.config, self.warnings = loaded, config, warnings
        self.snapshot = snapshot
        if self.listener is not None:
            self.listener.config = config.server
        if self.admin is not None:
            self.admin.use(config.admin)

    async def reload(self, why: str = "asked for") -> Reloaded:
        """Take over what the configuration's files say now: all of it or nothing. See ``proxy.reload``."""
        return await self.reloader.reload(why)

    @property
    def snapshots(self) -> list[Snapshot]:
        """The one that takes new calls, and those of before whose last calls still run."""
        return [*([self.snapshot] if self.snapshot is not None else []), *self.reloader.retiring]

    def _serve(self, connection: Connection, head: Head, payload: Payload) -> Awaitable[None]:
        snapshot = self.snapshot
        assert snapshot is not None
        if self.draining:
            connection.close_after_answer()
        return lifecycle.serve(snapshot, connection, head, payload)

    async def drain(self) -> None:
        """/readyz says 503 at once, no new connections; calls in flight get up to ``server.drain`` to end."""
        self.ready = False
        self.draining = True
        if self.listener is None:
            return
        self.listener.stop_accepting()
        waiting = asyncio.ensure_future(self.listener.drain(self.config.server.drain))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait((waiting, hurry), return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, hurry):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def stop(self) -> None:
        """Everything down; safe after a start that failed half-way."""
        if self.listener is not None:
            self.listener.stop_accepting()
            cut = await self.listener.close()
            if cut:
                calls = "1 call was" if cut == 1 else f"{cut} calls were"
                drain = f"after drain {show_duration(self.config.server.drain)}"
                log.warning("%s cut %s", calls, "by a second signal" if self._hurry.is_set() else drain)
        await self.reloader.stop()
        if self.admin is not None:
            await self.admin.stop()
        if self.snapshot is not None:
            await self.snapshot.stop()
        if self._demo is not None:
            await self._demo.stop()
        self.alarms.stop()
        if self.logs is not None:
            self.logs.close()

    async def run(self, started: Callable[[App], None] | None = None) -> int:
        """Serve until SIGTERM or SIGINT; a second signal ends now. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.signalled)
        loop.add_signal_handler(signal.SIGHUP, self.reloader.ask, "SIGHUP")
        try:
            await self.start()
            self.reloader.watch()
            if started is not None:
                started(self)
            await self._stop.wait()
            await self.drain()
        finally:
            await self.stop()
        return 0

    def signalled(self) -> None:
        """What a signal does: the first drains, the second ends now."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()
        self.ready = False

    # --- inside ------------------------------------------------------------------------------------

    async def start_demo(self, config: Config) -> dict[str, str]:
        """Start the embedded upstream if a route or alias can reach one; its address by upstream name."""
        names = [name for name, upstream in config.upstreams.items() if upstream.api == "demo"]
        used = {route.upstream for route in config.routes if route.enabled}
        used |= {alias.upstream for alias in config.models.values() if alias.upstream is not None}
        if not names:
            return {}
        if not used & set(names) and not any(e.policy == "fallback" for c in config.chains.values() for e in c):
            return dict.fromkeys(names, "http://127.0.0.1:9/v1")  # never called: no route leads there
        if self._demo is None:
            from proxy.demo import Demo  # noqa: PLC0415 - only for the demo upstream

            demo = Demo()
            self._demo_url = f"http://127.0.0.1:{await demo.start('127.0.0.1', 0)}/v1"
            self._demo = demo
        return dict.fromkeys(names, self._demo_url)

    @staticmethod
    def _refuse_bad_certificate(section: str, tls: ServerTls | None) -> None:
        if tls is None:
            return
        import ssl  # noqa: PLC0415 - only for TLS

        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key)
        except OSError as error:
            reason = "no PEM certificate with its key" if isinstance(error, ssl.SSLError) else error.strerror
            raise StartError(
                f"{section}.tls: {tls.cert} and {tls.key} cannot be used ({reason}): give a certificate chain and its "
                "private key as PEM files that this process may read"
            ) from None

    @staticmethod
    def listen_problem(server: Server, error: Exception) -> str:
        """Why the data port cannot be opened, and what to do."""
        if server.unix is None:
            return App.bind_problem("server", server.host, server.port, error)
        return (
            f"server.unix {server.unix}: cannot listen there ({getattr(error, 'strerror', error)}); "
            "give a path in a folder that exists and may be written to"
        )

    @staticmethod
    def bind_problem(section: str, host: str, port: int, error: Exception) -> str:
        """Why a port cannot be bound, and what to do."""
        import errno  # noqa: PLC0415 - only on the way out

        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            return f"{section}.port {port} on {host} is in use: stop what listens there or set another {section}.port"
        if number == errno.EACCES:
            return f"{section}.port {port} on {host}: not allowed; ports below 1024 need privileges, take a higher one"
        if number == errno.EADDRNOTAVAIL:
            return f"{section}.host {host} is not an address of this machine; take 127.0.0.1 or 0.0.0.0"
        return f"{section}: cannot listen on {host}:{port}: {error}"
