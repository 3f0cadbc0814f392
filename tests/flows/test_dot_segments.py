"""Paths whose dot segments lead past the routes are refused before anything is matched."""

from __future__ import annotations

import pytest

from proxy.testing import FakeUpstream, chat_answer, reply


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/../files",
        "/v1/chat/%2e%2e/files",
        "/v1/chat/.%2E/files",
        "/v1/chat/..%2ffiles",
        "/v1/chat%2F..%2Ffiles",
        "/v1/chat/..%5cfiles",
        "/v1/chat/..\\files",
        "/v1/chat/..",
        "/v1/chat/./completions",
        "/v1/chat/%2e",
        "http://localhost/v1/chat/../files",
        "/v1/chat/..?x=1",
        "//v1//chat//..//files",
    ],
)
async def test_a_path_with_dot_segments_is_400_and_goes_nowhere(sidecar, setting, upstream, wire, path):
    proxy = await sidecar(setting(upstream))
    client = await wire(proxy.port)
    for _ in range(2):  # a head that comes again, too
        await client.post(path, {"model": "m"})
        answer = await client.answer()
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_value", "path")
    assert upstream.calls == []


@pytest.mark.parametrize(
    "path", ["/v1/files/..a", "/v1/files/...", "/v1/files/a.b", "/v1/files/.hidden", "/v1/x?p=/../"]
)
async def test_other_dots_are_nobodys_business(sidecar, setting, wire, path):
    async with FakeUpstream(default=reply(chat_answer("x"))) as upstream:
        proxy = await sidecar(setting(upstream))
        client = await wire(proxy.port)
        await client.get(path)
        assert (await client.answer()).status == 200
        assert upstream.calls[0].target == path
