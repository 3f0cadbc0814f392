"""The wire APIs, and which one a request speaks.

>>> resolve("POST", "/v1/chat/completions", "openai").name
'openai_chat'
"""

from __future__ import annotations

import re
from typing import Final

from proxy.dialects.anthropic_messages import anthropic_messages
from proxy.dialects.base import Dialect
from proxy.dialects.generic import generic, kept
from proxy.dialects.openai_chat import openai_chat
from proxy.dialects.openai_completions import openai_completions
from proxy.dialects.openai_embeddings import openai_embeddings
from proxy.dialects.openai_responses import openai_responses

__all__ = [
    "DIALECTS",
    "anthropic_messages",
    "generic",
    "openai_chat",
    "openai_completions",
    "openai_embeddings",
    "openai_responses",
    "resolve",
]

DIALECTS: Final[dict[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        openai_chat,
        openai_completions,
        openai_embeddings,
        openai_responses,
        anthropic_messages,
        generic,
    )
}
"""Every dialect by its name."""

_EXACT: Final[dict[str, Dialect]] = {
    "chat/completions": openai_chat,
    "completions": openai_completions,
    "embeddings": openai_embeddings,
    "responses": openai_responses,
    "responses/compact": openai_responses,
    "responses/input_tokens": openai_responses,
    "messages": anthropic_messages,
    "messages/count_tokens": anthropic_messages,
}
_PREFIX: Final = re.compile(r"/+(?:(?:openai|v\d+(?:beta\d*)?|deployments/+[^/]+)/+)*")
# Multipart uploads, downloads and web sockets: no JSON to read.
_BYTES: Final = re.compile(
    r"(?:audio/(?:transcriptions|translations)|files|uploads|realtime|images/(?:edits|variations)|videos"
    r"|containers/.*/files)(?:/|$)"
)
_KEPT: Final = re.compile(r"(?:threads|conversations|assistants)(?:/|$)")
"""What stands in an older message is another call's: its placeholders mean another person."""
_READS_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


def resolve(method: str, path: str, api: str) -> Dialect | None:
    """The dialect of a request; None for what is no JSON API (transcriptions, files, uploads) or carries no body.

    path: decoded, without query, as the client sent it (``/v1/chat/completions``, ``/chat/completions``,
    ``/openai/deployments/NAME/chat/completions``, ``/openai/v1/...``). api: of the upstream (``openai``,
    ``anthropic``, ``demo``).
    """
    if method.upper() not in _READS_BODY:
        return None
    prefix = _PREFIX.match(path)
    if prefix is None:
        return None
    rest = path[prefix.end() :].rstrip("/")
    exact = _EXACT.get(rest)
    if exact is not None:
        return exact
    if rest.endswith("/chat/completions"):
        return openai_chat
    if not rest or _BYTES.match(rest):
        return None
    return kept if _KEPT.match(rest) else generic
