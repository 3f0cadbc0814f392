"""Ready-made provider answers, and a reader for event streams, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from proxy.stream.sse import Parser


def chat_answer(
    text: str | None = "Hello!",
    *,
    model: str = "gpt-4o-mini",
    usage: tuple[int, int] | None = (9, 3),
    finish: str | None = "stop",
    tool_calls: Sequence[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A whole chat completion. usage: (prompt, completion) tokens. tool_calls: as they stand in the message."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if tool_calls is not None:
        message["tool_calls"] = list(tool_calls)
    answer: dict[str, Any] = {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
    }
    if usage is not None:
        answer["usage"] = _usage(usage)
    return answer


def chat_events(
    pieces: Sequence[str] = ("Hel", "lo", "!"),
    *,
    model: str = "gpt-4o-mini",
    usage: tuple[int, int] | None = None,
    finish: str | None = "stop",
    done: bool = True,
) -> list[bytes]:
    """The events of a streamed chat completion: role, one per piece, finish, usage if given, ``[DONE]``."""

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": model,
            "choices": choices,
            **more,
        }
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def choice(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    out = [event(choice({"role": "assistant", "content": ""}))]
    out += [event(choice({"content": piece})) for piece in pieces]
    if finish is not None:
        out.append(event(choice({}, finish)))
    if usage is not None:
        out.append(event([], usage=_usage(usage)))
    if done:
        out.append(b"data: [DONE]\n\n")
    return out


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}


def collect_sse(data: bytes) -> list[Any]:
    """What a whole event stream says: each event's JSON, or its data as text when that is no JSON."""
    parser = Parser()
    out: list[Any] = []
    for event in [*parser.feed(data), *parser.end()]:
        if event.data is None:
            continue
        out.append(event.json if event.json is not None else event.data.decode())
    return out
