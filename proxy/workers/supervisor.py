"""Starts the workers, replaces those that die, and ends them together.

A worker that dies is replaced: at once the first time, then after 0.2 s, doubling up to 10 s, as long as workers in its
place live less than 10 s. SIGTERM and SIGINT drain all workers, a second one ends them now, SIGHUP is passed on. If the
supervisor itself is killed, the workers see the end of their stdin and drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy.app import App, StartError
from proxy.config import ConfigError, Loaded
from proxy.config.reload import Files, needs_restart
from proxy.load import load_config
from proxy.telemetry.logs import Logs
from proxy.workers.whole import WholeAdmin
from proxy.workers.worker import Orders

if TYPE_CHECKING:
    from proxy.config.model import Config

log = logging.getLogger("llm_sidecar.workers")

SHORT_LIFE: Final = 10.0
"""Seconds that a worker has to live for its death not to count as part of a crash loop."""
FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 10.0
LOOK_EVERY: Final = 2.0
GRACE: Final = 5.0
"""Seconds after the drain's end, or after a second signal, before a worker is killed."""


class Member:
    """One place among the workers. ready: it serves. deaths: short lives in a row. admin: its private socket."""

    def __init__(self, number: int, admin: str) -> None:
        self.number = number
        self.admin = admin
        self.process: asyncio.subprocess.Process | None = None
        self.ready = False
        self.deaths = 0

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return None if self.process is None else self.process.pid


