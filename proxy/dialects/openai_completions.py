"""OpenAI's completions: a prompt in, text out. Channel: (choice, "text")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from proxy.dialects.base import Bound, Channel, Json, Opaque, Slot
from proxy.dialects.family import DONE, Family, as_dict, positive, text_of
from proxy.dialects.leaves import walk
from proxy.dialects.openai_chat import OpenAIChat
from proxy.dialects.prompts import add_before, prompt_count, prompt_texts, token_arrays
from proxy.stream.sse import Event

__all__ = ["OpenAICompletions", "openai_completions"]


class OpenAICompletions(OpenAIChat):
    """``POST /v1/completions``. Events and finish are read as in chat, whose choices differ in one field."""

    name = "openai_completions"
    operation = "text_completion"

    def bound(self, body: Json) -> Bound:
        """Each prompt has ``n`` answers, picked from ``best_of`` that are all written and paid."""
        bound = super().bound(body)
        fields = as_dict(body)
        bound.choices = max(bound.choices, positive(fields.get("best_of")) or 1) * prompt_count(fields.get("prompt"))
        return bound

    def texts(self, body: Json) -> Iterator[Slot]:
        return Family.texts(self, body)

    def plain_texts(self, body: Json) -> list[str] | None:
        return None

    def _field_texts(self, body: dict[str, Any], key: str) -> Iterator[Slot]:
        if key == "prompt":
            yield from prompt_texts(body, key)
        elif key == "suffix" and type(body[key]) is str:
            yield Slot(body, key, "text", "user", (key,))
        else:
            yield from walk(body, key, "input", (key,))

    def opaque(self, body: Json) -> Iterator[Opaque]:
        yield from token_arrays(as_dict(body), "prompt")

    def add_system(self, body: Json, text: str) -> None:
        add_before(as_dict(body), "prompt", text)

    def delta(self, like: Event, channel: Channel, text: str) -> Event:
        number = channel[0] if isinstance(channel, tuple) and channel else 0
        return self._chunk(like, [{"index": number, "text": text, "logprobs": None, "finish_reason": None}])

    def _last(self, like: Event | None, number: int, reason: str) -> Event:
        return self._chunk(like, [{"index": number, "text": "", "finish_reason": reason}])

    def _chunk(self, like: Event | None, choices: list[Json]) -> Event:
        event = super()._chunk(like, choices)
        if like is None or not text_of(as_dict(like.json).get("object")):
            event.json["object"] = "text_completion"
            event.touch()
            return event.fork()
        return event

    def collect(self, events: Sequence[Event]) -> Json | None:
        whole = super().collect(events)
        if type(whole) is not dict:
            return None
        for choice in whole["choices"]:
            del choice["message"]
        if whole.get("object") == "chat.completion":
            whole["object"] = "text_completion"
        return whole

    def replay(self, body: Json, *, include_usage: bool) -> list[Event]:
        answer = as_dict(body)
        frame = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
        if include_usage:
            frame["usage"] = None
        choices = answer.get("choices")
        out = [
            Event.made({**frame, "choices": [{"index": place, "logprobs": None, **choice}]})
            for place, choice in enumerate(choices if type(choices) is list else ())
            if type(choice) is dict
        ]
        if include_usage and answer.get("usage") is not None:
            out.append(Event.made({**frame, "choices": [], "usage": answer["usage"]}))
        out.append(Event.made(DONE))
        return out


openai_completions = OpenAICompletions()
