"""A stream that is ended early says so in its dialect's own events, about what had begun and was not finished."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.anthropic_messages import anthropic_messages
from proxy.dialects.base import Plain
from proxy.dialects.openai_chat import openai_chat
from proxy.dialects.openai_completions import openai_completions
from proxy.dialects.openai_responses import openai_responses
from proxy.errors import ProxyError
from proxy.stream.sse import Event


def cut(dialect: Any, *bodies: dict[str, Any], output: int = 7) -> list[dict[str, Any]]:
    """What is said after these events, in the client's eyes."""
    ending = dialect.ending()
    events = [Event.made(body) for body in bodies]
    for event in events:
        ending.see(event)
    return [event.json for event in ending.events(events[-1] if events else None, "length", output)]


def chunk(number: int, reason: str | None = None) -> dict[str, Any]:
    return {
        "id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "gpt", "x_more": 1,
        "choices": [{"index": number, "delta": {"content": "a"}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1},
    }  # fmt: skip


@pytest.mark.parametrize("dialect", [openai_chat, openai_completions])
def test_every_choice_that_has_begun_and_not_finished_gets_its_finish(dialect: Any) -> None:
    said = cut(dialect, chunk(0), chunk(1), chunk(2), chunk(1, "stop"), chunk(2))
    assert [(one["choices"][0]["index"], one["choices"][0]["finish_reason"]) for one in said] == [
        (0, "length"),
        (2, "length"),
    ]
    for one in said:
        assert (one["id"], one["model"], one["created"], one["x_more"]) == ("c1", "gpt", 5, 1)
        assert "usage" not in one
        assert dialect.read(Event.made(one)).finish == "length"


def test_where_every_choice_is_finished_nothing_is_left_to_say() -> None:
    assert cut(openai_chat, chunk(0, "stop")) == []


def test_a_stream_without_a_choice_is_ended_as_its_first() -> None:
    [said] = cut(openai_chat)
    assert said["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]


def test_a_message_closes_its_open_block_and_says_what_was_put_out() -> None:
    text = {"type": "content_block_delta", "index": 4, "delta": {"type": "text_delta", "text": "x"}}
    assert cut(anthropic_messages, text) == [
        {"type": "content_block_stop", "index": 4},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {"output_tokens": 7},
        },
    ]
    [only] = cut(anthropic_messages, text, {"type": "content_block_stop", "index": 4})
    assert only["type"] == "message_delta"


def response(kind: str, number: int, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "sequence_number": number, **more}


MESSAGE = {"id": "m1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
CALL = {"id": "f1", "type": "function_call", "name": "f", "call_id": "c", "arguments": "", "status": "in_progress"}
REASONS = {"id": "r1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "So"}]}
BEGUN = {"id": "resp_9", "object": "response", "status": "in_progress", "model": "gpt", "output": []}


def test_a_response_is_repeated_as_far_as_it_has_come() -> None:
    [said] = cut(
        openai_responses,
        response("created", 0, response=BEGUN),
        response("output_item.added", 1, output_index=0, item={**REASONS, "summary": []}),
        response("output_item.done", 2, output_index=0, item=REASONS),
        response("output_item.added", 3, output_index=1, item=MESSAGE),
        response("output_text.delta", 4, item_id="m1", output_index=1, content_index=0, delta="Hel"),
        response("output_text.delta", 5, item_id="m1", output_index=1, content_index=0, delta="lo"),
        response("refusal.delta", 6, item_id="m1", output_index=1, content_index=1, delta="No"),
        response("output_item.added", 7, output_index=2, item=CALL),
        response("function_call_arguments.delta", 8, item_id="f1", output_index=2, delta='{"a":'),
    )
    assert (said["type"], said["sequence_number"]) == ("response.incomplete", 9)
    whole = said["response"]
    assert (whole["id"], whole["model"], whole["status"]) == ("resp_9", "gpt", "incomplete")
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}
    content = [
        {"type": "output_text", "text": "Hello", "annotations": []},
        {"type": "refusal", "refusal": "No"},
    ]
    assert whole["output"] == [
        REASONS,
        {**MESSAGE, "status": "incomplete", "content": content},
        {**CALL, "status": "incomplete", "arguments": '{"a":'},
    ]


def test_what_policies_above_edit_does_not_come_into_the_ending() -> None:
    """A value that is put back for one caller must not reach another one by the last event."""
    ending = openai_responses.ending()
    item = {**MESSAGE, "content": [{"type": "output_text", "text": "<NAME_1>"}]}
    added = Event.made(response("output_item.done", 1, output_index=0, item=item))
    ending.see(added)
    for piece in openai_responses.read(added).pieces:
        piece.text = "Ann"
    added.touch()
    [said] = ending.events(None, "length", 0)
    assert "Ann" not in said.encode().decode()


def test_an_error_event_goes_on_counting_where_the_stream_ended() -> None:
    error = ProxyError("insufficient_quota", "spent")
    left = b"".join(Event.made(response("output_text.delta", n, delta="x"), "x").encode() for n in (7, 8))
    numbered = openai_responses.error_event(error, left)
    assert numbered.json["sequence_number"] == 9
    assert openai_responses.error_event(error).json["sequence_number"] == 0


def test_anthropics_errors_say_our_code_beside_its_own_type() -> None:
    error = ProxyError("insufficient_quota", "spent")
    told = {"type": "rate_limit_error", "message": "spent", "code": "insufficient_quota"}
    assert anthropic_messages.error_event(error).json == {"type": "error", "error": told}


@pytest.mark.parametrize(
    ("dialect", "bodies"),
    [
        (openai_chat, [{"choices": [{"index": 1, "delta": {"content": f"word {n}"}}]} for n in range(9)]),
        (openai_completions, [{"choices": [{"index": 1, "text": f"word {n}"}]} for n in range(9)]),
        (
            anthropic_messages,
            [
                {"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": f"word {n}"}}
                for n in range(9)
            ],
        ),
    ],
)
def test_what_a_reader_has_understood_by_its_frame_is_not_parsed_for_it(dialect: Any, bodies: list[Any]) -> None:
    ending, reader = dialect.ending(), dialect.reader()
    events = [Event.made(body) for body in bodies]
    plain = 0
    for event in [Event(event.encode()) for event in events]:
        plain += type(reader.read(event)) is Plain
        ending.see(event)
    assert plain >= 8
    assert [event.json for event in ending.events(events[-1], "length", 7)] == cut(dialect, *bodies)
