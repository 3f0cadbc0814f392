"""The demo upstream as Anthropic's own SDK sees it."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"name": "look_up", "input_schema": {"type": "object", "properties": {"word": {"type": "string"}}}}


async def test_an_answer_quotes_what_was_received(claude: AsyncAnthropic) -> None:
    answer = await claude.messages.create(model="c", max_tokens=100, messages=HELLO, system="Be brief.")
    block: Any = answer.content[0]
    assert block.text == "You said: Hello\nThe system prompt said: Be brief."
    assert (answer.stop_reason, answer.usage.output_tokens > 3) == ("end_turn", True)


async def test_a_stream_amounts_to_the_whole_answer(claude: AsyncAnthropic) -> None:
    whole = await claude.messages.create(model="c", max_tokens=100, messages=HELLO)
    async with claude.messages.stream(model="c", max_tokens=100, messages=HELLO) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    block: Any = whole.content[0]
    assert text == block.text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.stop_reason == "end_turn"


async def test_tools_are_called_whole_and_streamed(claude: AsyncAnthropic) -> None:
    answer = await claude.messages.create(model="c", max_tokens=100, messages=HELLO, tools=[TOOL])
    block: Any = answer.content[0]
    assert (answer.stop_reason, block.name, block.input) == ("tool_use", "look_up", {"word": "Hello"})
    async with claude.messages.stream(model="c", max_tokens=100, messages=HELLO, tools=[TOOL]) as stream:
        final: Any = await stream.get_final_message()
    assert final.content[0].input == {"word": "Hello"}
    result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "found"}]}
    turn: Any = [*HELLO, {"role": "assistant", "content": [block.model_dump()]}, result]
    then: Any = await claude.messages.create(model="c", max_tokens=100, messages=turn, tools=[TOOL])
    assert then.content[0].text == "The tool said: found"


async def test_max_tokens_cuts(claude: AsyncAnthropic) -> None:
    answer: Any = await claude.messages.create(model="c", max_tokens=1, messages=HELLO)
    assert (answer.content[0].text, answer.stop_reason) == ("You", "max_tokens")


async def test_tokens_can_be_counted(claude: AsyncAnthropic) -> None:
    assert (await claude.messages.count_tokens(model="c", messages=HELLO)).input_tokens > 3


async def test_models_are_listed(claude: AsyncAnthropic) -> None:
    assert "claude-sonnet-demo" in [model.id async for model in claude.models.list()]


async def test_errors_have_anthropics_shape(claude: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await claude.messages.create(model="c", max_tokens=10, messages=[])
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    with pytest.raises(anthropic.RateLimitError):
        await claude.messages.create(model="c", max_tokens=10, messages=HELLO, extra_headers={"x-demo-status": "429"})
