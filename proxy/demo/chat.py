"""Chat completions and the legacy completions: whole answers and their events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import orjson

from proxy.demo.wishes import Wishes
from proxy.demo.words import Heard, Json, arguments, count, cut, digest, filler, in_json, part_texts, tokens_of

DONE: Final = b"data: [DONE]\n\n"


def hear(messages: list[Json]) -> Heard:
    """What a conversation said."""
    user = next((part_texts(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), "")
    system = "\n".join(part_texts(m.get("content")) for m in messages if m.get("role") in ("system", "developer"))
    last = messages[-1]
    return Heard(user, system, part_texts(last.get("content")) if last.get("role") in ("tool", "function") else None)


def chat(tree: dict[str, Json], wishes: Wishes) -> dict[str, Json]:
    """A whole chat completion."""
    heard = hear(tree["messages"])
    choices = [_choice(tree, wishes, heard, index) for index in range(tree.get("n") or 1)]
    prompt = count("".join(part_texts(message.get("content")) for message in tree["messages"])) + 3
    answer = {
        "id": f"chatcmpl-demo-{digest(tree)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": tree.get("model") or "demo",
        "choices": choices,
        "system_fingerprint": "fp_demo",
    }
    if wishes.usage:
        answer["usage"] = usage(prompt, sum(_tokens(choice["message"]) for choice in choices))
    return answer


def usage(prompt: int, completion: int) -> dict[str, Json]:
    """Token counts as OpenAI gives them."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _tokens(message: dict[str, Json]) -> int:
    calls = message.get("tool_calls") or []
    return count(message["content"] or "") + sum(count(call["function"]["arguments"]) for call in calls)


def _choice(tree: dict[str, Json], wishes: Wishes, heard: Heard, index: int) -> dict[str, Json]:
    function = None if heard.tool is not None or wishes.tokens is not None else _wanted(tree)
    message: dict[str, Json] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if function is not None:
        given = orjson.dumps(arguments(heard, function.get("parameters"))).decode()
        call_id = f"call_demo_{digest([tree['messages'], index])}"
        called = {"name": function["name"], "arguments": given}
        message["tool_calls"] = [{"id": call_id, "type": "function", "function": called}]
        finish = "tool_calls"
    else:
        limit = tree.get("max_completion_tokens") or tree.get("max_tokens")
        message["content"], was_cut = cut(_text(tree, wishes, heard, index), limit, tree.get("stop"))
        finish = "length" if was_cut else "stop"
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


def _text(tree: dict[str, Json], wishes: Wishes, heard: Heard, index: int) -> str:
    if wishes.tokens is not None:
        return filler(wishes.tokens)
    wanted = tree.get("response_format") or {}
    if wanted.get("type") in ("json_object", "json_schema"):
        return in_json(heard, (wanted.get("json_schema") or {}).get("schema"))
    number = tree.get("n") or 1
    return heard.quote() + (f"\n(answer {index + 1} of {number})" if number > 1 else "")


def _wanted(tree: dict[str, Json]) -> dict[str, Json] | None:
    """The function to call: the one that is named, else the first that is offered, else none."""
    choice = tree.get("tool_choice")
    offered: list[dict[str, Json]] = [
        tool["function"] for tool in tree.get("tools") or [] if tool.get("type") == "function"
    ]
    if not offered or choice == "none":
        return None
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        return next((function for function in offered if function["name"] == name), offered[0])
    return offered[0]


def chat_events(tree: dict[str, Json], wishes: Wishes) -> Iterator[bytes]:
    """The same answer as the events of a stream."""
    whole = chat(tree, wishes)
    with_usage = bool((tree.get("stream_options") or {}).get("include_usage")) and wishes.usage
    base = {name: whole[name] for name in ("id", "created", "model", "system_fingerprint")}
    base["object"] = "chat.completion.chunk"

    def event(choices: list[Json], **more: Any) -> bytes:
        return (
            b"data: "
            + orjson.dumps({**base, "choices": choices, **({"usage": None} if with_usage else {}), **more})
            + b"\n\n"
        )

    def delta(index: int, change: dict[str, Json], finish: str | None = None) -> bytes:
        return event([{"index": index, "delta": change, "logprobs": None, "finish_reason": finish}])

    for choice in whole["choices"]:
        index, message = choice["index"], choice["message"]
        if message.get("tool_calls"):
            call = message["tool_calls"][0]
            opening = {**call, "function": {"name": call["function"]["name"], "arguments": ""}, "index": 0}
            yield delta(index, {"role": "assistant", "content": None, "tool_calls": [opening]})
            for piece in tokens_of(call["function"]["arguments"]):
                yield delta(index, {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        else:
            yield delta(index, {"role": "assistant", "content": "", "refusal": None})
            for piece in tokens_of(message["content"]):
                yield delta(index, {"content": piece})
        yield delta(index, {}, choice["finish_reason"])
    if with_usage:
        yield event([], usage=whole["usage"])
    yield DONE


def completions(tree: dict[str, Json], wishes: Wishes) -> dict[str, Json]:
    """A whole legacy completion: one choice for each prompt and each of ``n``."""
    prompt = tree.get("prompt")
    many = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    choices: list[Json] = []
    read = 0
    for one in many:
        said = one if isinstance(one, str) else f"{len(one or [])} tokens"
        read += count(said)
        for _ in range(tree.get("n") or 1):
            text = filler(wishes.tokens) if wishes.tokens is not None else Heard(said).quote()
            text, was_cut = cut(text, tree.get("max_tokens"), tree.get("stop"))
            text = said + text if tree.get("echo") else text
            finish = "length" if was_cut else "stop"
            choices.append({"index": len(choices), "text": text, "logprobs": None, "finish_reason": finish})
    answer = {
        "id": f"cmpl-demo-{digest(tree)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": tree.get("model") or "demo",
        "choices": choices,
    }
    if wishes.usage:
        answer["usage"] = usage(read, sum(count(choice["text"]) for choice in choices))
    return answer


def completions_events(tree: dict[str, Json], wishes: Wishes) -> Iterator[bytes]:
    """The same answer as the events of a stream."""
    whole = completions(tree, wishes)
    with_usage = bool((tree.get("stream_options") or {}).get("include_usage")) and wishes.usage
    base = {name: whole[name] for name in ("id", "object", "created", "model")}

    def event(choices: list[Json], **more: Any) -> bytes:
        return (
            b"data: "
            + orjson.dumps({**base, "choices": choices, **({"usage": None} if with_usage else {}), **more})
            + b"\n\n"
        )

    for choice in whole["choices"]:
        for piece in tokens_of(choice["text"]):
            yield event([{"index": choice["index"], "text": piece, "logprobs": None, "finish_reason": None}])
        yield event([{**choice, "text": ""}])
    if with_usage:
        yield event([], usage=whole["usage"])
    yield DONE
