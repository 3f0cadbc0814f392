"""OpenAI's embeddings: inputs in, vectors out; there are no texts in an answer and there is no stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.dialects.base import NOTHING, Bound, Finish, Json, Opaque, Reading, Slot
from proxy.dialects.family import Family, as_dict
from proxy.dialects.leaves import walk
from proxy.dialects.prompts import prompt_texts, token_arrays
from proxy.stream.sse import Event

__all__ = ["OpenAIEmbeddings", "openai_embeddings"]


class OpenAIEmbeddings(Family):
    """``POST /v1/embeddings``."""

    name = "openai_embeddings"
    operation = "embeddings"

    def _field_texts(self, body: dict[str, Any], key: str) -> Iterator[Slot]:
        if key == "input":
            yield from prompt_texts(body, key)
        else:
            yield from walk(body, key, "input", (key,))

    def opaque(self, body: Json) -> Iterator[Opaque]:
        yield from token_arrays(as_dict(body), "input")
        yield from super().opaque(body)

    def bound(self, body: Json) -> Bound:
        """Vectors are no tokens."""
        return Bound(0)

    def answer_texts(self, body: Json) -> Iterator[Slot]:
        return iter(())

    def finish(self, body: Json) -> Finish:
        return Finish(type(as_dict(body).get("data")) is list)

    def read(self, event: Event) -> Reading:
        return NOTHING

    def replay(self, body: Json, *, include_usage: bool) -> list[Event]:
        return []


openai_embeddings = OpenAIEmbeddings()
