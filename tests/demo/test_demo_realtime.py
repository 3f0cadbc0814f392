"""The demo's realtime sessions, directly and through a proxy with the default chain's policies."""

from __future__ import annotations

import openai
import pytest

from proxy.demo import Demo
from proxy.demo.realtime import Session


@pytest.fixture
async def demo():
    one = Demo()
    await one.start()
    yield one
    await one.stop()


@pytest.mark.parametrize("through", [False, True])
async def test_a_session_quotes_what_it_heard(demo, sidecar, through):
    url = demo.url
    if through:
        proxy = await sidecar(
            {
                "upstreams": {"demo": {"api": "demo"}},
                "routes": [{"upstream": "demo", "chain": "main"}],
                "chains": {"main": ["account", "validate", {"pii": {}}, {"cache": {}}, {"retry": {}}]},
            }
        )
        url = proxy.base_url
    async with (
        openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client,
        client.realtime.connect(model="gpt-realtime") as session,
    ):
        assert (await session.recv()).session.model == "gpt-realtime"
        content = [{"type": "input_text", "text": "Hello there"}]
        await session.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        assert (await session.recv()).type == "conversation.item.created"
        await session.response.create()
        text = ""
        async for event in session:
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type == "response.done":
                assert event.response.usage.output_tokens > 0
                break
        assert text == "You said: Hello there"


def test_what_it_does_not_know_is_an_error_event():
    session = Session("m")
    for said in ("no json", "[]", '{"type": "what"}'):
        (event,) = session.hear(said)
        assert '"type":"error"' in event


def test_audio_is_measured():
    session = Session("m")
    assert list(session.hear('{"type": "input_audio_buffer.append", "audio": "AAAAAAAA"}')) == []
    list(session.hear('{"type": "input_audio_buffer.commit"}'))
    assert session.user == "[6 bytes of audio]"
