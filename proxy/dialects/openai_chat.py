"""OpenAI's chat completions, and the many servers that speak the same with fields of their own.

Channels: (choice, field) for every string that a delta adds (``content``, ``refusal``, ``reasoning_content``, any
other), (choice, "tool_calls", call, "function", "arguments"), (choice, "function_call", "arguments"), and
(choice, *path) for strings deeper inside fields that are not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from proxy.dialects.base import NOTHING, Channel, Ending, Finish, Json, Piece, Plain, Reader, Reading, Slot
from proxy.dialects.counts import openai_usage, service_of
from proxy.dialects.endings import ChoicesEnding
from proxy.dialects.family import DONE, Family, apart, as_dict, positive, text_of
from proxy.dialects.leaves import Path, opaque_parts, walk
from proxy.dialects.merge import joined, merge, renew
from proxy.dialects.messages import call_texts, message_texts
from proxy.dialects.repeats import Repeats
from proxy.stream.sse import Event

__all__ = ["OpenAIChat", "openai_chat"]

_CONTENT: Final = (0, "content")
_CONTENT_PATH: Final = ("choices", 0, "delta", "content")
_SIGNED: Final = frozenset({"reasoning_details", "thinking_blocks"})
_CHUNK: Final = "chat.completion.chunk"
_CALL: Final = frozenset({"index", "id", "type", "function"})
_FUNCTION: Final = frozenset({"name", "arguments"})
_SCALARS: Final = frozenset({bool, int, float, type(None)})
_GROW: Final = frozenset({"text", "logprobs", "token_ids"})
"""What grows in a choice beside its delta. The rest describes it: verdicts of a filter, a provider's own reason."""
_NO_FRAME: Final = frozenset({"choices", "obfuscation"})
_FINAL: Final = Reading(closes=None, final=True)


