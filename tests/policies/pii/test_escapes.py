"""JSON's escapes before, behind and in values: in tool results, in arguments, in JSON within JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.document import Document
from proxy.exchange import Answer, Exchange
from proxy.policies.pii.custom import CustomEntity
from proxy.policies.pii.detector import Detector
from proxy.policies.pii.escapes import Copy
from proxy.policies.pii.policy import Pii
from proxy.policies.pii.stream_masker import StreamMasker
from proxy.testing import exchange_builder, policy_builder
from proxy.testing.building import dialect_named

CARD = "4111111111111111"
MAIL = "ann.lee@acme.io"
VALUES = [CARD, "DE89370400440532013000", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "81.2.69.142", MAIL]


def of(*messages: Any) -> Exchange:
    return exchange_builder({"model": "m", "messages": list(messages)}, dialect=dialect_named("openai_chat"))


def result(text: str) -> Exchange:
    return of({"role": "tool", "tool_call_id": "c", "content": text})


def calling(arguments: str) -> Exchange:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return of({"role": "assistant", "tool_calls": [call]})


def masked(exchange: Exchange, **options: Any) -> Any:
    policy: Pii = policy_builder(Pii, options)
    policy.on_request(exchange)
    assert exchange.body is not None
    message = json.loads(exchange.body.encode())["messages"][0]
    return message["content"] if "content" in message else message["tool_calls"][0]["function"]["arguments"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("before", ["\n", "\t", "\r", '"', "\b", "<", "😀"], ids=ascii)
def test_a_value_behind_an_escape_is_found_as_it_is(detector: Detector, value: str, before: str) -> None:
    text = json.dumps({"body": f"x{before}{value}\n"}).replace("<", "\\u003c")
    found = [text[one.start : one.end] for one in detector.detect(text)]
    assert found == [value]


def test_a_value_behind_an_escape_is_no_clean_text(detector: Detector) -> None:
    assert detector.clean(["Hello", json.dumps(f"x\n{CARD}"), "Hello"]) == 1


def test_json_within_json_is_searched(detector: Detector) -> None:
    text = json.dumps({"p": json.dumps({"a": f"x\n{CARD}"})})
    assert [text[one.start : one.end] for one in detector.detect(text)] == [CARD]


def test_a_key_is_context_for_a_text_with_escapes(detector: Detector) -> None:
    text = "é\\u00e9\\n457558912\\n"
    assert next((one.type, text[one.start : one.end]) for one in detector.detect(text, "ssn")) == (
        "US_SSN",
        "457558912",
    )


def test_own_patterns_see_backslashes() -> None:
    entity = CustomEntity("LOGIN", r"ACME\\[a-z]+")
    text = "é ACME\\nancy"
    assert [text[one.start : one.end] for one in Detector(["LOGIN"], custom=[entity]).detect(text)] == ["ACME\\nancy"]


def test_own_patterns_find_what_stands_behind_an_escape() -> None:
    entity = CustomEntity("STAFF", r"\bE-\d{6}\b")
    assert len(Detector(["STAFF"], custom=[entity]).detect("x\\nE-123456")) == 1


@pytest.mark.parametrize("text", ["a\\u0040b\\/c", "\\u00e9\\nx", "\\\\u0040", "\\u12", "\\ud83d\\ude00 x", "\\"])
def test_offsets_of_a_copy_lead_back(text: str) -> None:
    copy = Copy(text.encode())
    assert copy.at(0) == 0
    assert copy.at(len(copy.data)) == len(text)


@pytest.mark.parametrize("value", VALUES)
def test_a_tool_result_made_by_json_dumps_is_masked(value: str) -> None:
    text = masked(result(json.dumps({"body": f"Hello\n{value}\tbye"})))
    assert value not in text
    assert json.loads(text)["body"].startswith("Hello\n<")


def test_a_value_with_an_escape_in_it_comes_back_without() -> None:
    policy: Pii = policy_builder(Pii, {})
    exchange = result('{"to":"ann.lee\\u0040acme.io"}')
    policy.on_request(exchange)
    answer = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "To <EMAIL_1>."}}]}
    given = Answer(200, [], origin="upstream", body=Document(json.dumps(answer).encode()))
    policy.on_response(exchange, given)
    assert given.body is not None
    assert json.loads(given.body.encode())["choices"][0]["message"]["content"] == f"To {MAIL}."


def test_a_stand_in_for_a_value_with_an_escape_keeps_the_text_json() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nabcdef\n-----END RSA PRIVATE KEY-----"
    for action in ("mask", "redact", "hash", "fake"):
        text = masked(result(json.dumps({"k": key, "n": "x\ny"})), action=action)
        assert json.loads(text)["n"] == "x\ny"
        assert "MIIEp" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        json.dumps({"p": json.dumps({"a": f"x\n{CARD}"})}),
        f'{{"a":"x\\n{CARD}","a":1}}',
        f'{{"a":"x\\n{CARD}"',
        f'"x\\n{CARD}"',
        CARD,
    ],
)
def test_arguments_that_are_no_clean_json_are_masked(arguments: str) -> None:
    assert CARD not in masked(calling(arguments))


@pytest.mark.parametrize("odd", ['"\\ud83d"', "123456789012345678901234567890", "NaN", "1e400", "-Infinity"])
def test_what_stands_beside_a_value_in_arguments_stays(odd: str) -> None:
    assert masked(calling(f'{{"to":"{MAIL}","x":{odd}}}')) == f'{{"to":"<EMAIL_1>","x":{odd}}}'


@pytest.mark.parametrize("depth", [150, 400, 5000])
def test_arguments_of_any_depth_are_masked(depth: int) -> None:
    assert MAIL not in masked(calling("[" * depth + f'"{MAIL}"' + "]" * depth))


def test_a_stream_of_arguments_is_searched_behind_escapes(detector: Detector) -> None:
    masker = StreamMasker(detector, lambda text, found: "?")
    text = "".join(map(masker.feed, json.dumps({"a": f"x\n{CARD}"}))) + masker.flush()
    assert CARD not in text


def test_json_within_a_tool_result_is_judged_with_its_keys() -> None:
    text = masked(result(json.dumps({"p": json.dumps({"password": "hunter2x", "n": "x\ny"})})))
    assert json.loads(json.loads(text)["p"]) == {"password": "<PASSWORD_1>", "n": "x\ny"}


def test_an_escape_within_json_within_json_is_read() -> None:
    inner = '{"to":"ann.lee\\u0040acme.io"}'
    text = masked(result(json.dumps({"p": inner, "q": json.dumps([inner])})))
    said = json.loads(text)
    assert [json.loads(said["p"]), json.loads(json.loads(said["q"])[0])] == [{"to": "<EMAIL_1>"}, {"to": "<EMAIL_1>"}]


def test_json_in_which_nothing_is_found_stays_as_it_is() -> None:
    clean = '{ "a" : "x\\ny" }'
    assert json.loads(masked(result(json.dumps({"to": MAIL, "p": clean, "n": "\n"}))))["p"] == clean


def test_json_without_escapes_keeps_its_form() -> None:
    assert masked(result(f'{{ "to" : "{MAIL}" }}')) == '{ "to" : "<EMAIL_1>" }'


def test_a_key_that_reads_like_a_placeholder_keeps_its_number() -> None:
    assert masked(calling(json.dumps({"<EMAIL_1>": "x", "to": MAIL}))) == '{"<EMAIL_1>":"x","to":"<EMAIL_2>"}'
