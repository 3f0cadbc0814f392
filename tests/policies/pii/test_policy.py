"""The policy in a chain's phases: requests, whole answers, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer, Exchange
from proxy.policies.pii.policy import Pii
from proxy.testing import exchange_builder, policy_builder
from proxy.testing.building import dialect_named


def asking(content: Any, dialect: str = "openai_chat", **more: Any) -> Exchange:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **more}
    return exchange_builder(body, dialect=dialect_named(dialect))


def pii(**options: Any) -> Pii:
    observe = options.pop("observe", False)
    made: Pii = policy_builder(Pii, options, observe=observe)
    return made


def sent(exchange: Exchange) -> Any:
    assert exchange.body is not None
    return json.loads(exchange.body.encode())


def content(exchange: Exchange) -> Any:
    return sent(exchange)["messages"][0]["content"]


def answering(text: str, **message: Any) -> Answer:
    body = {"id": "x", "object": "chat.completion", "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
    ]}  # fmt: skip
    return Answer(200, [], origin="upstream", body=Document(json.dumps(body).encode()))


def answered(answer: Answer) -> Any:
    assert answer.body is not None
    return json.loads(answer.body.encode())["choices"][0]["message"]


def test_values_are_masked_and_put_back() -> None:
    policy, exchange = pii(), asking("I am reachable at ann@x.io, or bob@y.io, or ann@x.io")
    policy.on_request(exchange)
    assert content(exchange) == "I am reachable at <EMAIL_1>, or <EMAIL_2>, or <EMAIL_1>"
    answer = answering("I wrote to <EMAIL_2>.")
    policy.on_response(exchange, answer)
    assert answered(answer)["content"] == "I wrote to bob@y.io."


def test_a_clean_request_leaves_as_its_bytes() -> None:
    policy, exchange = pii(), asking("nothing of interest")
    assert exchange.body is not None
    before = exchange.body.encode()
    policy.on_request(exchange)
    assert not exchange.body.edited
    assert exchange.body.encode() is before


def test_every_role_and_part_is_masked() -> None:
    messages = [
        {"role": "system", "content": "serve ann@x.io"},
        {"role": "user", "content": [{"type": "text", "text": "from bob@y.io"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"to": "ann@x.io", "n": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "sent to eve@z.io"},
    ]
    exchange = exchange_builder({"model": "m", "messages": messages}, dialect=dialect_named("openai_chat"))
    pii().on_request(exchange)
    out = sent(exchange)["messages"]
    assert out[0]["content"] == "serve <EMAIL_1>"
    assert out[1]["content"][0]["text"] == "from <EMAIL_2>"
    assert json.loads(out[2]["tool_calls"][0]["function"]["arguments"]) == {"to": "<EMAIL_1>", "n": 1}
    assert out[3]["content"] == "sent to <EMAIL_3>"


def test_tool_arguments_are_judged_leaf_by_leaf_with_their_keys() -> None:
    args = json.dumps(
        {"customer": {"ssn": "219099999", "card": 4111111111111111}, "bob@y.io": True, "sku": "3159865109"}
    )
    message = {"role": "assistant", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": args}}]}  # fmt: skip
    exchange = exchange_builder({"model": "m", "messages": [message]}, dialect=dialect_named("openai_chat"))
    pii().on_request(exchange)
    out = json.loads(sent(exchange)["messages"][0]["tool_calls"][0]["function"]["arguments"])
    assert out["customer"] == {"ssn": "<US_SSN_1>", "card": "<CREDIT_CARD_1>"}
    assert out["sku"] == "3159865109"
    assert "bob@y.io" not in out


@pytest.mark.parametrize(
    ("action", "left"),
    [
        ("mask", {"<EMAIL_1>": "<EMAIL_3>", "<EMAIL_2>": {"x": 1}}),
        ("redact", {"[EMAIL]": "[EMAIL]", "[EMAIL]_": {"x": 1}}),
    ],
)
def test_keys_of_tool_arguments_are_masked_with_their_values(action: str, left: Any) -> None:
    args = json.dumps({"ann@x.io": "bob@y.io", "eve@z.io": {"x": 1}})
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": args}}
    message = {"role": "assistant", "tool_calls": [call]}
    exchange = exchange_builder({"model": "m", "messages": [message]}, dialect=dialect_named("openai_chat"))
    pii(action=action).on_request(exchange)
    out = json.loads(sent(exchange)["messages"][0]["tool_calls"][0]["function"]["arguments"])
    assert out == left


def test_values_are_escaped_when_put_back_into_tool_arguments() -> None:
    policy = pii(entities=["TAG"], custom=[{"type": "TAG", "pattern": r'T"\d'}])
    exchange = asking('see T"1')
    policy.on_request(exchange)
    answer = answering(
        "", tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": "<TAG_1>"}'}}]
    )
    policy.on_response(exchange, answer)
    assert json.loads(answered(answer)["tool_calls"][0]["function"]["arguments"]) == {"x": 'T"1'}


def test_look_alikes_in_any_message_keep_their_number() -> None:
    policy, exchange = pii(), asking("I am ann@x.io and I say <EMAIL_1> and email_2")
    policy.on_request(exchange)
    assert content(exchange).startswith("I am <EMAIL_2>")
    answer = answering("<EMAIL_1> <EMAIL_2>")
    policy.on_response(exchange, answer)
    assert answered(answer)["content"] == "<EMAIL_1> ann@x.io"


def test_look_alikes_inside_tool_arguments_without_a_finding_keep_their_number() -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"note": "say \\u003cEMAIL\\u005f1>"}'},
    }
    exchange = exchange_builder(
        {
            "model": "m",
            "messages": [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "ann@x.io"}],
        },
        dialect=dialect_named("openai_chat"),
    )
    pii().on_request(exchange)
    assert sent(exchange)["messages"][1]["content"] == "<EMAIL_2>"


def test_a_growing_conversation_keeps_its_prefix() -> None:
    first = [{"role": "user", "content": "I am ann@x.io"}]
    then = [*first, {"role": "assistant", "content": "hi ann@x.io"}, {"role": "user", "content": "and bob@y.io"}]
    outs = []
    for messages in (first, then):
        exchange = exchange_builder({"model": "m", "messages": messages}, dialect=dialect_named("openai_chat"))
        pii().on_request(exchange)
        outs.append(sent(exchange)["messages"])
    assert outs[1][0] == outs[0][0]


def test_calls_with_state_at_the_provider_get_a_nonce() -> None:
    exchange = exchange_builder(
        {"model": "m", "input": "I am ann@x.io", "previous_response_id": "resp_1"},
        path="/v1/responses",
        dialect=dialect_named("openai_responses"),
    )
    pii().on_request(exchange)
    token = sent(exchange)["input"].removeprefix("I am ")
    assert token.startswith("<EMAIL_1_")
    assert len(token) == len("<EMAIL_1_x7q>")


def test_each_embedding_input_is_numbered_on_its_own() -> None:
    exchange = exchange_builder(
        {"model": "m", "input": ["a ann@x.io", "b bob@y.io"]},
        path="/v1/embeddings",
        dialect=dialect_named("openai_embeddings"),
    )
    pii().on_request(exchange)
    assert sent(exchange)["input"] == ["a <EMAIL_1>", "b <EMAIL_1>"]


def test_two_calls_never_see_each_others_values() -> None:
    policy = pii()
    one, two = asking("ann@x.io"), asking("bob@y.io")
    policy.on_request(one)
    policy.on_request(two)
    for exchange, value in ((two, "bob@y.io"), (one, "ann@x.io")):
        answer = answering("<EMAIL_1>")
        policy.on_response(exchange, answer)
        assert answered(answer)["content"] == value


def test_block_names_types_and_places_never_values() -> None:
    policy, exchange = pii(actions={"EMAIL": "block"}), asking("I am ann@x.io")
    with pytest.raises(ProxyError) as caught:
        policy.on_request(exchange)
    assert caught.value.code == "pii_refused"
    assert "EMAIL at messages[0].content" in caught.value.message
    assert "ann" not in caught.value.message


def test_observe_reports_and_changes_nothing() -> None:
    policy, exchange = pii(observe=True, actions={"EMAIL": "block"}), asking("I am ann@x.io")
    policy.on_request(exchange)
    assert exchange.body is not None
    assert not exchange.body.edited
    assert exchange.notes == [("pii", "would block:EMAIL=1")]


def test_notes_hold_counts_never_values() -> None:
    exchange = asking("ann@x.io and bob@y.io")
    pii().on_request(exchange)
    assert exchange.notes == [("pii", "mask:EMAIL=2")]


def test_opaque_content_is_counted_or_refused() -> None:
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    exchange = asking(image)
    pii().on_request(exchange)
    assert exchange.notes == [("pii", "opaque=1")]
    with pytest.raises(ProxyError, match="cannot be searched"):
        pii(on_opaque="block").on_request(asking(image))


def test_without_restore_placeholders_stay() -> None:
    policy, exchange = pii(restore=False), asking("ann@x.io")
    policy.on_request(exchange)
    answer = answering("<EMAIL_1>")
    policy.on_response(exchange, answer)
    assert answered(answer)["content"] == "<EMAIL_1>"
    assert policy.open_stream(exchange, answer) is None


def test_leaks_in_answers_are_masked_and_restored_values_are_not() -> None:
    policy, exchange = pii(direction=["request", "response"]), asking("I am ann@x.io")
    policy.on_request(exchange)
    answer = answering("<EMAIL_1>, ask eve@z.io")
    policy.on_response(exchange, answer)
    assert answered(answer)["content"] == "ann@x.io, ask <EMAIL_2>"


def test_a_blocked_leak_is_refused() -> None:
    policy, exchange = pii(direction="response", action="block"), asking("hi")
    with pytest.raises(ProxyError) as caught:
        policy.on_response(exchange, answering("ask eve@z.io"))
    assert caught.value.message == "The answer holds EMAIL."


def test_originals_are_forgotten_at_the_end() -> None:
    policy, exchange = pii(), asking("ann@x.io")
    policy.on_request(exchange)
    policy.on_done(exchange)
    assert exchange.local == {}


def test_user_and_metadata_are_hashed_when_asked() -> None:
    exchange = asking("hi", user="ann", metadata={"who": "ann"})
    pii(described=True, hash_key="k").on_request(exchange)
    out = sent(exchange)
    assert out["user"].startswith("[USER:")
    assert out["metadata"]["who"].startswith("[METADATA:")


def test_a_custom_entity_may_be_named_by_name() -> None:
    named = pii(entities=["TAG"], custom=[{"name": "TAG", "pattern": "T[0-9]"}])
    assert named.options.custom[0].type == "TAG"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"entities": ["EMIAL"]}, "unknown entity type EMIAL"),
        ({"actions": {"NOPE": "mask"}}, "unknown entity type NOPE"),
        ({"allow": ["/(/"]}, "does not compile"),
        ({"custom": [{"type": "T", "pattern": "("}]}, "does not compile"),
        ({"custom": [{"type": "T", "pattern": "x", "examples": ["y"]}]}, "is not found in its example"),
        ({"custom": [{"type": "EMAIL", "pattern": "x"}]}, "built-in"),
        ({"ner": {"path": "/nowhere"}}, "no model folder"),
        ({"action": "hide"}, "mask"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=r"(?s).*" + said.replace("(", r"\(")):
        pii(**options)


@pytest.mark.parametrize("before", [[], [""], ["", "Hello", ""], ["Hello"] * 3], ids=str)
def test_a_finding_behind_clean_and_empty_messages_is_masked(before: list[str]) -> None:
    texts = [*before, "write to ann@x.io", "", "and bob@y.io"]
    exchange = exchange_builder({"model": "m", "messages": [{"role": "user", "content": text} for text in texts]})
    pii().on_request(exchange)
    assert exchange.tree is not None
    said = [message["content"] for message in exchange.tree["messages"]]
    assert said == [*before, "write to <EMAIL_1>", "", "and <EMAIL_2>"]


def test_a_refusal_names_no_key_that_is_a_value() -> None:
    exchange = exchange_builder({"data": {"ann@x.io": {"card": "4111111111111111"}}}, dialect=dialect_named("generic"))
    with pytest.raises(ProxyError) as caught:
        pii(actions={"CREDIT_CARD": "block"}).on_request(exchange)
    assert caught.value.message == "The request holds CREDIT_CARD at data.?.card."


@pytest.mark.parametrize("name", ["E_MAIL", "CREDITCARD", "US_S_SN"])
def test_a_type_that_differs_from_another_in_underscores_alone_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"{name} differs from \w+ in _ alone"):
        pii(custom=[{"type": name, "pattern": r"E-[0-9]{6}"}])


def test_two_own_types_that_differ_in_underscores_alone_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"STAFF_?ID differs from STAFF_?ID in _ alone"):
        pii(custom=[{"type": name, "pattern": "E-[0-9]{6}"} for name in ("STAFF_ID", "STAFFID")])


def test_values_of_one_embeddings_item_have_one_numbering() -> None:
    items = [{"title": "ann@x.io", "text": "bob@y.io"}, {"title": "eve@z.io"}]
    exchange = exchange_builder({"model": "m", "input": items}, dialect=dialect_named("openai_embeddings"))
    pii().on_request(exchange)
    assert sent(exchange)["input"] == [{"title": "<EMAIL_1>", "text": "<EMAIL_2>"}, {"title": "<EMAIL_1>"}]