class OpenAIChat(Family):
    """``POST /v1/chat/completions``."""

    name = "openai_chat"
    operation = "chat"
    streams_end_with_done = True
    prompted = frozenset({"tools", "functions", "response_format"})

    # --- request -----------------------------------------------------------------------
    def texts(self, body: Json) -> Iterator[Slot]:
        if type(body) is not dict:
            return super().texts(body)
        slots: list[Slot] = []
        for key, value in body.items():
            kind = type(value)
            if kind is list and key == "messages":
                for index, message in enumerate(value):
                    # The plain message without the detour: a known role and a string.
                    if _is_plain(message):
                        if message["content"]:
                            slots.append(Slot(message, "content", "text", message["role"], (key, index, "content")))
                    else:
                        slots += message_texts(value, index, (key, index))
            elif (kind is str or kind is dict or kind is list) and key != "model" and key not in self.described_keys:
                slots += walk(body, key, "assistant" if key == "prediction" else "input", (key,))
        return iter(slots)

    def plain_texts(self, body: Json) -> list[str] | None:
        if type(body) is not dict or not self.prompted.isdisjoint(body):
            return None
        return self._prose(body, others=True)

    def prose(self, body: Json) -> list[str] | None:
        return self._prose(body, others=False) if type(body) is dict else None

    def _prose(self, body: dict[str, Json], *, others: bool) -> list[str] | None:
        """The contents of plain messages; None when one is not plain, or when there are other texts, unless ``others``
        are wanted."""
        texts: list[str] = []
        for key, value in body.items():
            kind = type(value)
            if kind is list and key == "messages":
                for message in value:  # ``_is_plain``, written out: this runs for every call
                    if type(message) is not dict or len(message) != 2:
                        return None
                    role, content = message.get("role"), message.get("content")
                    if type(content) is not str or type(role) is not str or not role.isalpha():
                        return None
                    texts.append(content)
            elif kind is dict and _SCALARS.issuperset(map(type, value.values())):
                continue  # stream_options and the like
            elif (kind is str or kind is dict or kind is list) and key != "model" and key not in self.described_keys:
                if not others:
                    return None
                texts += [slot.text for slot in walk(body, key, "input", (key,))]
        return texts

    def opaque(self, body: Json) -> Iterator[Any]:
        messages = as_dict(body).get("messages")
        if type(messages) is list and not all(map(_is_plain, messages)):
            return opaque_parts(body, "messages", ("messages",))
        return iter(())

    def add_system(self, body: Json, text: str) -> None:
        messages = as_dict(body).get("messages")
        if type(messages) is list:
            messages.insert(0, {"role": "system", "content": text})

    def ask_usage(self, body: Json) -> None:
        if type(body) is dict:
            options = body.get("stream_options")
            body["stream_options"] = {**as_dict(options), "include_usage": True}

    # --- whole answer ------------------------------------------------------------------
    def answer_texts(self, body: Json) -> Iterator[Slot]:
        choices = as_dict(body).get("choices")
        if type(choices) is not list:
            return
        for index, choice in enumerate(choices):
            if type(choice) is not dict:
                continue
            message = choice.get("message")
            if type(message) is dict:
                for field in message:
                    if field not in _SIGNED:
                        yield from _field(message, field, ("choices", index, "message", field))
            elif type(message) is str:
                yield Slot(choice, "message", "text", "assistant", ("choices", index, "message"))
            if type(choice.get("text")) is str and choice["text"]:
                yield Slot(choice, "text", "text", "assistant", ("choices", index, "text"))

    def finish(self, body: Json) -> Finish:
        choices = as_dict(body).get("choices")
        if type(choices) is not list or not choices:
            return Finish(False)
        reasons = [reason for choice in choices if (reason := text_of(as_dict(choice).get("finish_reason")))]
        complete = len(reasons) == len(choices)
        return Finish(complete, reasons, not complete and any(_unfinished(choice) for choice in choices))

    # --- streamed answer ---------------------------------------------------------------
    def read(self, event: Event) -> Reading:
        reading: Reading | None = event.reading
        if reading is None:
            event.reading = reading = self._read(event)
        return reading

    def reader(self) -> Reader:
        return Repeats(self)

    def _read(self, event: Event) -> Reading:
        body = event.json
        if type(body) is not dict:
            return _FINAL if event.done else NOTHING
        model = body.get("model")
        if type(model) is not str or not model:
            model = None
        choices = body.get("choices")
        if type(choices) is not list:
            return self._without_choices(body, model)
        counts = body.get("usage")
        if len(choices) == 1 and type(choice := choices[0]) is dict and choice.get("index") == 0 and not counts:
            delta = choice.get("delta")
            if type(delta) is dict and len(delta) == 1 and not choice.get("finish_reason"):
                content = delta.get("content")
                if type(content) is str and content and type(choice.get("text")) is not str:
                    piece = Piece(delta, "content", "text", "assistant", _CONTENT_PATH, _CONTENT)
                    return Plain((piece,), True, model)
        pieces: list[Piece] = []
        closes: list[Channel] = []
        finish: str | None = None
        for place, choice in enumerate(choices):
            if type(choice) is not dict:
                continue
            number = choice.get("index", 0)
            number = number if type(number) is int else place
            if type(choice.get("delta")) is dict:
                pieces += _pieces(choice["delta"], number, place)
            if type(choice.get("text")) is str and choice["text"]:
                path = ("choices", place, "text")
                pieces.append(Piece(choice, "text", "text", "assistant", path, (number, "text")))
            reason = choice.get("finish_reason")
            if type(reason) is str and reason:
                finish = reason
                closes.append((number,))
        usage = openai_usage(counts) if counts else None
        error = bool(body.get("error"))
        commits = finish is not None or bool(pieces) or any(map(_calls_tool, choices))
        return Reading(
            pieces,
            None if error else closes,
            commits,
            finish,
            usage,
            False,
            error,
            usage is not None and not choices,
            model,
            service_of(body.get("service_tier")),
        )

    def _without_choices(self, body: dict[str, Any], model: str | None) -> Reading:
        if body.get("error") or body.get("object") == "error":
            return Reading(closes=None, error=True, model=model)
        usage = openai_usage(body.get("usage"))
        if usage is None and model is None:
            return NOTHING
        service = service_of(body.get("service_tier"))
        return Reading(usage=usage, usage_only=usage is not None, model=model, service=service)

    def delta(self, like: Event, channel: Channel, text: str) -> Event:
        parts: tuple[Any, ...] = channel if isinstance(channel, tuple) and len(channel) > 1 else _CONTENT
        choice, *path = parts
        delta = _nested(path, text)
        return self._chunk(like, [{"index": choice, "delta": delta, "finish_reason": None}])

    def ending(self) -> Ending:
        return ChoicesEnding(self._last)

    def _last(self, like: Event | None, number: int, reason: str) -> Event:
        return self._chunk(like, [{"index": number, "delta": {}, "finish_reason": reason}])

    def _chunk(self, like: Event | None, choices: list[Json]) -> Event:
        frame = {"id": "", "object": _CHUNK, "created": 0, "model": ""}
        if like is not None:
            frame |= as_dict(like.json)
        for key in ("usage", "obfuscation", "error"):
            if frame.get(key) is not None:
                del frame[key]
        frame["choices"] = choices
        return Event.made(frame)

    def collect(self, events: Sequence[Event]) -> Json | None:
        whole: dict[str, Any] = {}
        choices: dict[int, _Growing] = {}
        for event in events:
            body = event.json
            if type(body) is not dict:
                continue
            if body.get("error") or body.get("object") == "error":  # what `read` calls one, without its pieces
                return None
            for key, value in body.items():
                if key in _NO_FRAME:
                    continue
                # Late chunks about what was said before have empty frames.
                if value or value is False or key not in whole or not (value is None or whole[key]):
                    whole[key] = value
            said = body.get("choices")
            for place, choice in enumerate(said if type(said) is list else ()):
                if type(choice) is dict:
                    number = choice.get("index", 0)
                    number = number if type(number) is int else place
                    choices.setdefault(number, _Growing(number)).add(choice)
        done = [choices[number].done() for number in sorted(choices)]
        if not done or not all(text_of(choice["finish_reason"]) for choice in done):
            return None
        if whole.get("object") in (_CHUNK, None):
            whole["object"] = "chat.completion"
        if whole.get("usage", 0) is None:
            del whole["usage"]
        return apart({**whole, "choices": done})

    def replay(self, body: Json, *, include_usage: bool) -> list[Event]:
        answer = as_dict(body)
        frame = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
        frame["object"] = _CHUNK
        if include_usage:
            frame["usage"] = None
        out: list[Event] = []

        def say(number: int, delta: dict[str, Any], reason: str | None = None, **more: Json) -> None:
            choice = {"index": number, "delta": delta, **more, "finish_reason": reason}
            out.append(Event.made({**frame, "choices": [choice]}))

        choices = answer.get("choices")
        for place, choice in enumerate(choices if type(choices) is list else ()):
            if type(choice) is not dict:
                continue
            number = choice.get("index", place)
            message = as_dict(choice.get("message"))
            more = {k: v for k, v in choice.items() if k not in ("index", "message", "finish_reason", "logprobs")}
            first: dict[str, Any] = {"role": message.get("role", "assistant")}
            rest = {key: value for key, value in message.items() if key not in ("role", "tool_calls")}
            first |= {key: "" if type(value) is str else None for key, value in rest.items()}
            say(number, first)
            logprobs = {"logprobs": choice["logprobs"]} if "logprobs" in choice else {}
            for key, value in rest.items():
                if value is not None and value != "":
                    say(number, {key: value}, **(logprobs if key == "content" else {}))
            calls = message.get("tool_calls")
            for index, call in enumerate(calls if type(calls) is list else ()):
                say(number, {"tool_calls": [{"index": index, **as_dict(call)}]})
            if logprobs and not rest.get("content"):
                more |= logprobs
            say(number, {}, text_of(choice.get("finish_reason")) or "stop", **more)
        if include_usage and answer.get("usage") is not None:
            out.append(Event.made({**frame, "choices": [], "usage": answer["usage"]}))
        out.append(Event.made(DONE))
        return out


