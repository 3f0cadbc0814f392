"""Real databases, and calls written into journals."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from proxy.accounting import record
from proxy.accounting.journal import Journal
from proxy.accounting.ledger.base import Ledger
from proxy.accounting.ledger.postgres import PostgresLedger
from proxy.accounting.ledger.sqlite import SqliteLedger

# Debian keeps each major version in a folder of its own: the newest that is there.
BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/none"))


class Postgres:
    """A PostgreSQL server of our own, on a free port of 127.0.0.1, that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "--no-sync")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(BIN / program), *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, timeout=60)

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-o", options, "-l", str(self.folder / "log"), "-w", "start"
        )

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", mode, "-w", "stop")

    def database(self, name: str) -> str:
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", name)
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    if not BIN.exists():
        pytest.fail("these tests run a real PostgreSQL: install Debian's package postgresql (make test does)")
    folder = Path(f"/tmp/llm-sidecar-postgres-{os.getpid()}")
    folder.mkdir(mode=0o755)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    server = Postgres(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> str:
    return postgres_server.database(f"t{time.time_ns()}")


@pytest.fixture(params=["sqlite", "postgres"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    """An open ledger of each kind."""
    opened: Ledger
    if request.param == "sqlite":
        opened = SqliteLedger(tmp_path / "ledger.db")
    else:
        opened = PostgresLedger(request.getfixturevalue("postgres_url"))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def call() -> Callable[..., int]:
    """Writes one whole call (begin and end) into a journal; returns its number."""

    def write(journal: Journal, *, at: int | None = None, cost: int = 1_000, **changes: object) -> int:
        number = journal.ids.next()
        moment = int(time.time() * 1000) if at is None else at
        dimensions = ("principal", "project", "tags", "task", "route", "model_asked", "model", "upstream", "key")
        named = {"principal": "alice", "project": "red", "model": "gpt-4o-mini", "upstream": "openai", "key": "k1"}
        named |= {name: str(changes.pop(name)) for name in dimensions if name in changes}
        who = record.attribution(**named)
        usage = changes.pop("usage", (100, 20))
        journal.begin(number, record.begin(number, moment, f"r{number}", who, 5_000, "v1", (100, 1_000)))
        line = record.end(number, moment, f"r{number}", who, cost=cost, version="v1", usage=usage, **changes)  # type: ignore[arg-type]
        journal.end(number, line)
        return number

    return write


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = Journal(tmp_path / "journal")
    opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object], float], object]:
    """Wait until something holds, for at most so many seconds."""

    async def wait(condition: Callable[[], object], seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    return wait  # type: ignore[return-value]
