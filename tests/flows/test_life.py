"""The process from its start to its end, as its user and his init system see it: real child processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from proxy.testing import FakeUpstream, chat_events, events

ROOT = Path(__file__).parents[2]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "my secret words"}]}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Child:
    """A proxy in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, admin: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.admin = admin
        self.log = log

    async def ends(self, seconds: float = 5.0) -> int:
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def ready(self) -> int:
        """What /readyz says; 0 when nobody answers."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.admin)
        except OSError:
            return 0
        writer.write(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return int(line.split()[1]) if line else 0

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start ``python -m proxy serve`` with a configuration; ready when it is returned."""
    started: list[asyncio.subprocess.Process] = []

    async def start(config: dict[str, Any], *more: str, wait: bool = True) -> Child:
        port, admin = free_port(), free_port()
        file, log = tmp_path / "config.yaml", tmp_path / "stderr.txt"
        server = config.get("server", {})
        config = {
            "data": str(tmp_path),
            **config,
            "server": server if "unix" in server else {"port": port, **server},
            "admin": {"port": admin, **config.get("admin", {})},
        }
        file.write_text(json.dumps(config))
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "proxy", "serve", "--config", str(file), *more,
                cwd=ROOT, stderr=out, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        started.append(process)
        child = Child(process, port, admin, log)
        async with asyncio.timeout(10):
            while wait and await child.ready() != 200:
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.02)
        return child

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_sigterm_drains(serve, setting, wire):
    sent = chat_events(["one", "two"])
    async with FakeUpstream(events(*sent, held=True)) as upstream:
        child = await serve(setting(upstream, server={"drain": "10s"}))
        busy, idle = await wire(child.port), await wire(child.port)
        await busy.post("/v1/chat/completions", CHAT | {"stream": True})
        await upstream.call()
        await busy.head()
        child.process.send_signal(signal.SIGTERM)
        assert await idle.closed(timeout=2)
        assert await child.ready() == 503
        with pytest.raises(ConnectionError):
            await wire(child.port)
        upstream.release(10)
        body = b""
        async with asyncio.timeout(3):
            while piece := await busy.chunk():
                body += piece
        assert body == b"".join(sent)
        assert await busy.closed()
        assert await child.ends() == 0


async def test_drain_ends_in_time_and_cuts_what_is_left(serve, setting, wire):
    async with FakeUpstream(events(*chat_events(["one"], finish=None, done=False), then="hang")) as upstream:
        child = await serve(setting(upstream, server={"drain": "300ms"}))
        client = await wire(child.port)
        await client.post("/v1/chat/completions", CHAT | {"stream": True})
        call = await upstream.call()
        child.process.send_signal(signal.SIGTERM)
        assert await child.ends() == 0
        await asyncio.wait_for(call.disconnected, 1)
    line = next(line for line in child.lines() if line.get("logger") == "access")
    assert (line["outcome"], line["error"]) == ("truncated", "draining")
    warned = next(line for line in child.lines() if line["message"].startswith("1 call was cut"))
    assert (warned["level"], warned["message"]) == ("warning", "1 call was cut after drain 300ms")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_now(serve, setting, wire, second):
    async with FakeUpstream(events(*chat_events(["one"], finish=None, done=False), then="hang")) as upstream:
        child = await serve(setting(upstream, server={"drain": "60s"}))
        client = await wire(child.port)
        await client.post("/v1/chat/completions", CHAT | {"stream": True})
        await upstream.call()
        child.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        assert child.process.returncode is None
        child.process.send_signal(second)
        assert await child.ends(3) == 0


async def test_sigint_is_clean(serve, setting, upstream):
    child = await serve(setting(upstream))
    child.process.send_signal(signal.SIGINT)
    assert await child.ends(3) == 0
    assert "Traceback" not in child.log.read_text()


async def test_a_call_on_a_kept_connection_while_draining_is_the_last_one(serve, setting, wire):
    async with FakeUpstream(events(*chat_events(["x"]), held=True)) as upstream:
        child = await serve(setting(upstream))
        client = await wire(child.port)
        await client.post("/v1/chat/completions", CHAT | {"stream": True})
        await upstream.call()
        child.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        upstream.release(10)
        answer = await client.answer()
        assert answer.complete
        assert await client.closed()
        assert await child.ends() == 0