class _Growing:
    """One choice of a streamed answer while it is added up."""

    def __init__(self, number: int) -> None:
        self.rest: dict[str, Any] = {}
        self.message: dict[str, Any] = {"role": "assistant", "content": None}
        self.reason: Any = None
        self.number = number

    def add(self, choice: dict[str, Any]) -> None:
        for key, value in choice.items():
            if key == "delta":
                if type(value) is dict:
                    merge(self.message, value)
            elif key == "finish_reason":
                self.reason = value or self.reason
            elif key in _GROW:
                merge(self.rest, {key: value})
            elif key != "index" and not (key == "message" and "delta" in choice):
                renew(self.rest, {key: value})

    def done(self) -> dict[str, Any]:
        message = joined(self.message)
        calls = message.get("tool_calls")
        if type(calls) is list:
            calls.sort(key=lambda call: positive(as_dict(call).get("index")) or 0)
            for call in calls:
                if type(call) is dict:
                    call.pop("index", None)
        return {"index": self.number, "message": message, **joined(self.rest), "finish_reason": self.reason}


def _is_plain(message: Json) -> bool:
    """Whether a message is a role and a string."""
    if type(message) is not dict or len(message) != 2:
        return False
    role = message.get("role")
    return type(message.get("content")) is str and type(role) is str and role.isalpha()


