"""How large a request is, in tokens, before anybody has counted it."""

from __future__ import annotations

from typing import Final

from proxy.accounting.usage import TOKENS_PER_IMAGE, estimate_tokens
from proxy.dialects.base import Dialect, Json

__all__ = ["estimate_input"]

_PER_MESSAGE: Final = 4
"""OpenAI's cookbook counts three to four tokens around each chat message."""
_PER_CHAT: Final = 3
"""And three before the answer. An estimate that is too low lets a budget be overspent."""


def estimate_input(dialect: Dialect, body: Json, prose: list[str] | None = None) -> int:
    """Estimated input tokens of a request: its texts, images, four tokens a text and three a chat; and what a provider
    turns into a prompt: the descriptions of tools, the schema that an answer must have.

    Token arrays count as what they are, files and audio as an image each: a rough figure for something unknown.
    ``prose``: what ``dialect.prose`` says of the body, if it was asked.
    """
    around = _PER_CHAT if dialect.operation == "chat" else 0
    plain = prose if prose is not None and dialect.prompted.isdisjoint(body) else dialect.plain_texts(body)
    if plain is not None:
        for text in plain:
            if text:  # mostly ASCII, four letters a token: not worth a call
                around += ((len(text) + 3) // 4 if text.isascii() else estimate_tokens(text)) + _PER_MESSAGE
        return around
    tokens = around
    for slot in dialect.texts(body):
        tokens += estimate_tokens(slot.text) + _PER_MESSAGE
    if type(body) is not dict:
        return tokens
    for slot in dialect.described(body):
        if slot.role == "tool":  # and neither who asks nor what is written beside the call
            tokens += estimate_tokens(slot.text) + 1
    for opaque in dialect.opaque(body):
        tokens += _token_count(body, opaque.path) if opaque.kind == "tokens" else TOKENS_PER_IMAGE
    return tokens


def _token_count(body: Json, path: tuple[str | int, ...]) -> int:
    for part in path:
        body = body[part]
    return len(body)