async def test_ready_soon_and_light(serve, setting, upstream):
    chain = [{"authenticate": {"method": "none"}}, "validate", {"retry": {"attempts": 2}}]
    start = time.monotonic()
    child = await serve(setting(upstream, *chain))
    # The promise is 0.7 s on a quiet machine; this one runs other tests at the same time.
    assert time.monotonic() - start < 5
    assert psutil.Process(child.process.pid).memory_info().rss < 80 * 1024 * 1024


# --- what cannot start --------------------------------------------------------------------------------


def refused(tmp_path: Path, config: dict[str, Any] | str | None, *more: str, env: dict[str, str] | None = None) -> str:
    """Run ``serve`` to its end: exit code 2, no traceback. Returns what it said."""
    file = tmp_path / "config.yaml"
    if config is not None:
        file.write_text(config if isinstance(config, str) else json.dumps({"data": str(tmp_path), **config}))
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--config", str(file), *more],
        cwd=ROOT, capture_output=True, text=True, timeout=20, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("section", ["server", "admin"])
def test_a_port_in_use_is_one_line(tmp_path, setting, section):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"server": {"port": 0}, "admin": {"port": 0}} | {section: {"port": port}}
        said = refused(tmp_path, setting("http://127.0.0.1:9/v1", **ports))
    assert said.count("\n") == 1
    assert f"{section}.port {port}" in said
    assert "in use" in said


def test_a_file_that_is_not_there(tmp_path):
    said = refused(tmp_path, None)
    assert said.count("\n") == 1
    assert "config.yaml" in said


def test_a_file_that_is_a_folder_or_no_text(tmp_path):
    (tmp_path / "config.yaml").mkdir()
    assert refused(tmp_path, None).count("\n") == 1
    (tmp_path / "config.yaml").rmdir()
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert refused(tmp_path, None).count("\n") == 1


def test_a_bad_value_names_its_place(tmp_path):
    said = refused(tmp_path, "server:\n  port: 99999\n  hots: x\n")
    assert "config.yaml:2:9: server.port" in said
    assert "did you mean hosts" in said.replace('"', "").replace("`", "")


def test_a_bad_set_and_a_bad_variable(tmp_path, setting):
    config = setting("http://127.0.0.1:9/v1")
    assert "server.port" in refused(tmp_path, config, "--set", "server.port=high")
    assert "LLM_SIDECAR__SERVER__PORT" in refused(tmp_path, config, env={"LLM_SIDECAR__SERVER__PORT": "high"})


def test_an_open_door_is_refused(tmp_path, setting):
    config = setting("http://127.0.0.1:9/v1", server={"host": "0.0.0.0", "port": 0}, admin={"port": 0})
    said = refused(tmp_path, config)
    assert said.count("\n") == 1
    assert "authenticate" in said
    assert "server.hosts" in said


def test_an_address_of_another_machine(tmp_path, setting):
    config = setting("http://127.0.0.1:9/v1", server={"host": "203.0.113.7", "hosts": ["x"], "port": 0})
    assert "not an address of this machine" in refused(tmp_path, config)


@pytest.mark.parametrize("missing", ["cert", "key", "both bad"])
def test_a_certificate_that_cannot_be_read(tmp_path, setting, missing):
    (tmp_path / "bad.pem").write_text("no certificate")
    tls = {"cert": str(tmp_path / "bad.pem"), "key": str(tmp_path / "bad.pem")}
    if missing != "both bad":
        tls[missing] = str(tmp_path / "none.pem")
    said = refused(tmp_path, setting("http://127.0.0.1:9/v1", server={"port": 0, "tls": tls}, admin={"port": 0}))
    assert said.count("\n") == 1
    assert "tls" in said


def test_a_folder_for_the_unix_socket_that_is_not_there(tmp_path, setting):
    server = {"unix": str(tmp_path / "no" / "such" / "folder.sock")}
    said = refused(tmp_path, setting("http://127.0.0.1:9/v1", server=server, admin={"port": 0}))
    assert said.count("\n") == 1
    assert "unix" in said


def test_a_log_file_that_cannot_be_opened(tmp_path, setting):
    config = setting("http://127.0.0.1:9/v1", server={"port": 0}, log={"file": str(tmp_path / "no" / "log.jsonl")})
    said = refused(tmp_path, config)
    assert said.count("\n") == 1
    assert "log.file" in said