def _field(message: dict[str, Any], field: str, path: tuple[str | int, ...]) -> Iterator[Slot]:
    """The texts of one field of an answer's message."""
    value = message[field]
    if type(value) is str:
        if value and field != "role":
            yield Slot(message, field, "text", "assistant", path)
    elif field in ("tool_calls", "function_call"):
        yield from call_texts(message, field, "assistant", path)
    elif type(value) is dict or type(value) is list:
        yield from walk(message, field, "assistant", path)


def _pieces(delta: dict[str, Any], number: int, place: int) -> Iterator[Piece]:
    """What one delta adds, field by field."""
    for field, value in delta.items():
        if type(value) is str:
            if value and field != "role":
                path = ("choices", place, "delta", field)
                yield Piece(delta, field, "text", "assistant", path, (number, field))
        elif value is None or field in _SIGNED:
            continue
        elif field == "tool_calls" and type(value) is list:
            for index in range(len(value)):
                yield from _call_pieces(value, index, number, ("choices", place, "delta", field))
        elif type(value) is dict or type(value) is list:
            base = ("choices", place, "delta", field)
            for slot in _field(delta, field, base):
                channel = (number, *_by_index(delta, slot.path[3:]))
                yield Piece(slot.holder, slot.key, slot.kind, "assistant", slot.path, channel)


def _call_pieces(calls: list[Any], place: int, number: int, path: Path) -> Iterator[Piece]:
    """What one tool call's delta adds, mostly its arguments."""
    call = calls[place]
    path = (*path, place)
    index: Any = place
    if type(call) is dict:
        if type(call.get("index")) is int:
            index = call["index"]
        function = call.get("function")
        # The usual fields without the detour.
        if type(function) is dict and function.keys() <= _FUNCTION and call.keys() <= _CALL:
            arguments = function.get("arguments")
            if type(arguments) is str:
                if arguments:
                    where = (number, "tool_calls", index, "function", "arguments")
                    inner = (*path, "function", "arguments")
                    yield Piece(function, "arguments", "arguments", "assistant", inner, where)
                return
    for slot in call_texts([call], 0, "assistant", path):
        channel = (number, "tool_calls", index, *slot.path[5:])
        yield Piece(slot.holder, slot.key, slot.kind, "assistant", slot.path, channel)


def _by_index(delta: dict[str, Any], path: tuple[str | int, ...]) -> Iterator[str | int]:
    """The path with an item's own ``index`` in place of where it stands in this event's list."""
    value: Any = delta
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None
        own = value.get("index") if type(part) is int and type(value) is dict else None
        yield own if type(own) is int else part


def _calls_tool(choice: Json) -> bool:
    delta = as_dict(as_dict(choice).get("delta"))
    return bool(delta.get("tool_calls")) or bool(delta.get("function_call"))


def _nested(path: Sequence[str | int], text: str) -> dict[str, Any]:
    """``text`` at ``path`` inside objects and lists; a list's item says its ``index``."""
    value: Any = text
    for part in reversed(path):
        value = [{"index": part, **value} if type(value) is dict else value] if type(part) is int else {part: value}
    return value if type(value) is dict else {"content": text}


def _unfinished(choice: Json) -> bool:
    return type(choice) is dict and "finish_reason" in choice and choice["finish_reason"] is None


openai_chat = OpenAIChat()
