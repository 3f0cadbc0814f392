"""What the ``x-demo-*`` headers ask for, and the wire below the SDKs."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import socket
import sys
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from proxy.demo import Demo
from proxy.testing import collect_sse

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
BODY = {"model": "m", "messages": HELLO}


async def ask(http: aiohttp.ClientSession, demo: Demo, headers: dict[str, str], **more: Any) -> tuple[int, bytes]:
    async with http.post(demo.url + "/chat/completions", json={**BODY, **more}, headers=headers) as answer:
        return answer.status, await answer.read()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (529, openai.InternalServerError),
    ],
)
async def test_errors_come_when_asked_for(client: AsyncOpenAI, status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await client.chat.completions.create(model="m", messages=HELLO, extra_headers={"x-demo-status": str(status)})


async def test_an_error_carries_its_code_and_retry_after(client: AsyncOpenAI) -> None:
    headers = {"x-demo-status": "429", "x-demo-retry-after": "2", "x-demo-code": "insufficient_quota"}
    with pytest.raises(openai.RateLimitError) as caught:
        await client.chat.completions.create(model="m", messages=HELLO, stream=True, extra_headers=headers)
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.headers["retry-after"] == "2"


async def test_a_series_fails_as_often_as_asked(demo: Demo, http: aiohttp.ClientSession) -> None:
    seen = [(await ask(http, demo, {"x-demo-fail": "a=2"}))[0] for _ in range(4)]
    assert seen == [503, 503, 200, 200]
    other = {"x-demo-fail": "b=1", "x-demo-status": "429"}
    assert [(await ask(http, demo, other))[0] for _ in range(2)] == [429, 200]


async def test_the_sdks_own_retries_see_a_series_through(demo: Demo) -> None:
    async with AsyncOpenAI(base_url=demo.url, api_key="x", max_retries=2) as client:
        answer = await client.chat.completions.create(
            model="m", messages=HELLO, extra_headers={"x-demo-fail": "c=1", "x-demo-retry-after": "0.01"}
        )
    assert answer.choices[0].message.content == "You said: Hello"
    assert demo.requests == 2


async def test_latency_and_delay_are_kept(demo: Demo, http: aiohttp.ClientSession) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await ask(http, demo, {"x-demo-latency": "60ms"})
    assert loop.time() - began >= 0.06
    began = loop.time()
    _, raw = await ask(http, demo, {"x-demo-delay": "10ms"}, stream=True)
    assert loop.time() - began >= 0.01 * len(collect_sse(raw))


async def test_a_stream_is_cut_after_as_many_events(demo: Demo, http: aiohttp.ClientSession) -> None:
    got = b""
    headers = {"x-demo-cut": "3"}
    async with http.post(demo.url + "/chat/completions", json={**BODY, "stream": True}, headers=headers) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            async for piece in answer.content.iter_any():
                got += piece
    assert len(collect_sse(got)) == 3


async def test_a_whole_body_is_cut_in_the_middle(demo: Demo, http: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(http, demo, {"x-demo-cut": "0"})


async def test_a_stalled_stream_says_nothing_more(demo: Demo, http: aiohttp.ClientSession) -> None:
    headers = {"x-demo-stall": "2"}
    async with http.post(demo.url + "/chat/completions", json={**BODY, "stream": True}, headers=headers) as answer:
        got = await answer.content.readuntil(b"\n\n") + await answer.content.readuntil(b"\n\n")
        assert len(collect_sse(got)) == 2
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(answer.content.readany(), 0.05)


async def test_answers_can_be_long_and_without_usage(demo: Demo, http: aiohttp.ClientSession) -> None:
    import json

    _, raw = await ask(http, demo, {"x-demo-tokens": "500", "x-demo-usage": "none"}, stream=True)
    pieces = [event["choices"][0]["delta"].get("content") for event in collect_sse(raw)[:-1]]
    assert len([piece for piece in pieces if piece]) == 500
    _, raw = await ask(http, demo, {"x-demo-tokens": "500"})
    assert json.loads(raw)["usage"]["completion_tokens"] == 500
    _, raw = await ask(http, demo, {"x-demo-usage": "none"})
    assert "usage" not in json.loads(raw)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-demo-latency": "200"},
        {"x-demo-status": "200"},
        {"x-demo-status": "many"},
        {"x-demo-fail": "2"},
        {"x-demo-fail": "a=b"},
        {"x-demo-cut": "-1"},
    ],
)
async def test_wishes_that_make_no_sense_are_refused(
    demo: Demo, http: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    status, raw = await ask(http, demo, headers)
    assert status == 400
    assert next(iter(headers)).encode() in raw


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "m", "model": "x"}', b"\xff", b"[" * 100_000])
async def test_what_is_no_json_object_is_refused(demo: Demo, http: aiohttp.ClientSession, body: bytes) -> None:
    for path in ("/chat/completions", "/embeddings", "/responses", "/messages", "/moderations", "/audio/speech"):
        async with http.post(demo.url + path, data=body) as answer:
            assert answer.status == 400
            assert "message" in (await answer.json())["error"]


async def test_packed_and_large_bodies_are_read(demo: Demo, http: aiohttp.ClientSession) -> None:
    import json

    large = {"model": "m", "messages": [{"role": "user", "content": "x" * 3_000_000}]}
    packed = gzip.compress(json.dumps(large).encode())
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    async with http.post(demo.url + "/chat/completions", data=packed, headers=headers) as answer:
        assert answer.status == 200
        assert len(await answer.read()) < 20_000


async def test_paths_as_azure_has_them_are_understood(demo: Demo, http: aiohttp.ClientSession) -> None:
    url = demo.url.removesuffix("/v1") + "/openai/deployments/my-gpt/chat/completions?api-version=1"
    async with http.post(url, json={"messages": HELLO}) as answer:
        assert answer.status == 200


async def test_stopping_ends_what_is_under_way(http: aiohttp.ClientSession) -> None:
    demo = Demo()
    await demo.start()
    hanging = asyncio.create_task(ask(http, demo, {"x-demo-latency": "1h"}))
    while not demo.requests:
        await asyncio.sleep(0.001)
    await asyncio.wait_for(demo.stop(), 2)
    with pytest.raises(aiohttp.ClientError):
        await hanging


async def test_the_command_serves_until_it_is_told_to_end() -> None:
    code = (
        "import argparse, sys\n"
        "from proxy.cli import demo\n"
        "parser = argparse.ArgumentParser()\n"
        "demo.add_parser(parser.add_subparsers())\n"
        "args = parser.parse_args(sys.argv[1:])\n"
        "sys.exit(args.run(args))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "demo", "--port", "0", stdout=-1, stderr=-1, env={**os.environ, "PYTHONPATH": "."}
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    async with AsyncOpenAI(base_url=url, api_key="x") as client:
        assert (await client.chat.completions.create(model="m", messages=HELLO)).choices
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 5) == 0

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, "demo", "--port", port, stdout=-1, stderr=-1
        )
        _, said = await process.communicate()
    assert process.returncode == 2
    assert b"cannot listen" in said
    assert b"Traceback" not in said
