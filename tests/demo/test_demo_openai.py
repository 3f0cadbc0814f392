"""The demo upstream as OpenAI's own SDK sees it."""

from __future__ import annotations

import base64
import io
import struct
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

HELLO: list[Any] = [{"role": "user", "content": "Hello, I am bob@example.com"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string"},
                "unit": {"enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 2},
                "when": {"anyOf": [{"$ref": "#/$defs/when"}, {"type": "null"}]},
            },
            "$defs": {"when": {"type": "array", "items": {"type": "string"}}},
        },
    },
}


async def test_an_answer_quotes_what_was_received(client: AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, *HELLO]
    answer = await client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    said = answer.choices[0].message.content
    assert said == "You said: Hello, I am bob@example.com\nThe system prompt said: Be brief."
    assert (answer.model, answer.choices[0].finish_reason) == ("gpt-4o-mini", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 10
    assert answer._request_id is not None


async def test_the_same_request_gets_the_same_answer(client: AsyncOpenAI) -> None:
    one, two = [await client.chat.completions.create(model="m", messages=HELLO) for _ in range(2)]
    assert one.id == two.id
    assert one.choices == two.choices


async def test_a_stream_says_the_same_piece_by_piece(client: AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="m", messages=HELLO)
    text, finishes, usages = "", [], []
    stream = await client.chat.completions.create(
        model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finishes.append(choice.finish_reason)
        usages.append(chunk.usage)
    assert text == whole.choices[0].message.content
    assert [finish for finish in finishes if finish] == ["stop"]
    assert usages[-1] == whole.usage
    assert usages[:-1] == [None] * (len(usages) - 1)


async def test_usage_is_streamed_only_when_asked_for(client: AsyncOpenAI) -> None:
    async for chunk in await client.chat.completions.create(model="m", messages=HELLO, stream=True):
        assert chunk.usage is None
        assert chunk.choices


async def test_n_choices_are_told_apart(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="m", messages=HELLO, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    texts = {0: "", 1: "", 2: ""}
    async for chunk in await client.chat.completions.create(model="m", messages=HELLO, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(texts.values()) == [choice.message.content for choice in answer.choices]


async def test_offered_tools_are_called_with_what_was_said(client: AsyncOpenAI) -> None:
    import json

    answer = await client.chat.completions.create(model="m", messages=HELLO, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    call: Any = calls[0]
    told = {"place": HELLO[0]["content"], "unit": "C", "days": 2, "when": [HELLO[0]["content"]]}
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", told)

    name, given = "", ""
    async for chunk in await client.chat.completions.create(model="m", messages=HELLO, tools=[WEATHER], stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.function is not None
            name += delta.function.name or ""
            given += delta.function.arguments or ""
    assert (name, given) == (call.function.name, call.function.arguments)

    messages = [*HELLO, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "20 degrees"}]
    then = await client.chat.completions.create(model="m", messages=messages, tools=[WEATHER])
    assert then.choices[0].message.content == "The tool said: 20 degrees"


async def test_tool_choice_picks_or_forbids_a_tool(client: AsyncOpenAI) -> None:
    other: Any = {"type": "function", "function": {"name": "other"}}
    picked = await client.chat.completions.create(
        model="m",
        messages=HELLO,
        tools=[WEATHER, other],
        tool_choice={"type": "function", "function": {"name": "other"}},
    )
    calls: Any = picked.choices[0].message.tool_calls
    assert calls[0].function.name == "other"
    none = await client.chat.completions.create(model="m", messages=HELLO, tools=[WEATHER], tool_choice="none")
    assert none.choices[0].message.tool_calls is None


async def test_json_mode_answers_in_json(client: AsyncOpenAI) -> None:
    import json

    loose = await client.chat.completions.create(model="m", messages=HELLO, response_format={"type": "json_object"})
    assert json.loads(loose.choices[0].message.content or "") == {"answer": "You said: Hello, I am bob@example.com"}
    schema = {"type": "object", "properties": {"mood": {"type": "string"}, "sure": {"type": "boolean"}}}
    strict = await client.chat.completions.create(
        model="m",
        messages=HELLO,
        response_format={"type": "json_schema", "json_schema": {"name": "mood", "schema": schema}},
    )
    assert json.loads(strict.choices[0].message.content or "") == {
        "mood": "You said: Hello, I am bob@example.com",
        "sure": True,
    }


async def test_max_tokens_and_stop_end_an_answer(client: AsyncOpenAI) -> None:
    cut = await client.chat.completions.create(model="m", messages=HELLO, max_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("You said", "length")
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 2
    stopped = await client.chat.completions.create(model="m", messages=HELLO, stop=["I am"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("You said: Hello, ", "stop")


async def test_completions_answer_each_prompt(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model="m", prompt=["one", "two"])
    assert [choice.text for choice in answer.choices] == ["You said: one", "You said: two"]
    text = ""
    async for chunk in await client.completions.create(model="m", prompt="one", stream=True):
        text += chunk.choices[0].text
    assert text == "You said: one"


async def test_embeddings_depend_on_the_input_alone(client: AsyncOpenAI) -> None:
    first = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b", "a"], dimensions=64)
    a, b, again = (item.embedding for item in first.data)
    assert len(a) == 64
    assert a == again != b
    assert abs(sum(x * x for x in a) - 1) < 1e-5
    plain = await client.embeddings.create(
        model="text-embedding-3-small", input="a", dimensions=64, encoding_format="float"
    )
    assert plain.data[0].embedding == pytest.approx(a, abs=1e-6)
    raw = await client.embeddings.with_raw_response.create(
        model="text-embedding-3-small", input="a", dimensions=64, encoding_format="base64"
    )
    packed = base64.b64decode(raw.http_response.json()["data"][0]["embedding"])
    assert list(struct.unpack("<64f", packed)) == pytest.approx(a, abs=1e-6)


async def test_token_arrays_can_be_embedded(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="m", input=[[1, 2], [3]], dimensions=8)
    assert len(answer.data) == 2
    assert len((await client.embeddings.create(model="m", input="x")).data[0].embedding) == 1536


async def test_models_are_listed(client: AsyncOpenAI) -> None:
    assert "gpt-4o-mini" in [model.id async for model in client.models.list()]
    assert (await client.models.retrieve("org/any:model")).id == "org/any:model"


async def test_responses_answer_whole_and_streamed(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model="m", input="Hello", instructions="Be brief.")
    assert whole.output_text == "You said: Hello\nThe system prompt said: Be brief."
    assert whole.status == "completed"
    kinds, text = [], ""
    async for event in await client.responses.create(model="m", input="Hello", instructions="Be brief.", stream=True):
        assert event.sequence_number == len(kinds)
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type == "response.completed":
            assert event.response.output_text == whole.output_text
    assert text == whole.output_text
    assert list(dict.fromkeys(kinds)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


async def test_the_sdk_puts_a_responses_stream_together(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="m", input="Hello") as stream:
        final = await stream.get_final_response()
    assert final.output_text == "You said: Hello"


async def test_responses_call_tools(client: AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "strict": False, **WEATHER["function"]}
    answer = await client.responses.create(model="m", input="Hello", tools=[tool])
    item: Any = answer.output[0]
    assert (item.type, item.name) == ("function_call", "get_weather")
    given = ""
    async for event in await client.responses.create(model="m", input="Hello", tools=[tool], stream=True):
        if event.type == "response.function_call_arguments.delta":
            given += event.delta
    assert given == item.arguments
    output: Any = {"type": "function_call_output", "call_id": item.call_id, "output": "20 degrees"}
    turn: Any = [{"role": "user", "content": "Hello"}, item.model_dump(), output]
    assert (
        await client.responses.create(model="m", input=turn, tools=[tool])
    ).output_text == "The tool said: 20 degrees"


async def test_a_bounded_response_is_incomplete(client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model="m", input="Hello there", max_output_tokens=2)
    assert (answer.status, answer.output_text) == ("incomplete", "You said")


async def test_the_smaller_endpoints_answer(client: AsyncOpenAI) -> None:
    assert not (await client.moderations.create(input="hi")).results[0].flagged
    heard = await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", io.BytesIO(b"x" * 3000)))
    assert "bytes of multipart/form-data" in heard.text
    taken = await client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert taken.id.startswith("file-demo-")
    spoken = await client.audio.speech.create(model="tts-1", voice="alloy", input="hi")
    assert spoken.content[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("call", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": HELLO, "temperature": 9}, "temperature"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": HELLO, "n": 0}, "n"),
    ],
)
async def test_bad_input_gets_an_error_in_openais_shape(client: AsyncOpenAI, call: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="m", **call)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


async def test_unknown_paths_and_methods_are_said_to_be(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="chat/completions"):
        await client.post("/nothing", cast_to=object, body={})
    with pytest.raises(openai.APIStatusError) as caught:
        await client.get("/chat/completions", cast_to=object)
    assert caught.value.status_code == 405
