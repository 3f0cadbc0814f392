"""Whatever JSON a client or provider sends: no dialect raises, and no text of a request slips by."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects import DIALECTS
from proxy.dialects.base import Dialect, Slot
from proxy.dialects.size import estimate_input
from proxy.stream.sse import Event

WORDS_LIST = """
model messages role content text type input output instructions system tools tool_calls function function_call
arguments name index choices delta message finish_reason usage prompt_tokens input_tokens error code n
max_tokens stream stream_options include_usage store id image_url url data source thinking signature
encrypted_content summary item part response output_index content_index summary_index item_id status
incomplete_details reason content_block stop_reason partial_json audio logprobs annotations citations citation
object embedding prompt user metadata
"""
WORDS = st.sampled_from(WORDS_LIST.split())
VALUES_LIST = """
text message function_call reasoning thinking redacted_thinking tool_use tool_result input_text output_text
image_url input_image document base64 user assistant content_block_start content_block_delta
content_block_stop message_start message_delta message_stop text_delta input_json_delta citations_delta error
ping response.output_text.delta response.output_text.done response.output_item.added response.output_item.done
response.content_part.done response.completed response.incomplete response.failed response.created
response.function_call_arguments.delta response.reasoning_summary_part.done completed incomplete stop
"""
VALUES = st.sampled_from(VALUES_LIST.split())
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=6)
JSON = st.recursive(
    LEAVES | VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=6),
    max_leaves=40,
)
EVERY = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS.keys())


def use_slots(slots: Any) -> None:
    for slot in slots:
        assert isinstance(slot, Slot)
        assert isinstance(slot.place, str)
        slot.text = slot.text + "!"


@EVERY
@settings(max_examples=60, deadline=None)
@given(body=JSON)
def test_no_request_or_answer_makes_a_method_raise(dialect: Dialect, body: Any) -> None:
    dialect.model(body)
    dialect.wants_stream(body)
    assert dialect.bound(body).choices >= 1
    dialect.stateful(body)
    dialect.asks_usage(body)
    list(dialect.opaque(body))
    estimate_input(dialect, body)
    use_slots(dialect.texts(body))
    use_slots(dialect.described(body))
    dialect.add_system(body, "be kind")
    dialect.ask_usage(body)
    dialect.set_model(body, "m")
    use_slots(dialect.answer_texts(body))
    dialect.usage(body)
    dialect.finish(body)
    dialect.answer_model(body)
    dialect.upstream_error(body)
    dialect.replay(body, include_usage=True)
    dialect.replay(body, include_usage=False)


@EVERY
@settings(max_examples=60, deadline=None)
@given(bodies=st.lists(JSON, max_size=4))
def test_no_event_makes_a_method_raise(dialect: Dialect, bodies: list[Any]) -> None:
    events = [Event.made(body) for body in bodies] + [Event(b": hi\n\n"), Event.made(b"[DONE]"), Event(b"data: {\n\n")]
    ending = dialect.ending()
    for event in events:
        reading = dialect.read(event)
        assert dialect.read(event) is reading
        for piece in reading.pieces:
            piece.text = piece.text + "!"
            reading.closed(piece.channel)
            assert dialect.delta(event, piece.channel, "x").json is not None
        event.touch()
        event.encode()
        ending.see(event)
        assert all(last.json is not None for last in ending.events(event, "length", 7))
    dialect.ending().events(None, "length", 0)
    dialect.collect(events)


MARK = "ann is @ home"


def hide(value: Any, mark: list[int]) -> Any:
    """The same JSON with every string value replaced by a numbered text that no rule takes for a name."""
    if isinstance(value, str):
        mark.append(len(mark))
        return f"{MARK} {len(mark)}"
    if isinstance(value, list):
        return [hide(item, mark) for item in value]
    if isinstance(value, dict):
        return {key: hide(item, mark) for key, item in value.items()}
    return value


@EVERY
@settings(max_examples=80, deadline=None)
@given(body=st.dictionaries(WORDS, JSON, max_size=6))
def test_every_string_that_reads_as_text_is_reported_once(dialect: Dialect, body: dict[str, Any]) -> None:
    body = hide(body, [])
    body["model"] = "gpt"
    expected = sorted(_strings({key: value for key, value in body.items() if key != "model"}))
    assert sorted(slot.text for slot in (*dialect.texts(body), *dialect.described(body))) == expected


def _strings(value: Any) -> list[str]:
    found: list[str] = []
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            # Sealed reasoning is left alone on purpose.
            sealed = value.get("type") == "reasoning" and value.get("encrypted_content")
            stack.extend([] if sealed else value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return found


@EVERY
def test_deep_nesting_costs_no_stack_and_long_paths_stop_growing(dialect: Dialect) -> None:
    body = orjson.loads(b'{"x":' * 900 + b'"hello there"' + b"}" * 900)
    slots = list(dialect.texts(body))
    assert [slot.text for slot in slots] == ["hello there"]
    assert len(slots[0].path) <= 64


MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "x y"]), "content": LEAVES | VALUES})
    | JSON,
    max_size=4,
)


@EVERY
@settings(max_examples=150, deadline=None)
@given(
    body=JSON | st.dictionaries(WORDS | st.sampled_from(["tools", "functions", "response_format"]), JSON, max_size=4),
    messages=st.none() | MESSAGES,
)
def test_prose_is_all_of_the_texts_or_nothing(dialect: Dialect, body: Any, messages: Any) -> None:
    if messages is not None and type(body) is dict:
        body["messages"] = messages
    prose = dialect.prose(body)
    if prose is not None:
        assert [text for text in prose if text] == [slot.text for slot in dialect.texts(body)]
        assert not list(dialect.opaque(body))
        assert all(slot.kind == "text" for slot in dialect.texts(body))
    if type(body) is dict:  # as every request that is estimated
        assert estimate_input(dialect, body, prose) == estimate_input(dialect, body)
