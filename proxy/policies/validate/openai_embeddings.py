"""What an embeddings request must look like. Source: OpenAI's API reference, "Create embeddings"."""

from __future__ import annotations

from typing import Final

from proxy.policies.validate import checks
from proxy.policies.validate.checks import Check, Json, missing
from proxy.policies.validate.limits import Limits

FIELDS: Final[dict[str, Check]] = {
    "dimensions": checks.integer(1, 2**31 - 1),
    "encoding_format": checks.text,
    "user": checks.text,
}


def body(tree: dict[str, Json], limits: Limits) -> int:
    """The inputs. Returns their characters; raises ProxyError."""
    given = tree.get("input")
    if given is None:
        missing("input", "a string, an array of strings, or an array of token numbers")
    return checks.many_inputs(given, "input", limits)
