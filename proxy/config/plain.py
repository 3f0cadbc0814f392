"""Everything that a piece of configuration says, as a text to be hashed: equal texts, equal configurations.

A ``repr`` will not do: it leaves out what must not be shown to people, and so would not tell two secrets apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

__all__ = ["plain"]


def plain(value: Any) -> str:
    """Holds secrets: for a digest only, never for a log or a page."""
    return repr(_tree(value))


def _tree(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return [(name, _tree(getattr(value, name))) for name in type(value).model_fields]
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return [(name, _tree(held)) for name, held in value.items()]
    if isinstance(value, list | tuple):
        return [_tree(held) for held in value]
    return value
