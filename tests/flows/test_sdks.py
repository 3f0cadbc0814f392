"""Unchanged clients: the real openai SDK and LangChain, through a plain forward and through a chain."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import struct
from typing import Any

import httpx2
import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from proxy.testing import FakeUpstream, chat_answer, chat_events, events, hang, reply, reset

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CHAINS: list[list[Any]] = [
    [],
    [{"authenticate": {"method": "none"}}, "validate", {"retry": {"attempts": 1}}],
]
pytestmark = pytest.mark.parametrize("chain", CHAINS, ids=["plain", "chain"])


def client(proxy: Any, **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=proxy.base_url, api_key="sk-own", max_retries=0, timeout=5, **more)


async def test_sync_whole_and_streamed(sidecar, setting, chain):
    async with FakeUpstream(reply(chat_answer("Hi")), events(*chat_events(["Hel", "lo"]))) as upstream:
        proxy = await sidecar(setting(upstream, *chain))

        def work() -> tuple[str | None, str]:
            with openai.OpenAI(base_url=proxy.base_url + "/", api_key="sk-own", max_retries=0) as sdk:
                whole = sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
                stream = sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
                text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
                return whole.choices[0].message.content, text

        assert await asyncio.to_thread(work) == ("Hi", "Hello")
        assert upstream.calls[0].header("authorization") == "Bearer sk-own"
        assert upstream.calls[0].target == "/v1/chat/completions"


async def test_raw_responses_show_the_providers_headers(sidecar, setting, chain):
    headers = {"x-request-id": "req-up", "openai-processing-ms": "12", "x-ratelimit-remaining-tokens": "99"}
    async with FakeUpstream(reply(chat_answer("Hi"), headers=headers)) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        async with client(proxy) as sdk:
            raw = await sdk.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
            assert raw.headers["openai-processing-ms"] == "12"
            assert raw.headers["x-ratelimit-remaining-tokens"] == "99"
            assert raw.headers["x-sidecar-upstream"] == "up"
            assert raw.parse()._request_id == "req-up"


async def test_streams_with_usage_and_tool_calls(sidecar, setting, chain):
    def tool(**function: Any) -> dict[str, Any]:
        call = {"index": 0, "function": function} | ({"id": "c1", "type": "function"} if "name" in function else {})
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}  # fmt: skip

    end = chat_events([], usage=(3, 4), finish="tool_calls")[1:]
    async with FakeUpstream(
        events(tool(name="f", arguments=""), tool(arguments='{"a"'), tool(arguments=":1}"), *end)
    ) as up:
        proxy = await sidecar(setting(up, *chain))
        async with client(proxy) as sdk:
            tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
            options: Any = {"include_usage": True}
            async with sdk.chat.completions.stream(
                model="gpt-4o", messages=HELLO, tools=tools, stream_options=options
            ) as stream:
                final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert (calls[0].function.name, calls[0].function.arguments) == ("f", '{"a":1}')
    assert final.usage is not None
    assert final.usage.total_tokens == 7


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (529, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_providers_error_is_its_exception(sidecar, setting, chain, status, kind, stream):
    body = {"error": {"message": "said so", "type": "t", "param": "p", "code": "c"}}
    async with FakeUpstream(reply(body, status=status)) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        async with client(proxy) as sdk:
            with pytest.raises(kind) as caught:
                await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=stream)
    assert (caught.value.code, caught.value.param, caught.value.type) == ("c", "p", "t")
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"<html>bad gateway</html>", "text/html"), (b"", "text/plain"), (b'["list"]', "application/json")],
)
async def test_error_bodies_of_any_kind_pass_unharmed(sidecar, setting, chain, body, kind):
    async with FakeUpstream(reply(body=body, status=502, content_type=kind)) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        async with client(proxy) as sdk:
            with pytest.raises(openai.InternalServerError) as caught:
                await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert caught.value.response.content == body
    assert caught.value.response.headers["content-type"] == kind


async def test_our_own_errors_are_exceptions_too(sidecar, setting, chain):
    async with FakeUpstream(reset()) as upstream:
        upstream.script(reset(), hang())
        proxy = await sidecar(setting(upstream, *chain, up={"timeouts": {"first_byte": "200ms"}}))
        async with client(proxy) as sdk:
            with pytest.raises(openai.InternalServerError) as caught:
                await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
            assert (caught.value.status_code, caught.value.code) == (502, "upstream_unreachable")
            upstream.steps[:] = [hang()]
            with pytest.raises(openai.InternalServerError) as caught:
                await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
            assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
            if chain:
                with pytest.raises(openai.BadRequestError) as wrong:
                    await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, temperature=9)
                assert (wrong.value.code, wrong.value.param) == ("invalid_value", "temperature")


@pytest.mark.parametrize("then", ["reset", "close", "end", "error"])
async def test_a_stream_that_ends_early_raises(sidecar, setting, chain, then):
    part = chat_events(["half"], finish=None, done=False)
    error = b'data: {"error": {"message": "The server had an error.", "type": "server_error"}}\n\n'
    step = events(*part, error, gap=0.05) if then == "error" else events(*part, b": ping\n\n", then=then, gap=0.05)
    async with FakeUpstream(step) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        text, raised = "", False
        async with client(proxy) as sdk:
            try:
                async for chunk in await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True):
                    text += chunk.choices[0].delta.content or ""
            except (openai.APIError, httpx2.HTTPError):
                raised = True
    assert text == "half"
    # A plain forward reads no events: what the provider ends in good order passes as it is.
    assert raised is (then != "end" or bool(chain))


async def test_leaving_a_stream_early_ends_the_upstream(sidecar, setting, chain):
    async with FakeUpstream(events(*chat_events(["one"], finish=None, done=False), then="hang")) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        async with client(proxy) as sdk:
            stream = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            await stream.close()
            await asyncio.wait_for(upstream.calls[0].disconnected, 0.5)
    gc.collect()


async def test_embeddings_stay_as_they_were_asked_for(sidecar, setting, chain):
    vector = base64.b64encode(struct.pack("<3f", 0.5, -1, 2)).decode()
    body = {"object": "list", "model": "e", "usage": {"prompt_tokens": 1, "total_tokens": 1},
            "data": [{"object": "embedding", "index": 0, "embedding": vector}]}  # fmt: skip
    async with FakeUpstream(default=reply(body)) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        async with client(proxy) as sdk:
            found = await sdk.embeddings.create(model="e", input=["x"])
        assert found.data[0].embedding == [0.5, -1, 2]
        assert upstream.calls[0].json["encoding_format"] == "base64"
        lang = OpenAIEmbeddings(model="e", base_url=proxy.base_url, api_key="sk-own", check_embedding_ctx_length=False)
        assert await lang.aembed_query("x") == [0.5, -1, 2]
        await lang.async_client._client.close()


async def test_uploads_keep_bytes_and_names(sidecar, setting, chain):
    data = bytes(range(256)) * 40
    answers = [{"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "é.jsonl", "purpose": "batch",
                "status": "processed"}, {"text": "words"}]  # fmt: skip
    async with FakeUpstream(*(reply(one) for one in answers)) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        async with client(proxy) as sdk:
            made = await sdk.files.create(file=("é.jsonl", io.BytesIO(data)), purpose="batch")
            assert made.id == "file-1"
            said = await sdk.audio.transcriptions.create(model="whisper-1", file=("a.wav", data))
            assert said.text == "words"
        for call in upstream.calls:
            assert data in call.body
            assert (call.header("content-type") or "").startswith("multipart/form-data; boundary=")
        assert "é.jsonl".encode() in upstream.calls[0].body


async def test_downloads_come_whole(sidecar, setting, chain):
    sound = bytes(range(256)) * 4000
    async with FakeUpstream(
        default=reply(body=sound, content_type="audio/mpeg", framing="chunked", pieces=9)
    ) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        async with client(proxy) as sdk:
            speech = await sdk.audio.speech.create(model="tts", voice="alloy", input="Hello")
            assert await speech.aread() == sound
            content = await sdk.files.content("file-1")
            assert content.content == sound


async def test_responses_whole_and_streamed(sidecar, setting, chain):
    item = {"id": "m1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Hi", "annotations": []}]}  # fmt: skip
    whole = {"id": "r1", "object": "response", "created_at": 1, "model": "gpt-4o", "status": "completed", "output": [item],
             "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
             "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, "input_tokens_details": {"cached_tokens": 0},
                       "output_tokens_details": {"reasoning_tokens": 0}}}  # fmt: skip

    def event(kind: str, **more: Any) -> bytes:
        import orjson

        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, "sequence_number": 1, **more}))

    sent = [
        event("response.created", response=whole | {"status": "in_progress", "output": []}),
        event("response.output_text.delta", item_id="m1", output_index=0, content_index=0, delta="Hi", logprobs=[]),
        event("response.completed", response=whole),
    ]
    async with FakeUpstream(reply(whole), events(*sent)) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        async with client(proxy) as sdk:
            assert (await sdk.responses.create(model="gpt-4o", input="Hello")).output_text == "Hi"
            kinds = [e.type async for e in await sdk.responses.create(model="gpt-4o", input="Hello", stream=True)]
    assert kinds == ["response.created", "response.output_text.delta", "response.completed"]


async def test_langchain_whole_streamed_and_failing(sidecar, setting, chain):
    wrong = reply({"error": {"message": "no", "code": "c"}}, status=400)
    async with FakeUpstream(reply(chat_answer("Hi")), events(*chat_events(["Hel", "lo"])), wrong) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        model = ChatOpenAI(model="gpt-4o", base_url=proxy.base_url, api_key="sk-own", max_retries=0)
        assert (await model.ainvoke("Hello")).content == "Hi"
        assert "".join([str(piece.content) async for piece in model.astream("Hello")]) == "Hello"
        with pytest.raises(openai.BadRequestError):
            await model.ainvoke("Hello")
        await model.root_async_client.close()


async def test_an_sdk_that_retries_counts_for_one_try_each(sidecar, setting, chain):
    again = [*chain[:-1], {"retry": {"attempts": 3, "backoff": {"initial": "1ms", "max": "1ms"}}}] if chain else []
    async with FakeUpstream(default=reply({"error": {"message": "x"}}, status=500)) as upstream:
        proxy = await sidecar(setting(upstream, *again))
        async with openai.AsyncOpenAI(base_url=proxy.base_url, api_key="sk", max_retries=1) as sdk:
            with pytest.raises(openai.InternalServerError):
                await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert len(upstream.calls) == (4 if chain else 2)


async def test_parallel_calls_do_not_mix(sidecar, setting, chain):
    async def echo(call: Any) -> None:
        await reply(chat_answer(call.json["messages"][0]["content"]))(call)

    async with FakeUpstream(default=echo) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        async with client(proxy) as sdk:

            async def one(number: int) -> bool:
                said: list[Any] = [{"role": "user", "content": f"number {number}"}]
                answer = await sdk.chat.completions.create(model="gpt-4o", messages=said)
                return answer.choices[0].message.content == f"number {number}"

            assert all(await asyncio.gather(*(one(number) for number in range(60))))


async def test_a_connection_the_upstream_closed_is_no_error(sidecar, setting, chain):
    async with FakeUpstream(reply(chat_answer("one")), default=reply(chat_answer("two"))) as upstream:
        proxy = await sidecar(setting(upstream, *chain))
        async with client(proxy) as sdk:
            await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
            upstream.drop_idle()
            await asyncio.sleep(0.05)
            assert (await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)).choices[
                0
            ].message.content == "two"