async def test_a_head_that_stalls_is_given_up_however_early_its_beginning_came(serve, setting, upstream):
    child = await serve(setting(upstream, server={"header_timeout": "200ms"}))

    async def stall(beginning: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", child.port)
        writer.write(beginning)  # on its way with the connection: there before the server's task has run
        try:
            return await asyncio.wait_for(reader.readline(), 5)
        finally:
            writer.close()

    said = await asyncio.gather(*[stall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc") for _ in range(8)])
    assert {line.split()[1] for line in said} == {b"408"}


# --- listening otherwise ------------------------------------------------------------------------------


async def test_a_unix_socket(serve, setting, upstream, wire, tmp_path):
    path = str(tmp_path / "proxy.sock")
    for _ in range(2):  # a socket left behind by a process that died is taken over
        child = await serve(setting(upstream, "validate", server={"unix": path}))
        client = await wire(unix=path)
        await client.post("/v1/chat/completions", CHAT)
        assert (await client.answer()).status == 200
        child.process.kill()
        await child.process.wait()


async def test_a_unix_socket_that_is_in_use_is_not_taken_and_ours_is_removed(serve, setting, upstream, wire, tmp_path):
    path = tmp_path / "proxy.sock"
    child = await serve(setting(upstream, server={"unix": str(path)}))
    said = await asyncio.to_thread(
        refused, tmp_path, setting(upstream.url, server={"unix": str(path)}, admin={"port": 0})
    )
    assert "another process listens there" in said
    child.process.terminate()
    await child.process.wait()
    assert not path.exists()


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    Path(files["cert"]).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    Path(files["key"]).write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


async def test_tls(serve, setting, wire, certificate):
    async with FakeUpstream(default=events(*chat_events(["x"]))) as upstream:
        child = await serve(setting(upstream, "validate", server={"tls": certificate}))
        context = ssl.create_default_context(cafile=certificate["cert"])
        client = await wire(child.port, ssl=context, server_hostname="localhost")
        for _ in range(2):
            await client.post("/v1/chat/completions", CHAT | {"stream": True})
            assert (await client.answer()).body == b"".join(chat_events(["x"]))
        plain = await wire(child.port)
        await plain.get("/v1/models")
        assert await plain.closed()
        await client.post("/v1/chat/completions", CHAT | {"stream": True})
        assert (await client.answer()).status == 200


# --- the access log -----------------------------------------------------------------------------------


async def test_one_line_a_call_with_its_fields_and_never_a_body_or_key(serve, setting, upstream, wire):
    pool = {"keys": {"pool": {"keys": [{"id": "k1", "secret": "sk-provider-secret"}]}}}
    chain = [{"authenticate": {"method": "none"}}, "validate", "account", "select_key"]
    child = await serve(setting(upstream, *chain, up={"keys": "pool"}, **pool))
    client = await wire(child.port)
    await client.post(
        "/v1/chat/completions?api-key=sk-in-query", CHAT, "Authorization: Bearer sk-mine", "X-Request-Id: id-1"
    )
    assert (await client.answer()).status == 200
    await client.post("/v1/chat/completions", b'{"model": "my secret model"', "X-Request-Id: id-2")
    assert (await client.answer()).status == 400
    child.process.send_signal(signal.SIGTERM)
    assert await child.ends() == 0
    good, bad = [line for line in child.lines() if line.get("logger") == "access"]
    wanted = {"time", "request_id", "route", "chain", "principal", "model", "upstream", "status", "outcome", "duration_ms",
              "ttfb_ms", "input_tokens", "output_tokens"}  # fmt: skip
    assert wanted <= set(good)
    assert (good["request_id"], good["status"], good["outcome"], good["model"]) == ("id-1", 200, "answered", "gpt-4o")
    assert (good["route"], good["chain"], good["upstream"], good["key"]) == ("#1", "main", "up", "k1")
    assert (good["input_tokens"], good["output_tokens"]) == (9, 3)
    assert 0 < good["ttfb_ms"] <= good["duration_ms"] < 5000
    assert (bad["request_id"], bad["status"], bad["outcome"], bad["error"]) == ("id-2", 400, "refused", "invalid_json")
    assert (bad["severity"], bad["fault"], bool(bad["next_step"])) == ("info", "client", True)
    text = child.log.read_text()
    assert not [word for word in ("secret words", "sk-", "secret model") if word in text]
