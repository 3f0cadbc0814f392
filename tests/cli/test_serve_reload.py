"""SIGHUP makes a running process take its files over."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any


async def line(stream: asyncio.StreamReader, word: str) -> dict[str, Any]:
    """The next log line whose message begins with a word."""
    async with asyncio.timeout(10):
        while True:
            record: dict[str, Any] = json.loads(await stream.readline())
            if record["message"].startswith(word):
                return record


async def test_sighup_takes_over_good_files_and_refuses_broken_ones(tmp_path: Path, unused_tcp_port: int) -> None:
    file = tmp_path / "config.yaml"
    text = (
        f"server: {{port: {unused_tcp_port}}}\nadmin: {{enabled: false}}\nlog: {{format: json}}\ndata: {tmp_path}\n"
        "upstreams: {demo: {api: demo}}\nroutes: [{upstream: demo, chain: c}]\nchains: {c: []}\n"
    )
    file.write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", "serve", "--config", str(file), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
                    break
                except OSError:
                    await asyncio.sleep(0.02)
        writer.close()
        await writer.wait_closed()
        process.send_signal(signal.SIGHUP)
        assert (await line(process.stderr, "configuration reloaded"))["why"] == "SIGHUP"
        file.write_text(text + "sever: {}\n")
        process.send_signal(signal.SIGHUP)
        mistake = await line(process.stderr, str(file))
        assert "server" in mistake["message"]
        await line(process.stderr, "reload refused")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