class Supervisor:
    """``where``, ``admin_url``, ``config``: as of one process. count: workers wanted. started: all were ready once."""

    def __init__(self, loaded: Loaded, file: str, overrides: tuple[str, ...]) -> None:
        self.loaded = loaded
        self.config: Config = loaded.config
        self.count = loaded.config.server.workers
        self.where: list[str] = []
        self.admin_url: str | None = None
        self.started = False
        self.draining = False
        self._file = file
        self._overrides = overrides
        self._folder = ""
        self._socket: socket.socket | None = None
        self._port = 0
        self._members: list[Member] = []
        self._keeping: set[asyncio.Future[Any]] = set()
        self._admin: WholeAdmin | None = None
        self._stop = asyncio.Event()
        self._signals = 0
        self._failed: str | None = None

    @property
    def ready_members(self) -> list[Member]:
        """The workers that serve."""
        return [member for member in self._members if member.ready]

    @property
    def pids(self) -> list[int]:
        """Of the workers that run."""
        return [member.pid for member in self._members if member.pid is not None]

    def keep(self, task: asyncio.Future[Any]) -> None:
        """Hold a task until it ends."""
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    # --- life --------------------------------------------------------------------------------------

    async def run(self, greet: Callable[[Any], None] | None = None) -> int:
        """Serve until a signal. Returns the exit code. Raises StartError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.signalled)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)
        try:
            logs = Logs(self.config.log)
        except OSError as error:
            raise StartError(
                f"log.file {self.config.log.file}: cannot be opened ({error.strerror}); check the path"
            ) from None
        self._folder = tempfile.mkdtemp(prefix="llm-sidecar-")  # mode 0700: only this user can open what is in it
        try:
            self._bind()
            await self._open_admin()
            await self._start_all()
            if self._failed is not None:
                raise StartError(self._failed)
            if not self._stop.is_set():
                self.started = True
                log.info("workers are ready", extra={"workers": self.count, "where": self.where})
                if greet is not None:
                    greet(self)
            self.keep(loop.create_task(self._keep_up(), name="config-watch"))
            await self._stop.wait()
            self.draining = True
            await self._end()
        finally:
            await self._clean_up()
            logs.close()
        if self._failed is not None:
            raise StartError(self._failed)
        return 0

    def signalled(self) -> None:
        """The first signal drains, the second ends now."""
        self._signals += 1
        self.draining = True
        self._stop.set()
        # Two of one kind that come soon after each other are one to a worker that is busy.
        self._pass_on(signal.SIGTERM if self._signals == 1 else signal.SIGINT)

    def _pass_on(self, number: int) -> None:
        for member in self._members:
            if member.process is not None and member.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    member.process.send_signal(number)

    async def _end(self) -> None:
        """Until every worker has ended; what does not end in time is killed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.config.server.drain + GRACE
        hurried = False
        while any(member.process is not None for member in self._members):
            if self._signals > 1 and not hurried:
                hurried = True
                until = min(until, loop.time() + GRACE)
            if loop.time() > until:
                log.warning("workers did not end in time and are killed")
                self._pass_on(signal.SIGKILL)
                until = loop.time() + GRACE
            await asyncio.sleep(0.02)

    async def _clean_up(self) -> None:
        self.draining = True
        self._pass_on(signal.SIGKILL)
        for task in list(self._keeping):
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        if self._admin is not None:
            await self._admin.stop()
        if self._socket is not None:
            self._socket.close()
        unix = self.config.server.unix
        if unix is not None and self._socket is not None:
            with contextlib.suppress(FileNotFoundError):  # it could not be bound
                os.unlink(unix)  # noqa: PTH108 - nothing is served any more
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- the ports ---------------------------------------------------------------------------------

    def _bind(self) -> None:
        """Hold the port: it is told early if it is taken, and port 0 is the same for all."""
        server = self.config.server
        try:
            if server.unix is not None:
                Path(server.unix).unlink(missing_ok=True)
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.bind(str(server.unix))
                self._socket.listen(server.backlog)
                return
            family, kind, protocol, _, address = socket.getaddrinfo(
                server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind(address)
            self._port = self._socket.getsockname()[1]
        except (OSError, OverflowError) as error:
            raise StartError(App.listen_problem(server, error)) from None

    async def _open_admin(self) -> None:
        admin = self.config.admin
        if not admin.enabled:
            return
        self._admin = WholeAdmin(self)
        try:
            self.admin_url = await self._admin.start()
        except (OSError, OverflowError) as error:
            raise StartError(App.bind_problem("admin", admin.host, admin.port, error)) from None

    # --- the workers -------------------------------------------------------------------------------

    async def _start_all(self) -> None:
        """Until every worker was ready once, one cannot start, or a signal comes."""
        firsts: list[asyncio.Future[None]] = []
        for number in range(1, self.count + 1):
            member = Member(number, f"{self._folder}/{number}.sock")
            self._members.append(member)
            first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            firsts.append(first)
            self.keep(asyncio.ensure_future(self._look_after(member, first)))
        stop = asyncio.ensure_future(self._stop.wait())
        ready = asyncio.gather(*firsts)
        await asyncio.wait((stop, ready), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not ready.done():
            ready.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ready

    async def _look_after(self, member: Member, first: asyncio.Future[None]) -> None:
        """Run workers in one place, one after the other, until the whole ends."""
        loop = asyncio.get_running_loop()
        while not self.draining:
            born = loop.time()
            code = await self._live(member, first)
            if self._stop.is_set():
                return
            if self._failed is not None:
                self.draining = True
                self._stop.set()
                break
            lived = loop.time() - born
            member.deaths = member.deaths + 1 if lived < SHORT_LIFE else 0
            wait = min(FIRST_WAIT * 2 ** (member.deaths - 2), LONGEST_WAIT) if member.deaths > 1 else 0.0
            log.error(
                f"worker {member.number} {_manner(code)} and is replaced",
                extra={"worker": member.number, "exit_code": code, "lived_s": round(lived, 1), "wait_s": wait},
            )
            await _first_of(asyncio.sleep(wait), self._stop.wait())

    async def _live(self, member: Member, first: asyncio.Future[None]) -> int:
        """One worker from its start to its end. Returns its exit code."""
        loop = asyncio.get_running_loop()
        hear, speak = os.pipe()
        listening = None
        if self.config.server.unix is not None and self._socket is not None:
            listening = self._socket.fileno()
        process = member.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proxy.workers.worker",
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(speak,) if listening is None else (speak, listening),
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which passes it on
        )
        os.close(speak)
        orders = pickle.dumps(
            Orders(member.number, self.loaded, self._file, self._overrides, self._port, listening, member.admin, speak)
        )
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(len(orders).to_bytes(8, "big") + orders)
            await process.stdin.drain()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(hear, "rb"))
        try:
            line = await reader.readline()
        finally:
            transport.close()
        said = json.loads(line) if line else {}
        if "error" in said:
            if not first.done():
                self._failed = said["error"]
            log.error("worker cannot start: %s", said["error"], extra={"worker": member.number})
        elif said:
            member.ready = True
            self.where = self.where or said["where"]
            if not first.done():
                first.set_result(None)
            if self._signals:
                process.send_signal(signal.SIGTERM)  # the signal came while it started
        try:
            return await process.wait()
        finally:
            member.ready = False
            member.process = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(member.admin)  # noqa: PTH108 - a directory entry in /tmp
            if self._admin is not None:
                self._admin.forget(member.admin)
            if self._failed is not None and not first.done():
                first.set_result(None)

    async def _keep_up(self) -> None:
        """A worker that is started later gets the configuration that the others have taken over by then."""
        if not Path(self._file).is_file():  # noqa: ASYNC240 - once
            return
        files = Files(self.loaded.sources)
        seen = await asyncio.to_thread(files.look)
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = await asyncio.to_thread(files.look)
            if now == seen:
                continue
            seen = now
            try:
                fresh, _ = await asyncio.to_thread(load_config, self._file, overrides=self._overrides)
            except (ConfigError, OSError):
                continue  # the workers say what is wrong with it
            if not needs_restart(self.loaded, fresh):
                self.loaded = fresh
                files = Files(fresh.sources)
                seen = await asyncio.to_thread(files.look)


def _manner(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


async def _first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
