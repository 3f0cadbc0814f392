"""Azure's classic paths, which name the model: ``/openai/deployments/NAME/chat/completions``.

The provider serves what the path names, whatever the body says; so NAME is the model wherever a call's model counts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

__all__ = ["BEGINS", "deployment", "redirected"]

BEGINS: Final = "/openai/d"
"""How such a path begins, decoded: what every other call is spared the rest by."""


@lru_cache(512)
def deployment(raw_path: str) -> str | None:
    """The name in a path as received; None where it is no such path. Judged by its segments before they are decoded, as
    the provider does: a slash that is percent-coded ends none."""
    parts = raw_path.split("/", 4)
    if len(parts) < 5 or not parts[4] or (unquote(parts[1]), unquote(parts[2])) != ("openai", "deployments"):
        return None
    return unquote(parts[3]) or None


def redirected(raw_path: str, model: str) -> str:
    """The same path to another deployment; any other path as it is."""
    if deployment(raw_path) is None:
        return raw_path
    parts = raw_path.split("/", 4)
    parts[3] = quote(model, safe="")
    return "/".join(parts)
