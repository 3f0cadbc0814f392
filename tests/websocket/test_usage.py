"""What a session used, as its messages say."""

from __future__ import annotations

import json

import pytest

from proxy.accounting.usage import Usage
from proxy.exchange import Attempt, Target
from proxy.websocket.usage import Tally


def tally(*messages: str | bytes) -> Usage | None:
    told: list[Usage | None] = []
    attempt = Attempt(1, 1, Target("up"), "up", 0.0)
    reader = Tally(attempt, lambda: told.append(attempt.usage))
    for message in messages:
        reader.read(message.encode() if isinstance(message, str) else message)
    assert told[-1:] == ([] if attempt.usage is None else [attempt.usage])
    return attempt.usage


def test_realtime_says_token_details_in_its_own_words():
    said = {
        "type": "response.done",
        "response": {
            "usage": {
                "total_tokens": 253,
                "input_tokens": 132,
                "output_tokens": 121,
                "input_token_details": {"text_tokens": 119, "audio_tokens": 13, "cached_tokens": 64},
                "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
            }
        },
    }
    expected = Usage(input=132, output=121, audio_input=13, audio_output=91, cached_input=64)
    assert tally(json.dumps(said)) == expected
    assert tally(json.dumps(said), json.dumps(said)) == expected + expected


def test_the_responses_api_over_a_websocket():
    usage = {"input_tokens": 5, "output_tokens": 6, "output_tokens_details": {"reasoning_tokens": 4}}
    said = {"type": "response.completed", "response": {"usage": usage}}
    assert tally(json.dumps(said)) == Usage(input=5, output=6, reasoning=4)


@pytest.mark.parametrize(
    "said",
    [
        '{"type": "response.done", "response": {"usage": null}}',
        '{"type": "response.done", "response": {"usage": {"input_tokens": "many"}}}'.replace('"many"', "null"),
        '{"type": "response.done", "response": null, "usage": {"input_tokens": 1}}',
        '{"type": "response.created", "response": {"usage": {"input_tokens": 1}}}',
        '{"type": "conversation.item.input_audio_transcription.completed", "usage": {"input_tokens": 1}}',
        '["response.done", "usage"]',
        'no json "usage" "response.done"',
        "",
    ],
)
def test_what_says_nothing_of_use(said):
    assert tally(said) is None
