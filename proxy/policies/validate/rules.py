"""Which rules go with which dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from proxy.policies.validate import (
    anthropic_messages,
    checks,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
)
from proxy.policies.validate.checks import Check, Json
from proxy.policies.validate.limits import Limits

Body = Callable[[dict[str, Json], Limits], int]


def _nothing(tree: dict[str, Json], limits: Limits) -> int:
    return 0


_RULES: Final[dict[str, tuple[Body, Mapping[str, Check]]]] = {
    "openai_chat": (openai_chat.body, openai_chat.FIELDS),
    "openai_completions": (openai_completions.body, openai_completions.FIELDS),
    "openai_embeddings": (openai_embeddings.body, openai_embeddings.FIELDS),
    "openai_responses": (openai_responses.body, openai_responses.FIELDS),
    "anthropic_messages": (anthropic_messages.body, anthropic_messages.FIELDS),
}
_UNKNOWN: Final[tuple[Body, Mapping[str, Check]]] = (_nothing, {"model": checks.text, "stream": checks.boolean})


def has_rules(dialect: str) -> bool:
    """Whether requests of this dialect are more than just JSON."""
    return dialect in _RULES


def check(dialect: str, tree: dict[str, Json], limits: Limits) -> int:
    """Judge every field but the model. Returns the characters of the texts; raises ProxyError."""
    body, fields = _RULES.get(dialect, _UNKNOWN)
    for field, value in tree.items():
        judge = fields.get(field)
        if judge is not None and value is not None:
            judge(value, field, limits)
    return body(tree, limits)
