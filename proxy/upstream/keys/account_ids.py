"""Ids that live in a provider account: which calls make them, where later calls name them. Pure.

Files, batches, fine-tunes, vector stores, threads, stored responses and chat completions and the like belong to the
account (the key) that made them; a call that names one must go to that key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from proxy.document import Document

LOOK_AT: Final = 64 * 1024
"""Bytes of a creating call's answer in which its id is looked for; providers put it first."""

_COLLECTIONS: Final = frozenset(
    {
        "assistants", "batches", "chat/completions", "containers", "conversations", "evals", "files",
        "fine_tuning/jobs", "message_batches", "messages/batches", "responses", "threads", "threads/runs", "uploads",
        "vector_stores", "videos",
    }
)  # fmt: skip
# What stands in an id's place and is none: threads/runs, responses/compact ...
_VERBS: Final = frozenset({"compact", "input_tokens", "runs"})
_BODY_FIELDS: Final = (
    "previous_response_id", "conversation", "input_file_id", "training_file", "validation_file", "assistant_id",
    "thread_id", "batch_id", "container",
)  # fmt: skip
_ID: Final = re.compile(rb'"id"\s*:\s*"([A-Za-z0-9][A-Za-z0-9_-]{2,127})"')
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,127}")
_BEFORE: Final = re.compile(r"^(?:/openai)?(?:/v\d+[a-z0-9]*)?/")


def _parts(path: str) -> list[str]:
    return _BEFORE.sub("", path, count=1).split("/")


def creates(method: str, path: str) -> bool:
    """Whether the call makes something that later calls will name: a POST to a collection, chat apart (``stores``)."""
    if method != "POST" or path.endswith(("/chat/completions", "/embeddings")):
        return False
    return "/".join(_parts(path)) in _COLLECTIONS


def stores(method: str, path: str, body: Document | None) -> bool:
    """Whether the call is a chat that asks to be kept. Most are not, and their bodies are not parsed to learn that."""
    if body is None or method != "POST" or not path.endswith("/chat/completions"):
        return False
    if not body.was_read:
        if body.encode().find(b'"store"') < 0:
            return False
        body.lenient()
    return body.peek("store") is True


def named_in_path(path: str) -> str | None:
    """The id that a path like `/v1/files/{id}/content` names."""
    parts = _parts(path)
    for size in (2, 1):
        if len(parts) > size and "/".join(parts[:size]) in _COLLECTIONS:
            return parts[size] if _WORD.fullmatch(parts[size]) and parts[size] not in _VERBS else None
    return None


def named_in_body(body: dict[str, Any]) -> Iterator[str]:
    """The ids that a request's body names, the deciding one first."""
    for field in _BODY_FIELDS:
        value = body.get(field)
        if isinstance(value, dict):
            value = value.get("id")
        if isinstance(value, str) and _WORD.fullmatch(value):
            yield value
    stores = body.get("vector_store_ids")
    if isinstance(stores, list):
        yield from (value for value in stores[:10] if isinstance(value, str))
    yield from _file_ids(body.get("input", body.get("messages")), 4)
    tools = body.get("tools")
    if isinstance(tools, list):
        for tool in tools[:50]:
            if isinstance(tool, dict) and isinstance(tool.get("vector_store_ids"), list):
                yield from (value for value in tool["vector_store_ids"][:10] if isinstance(value, str))


def _file_ids(node: Any, depth: int) -> Iterator[str]:
    if isinstance(node, list) and depth > 0:
        for item in node:
            yield from _file_ids(item, depth - 1)
    elif isinstance(node, dict):
        value = node.get("file_id")
        if isinstance(value, str):
            yield value
        for field in ("content", "file", "source"):
            inner = node.get(field)
            if isinstance(inner, list | dict):
                yield from _file_ids(inner, depth - 1)


def made(answer: bytes) -> str | None:
    """The id in a creating call's answer: the first `"id"` of its beginning, whole JSON and event streams alike."""
    found = _ID.search(answer, 0, LOOK_AT)
    return found[1].decode() if found else None
