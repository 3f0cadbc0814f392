"""Embeddings: vectors of length 1 that depend on nothing but model and input."""

from __future__ import annotations

import array
import base64
import math
import sys
from hashlib import shake_128
from typing import Final

import orjson

from proxy.demo.wishes import Wishes
from proxy.demo.words import Json, count

_SIZES: Final = {"text-embedding-3-large": 3072}
MAX_SIZE: Final = 4096


def vector(model: str, given: Json, size: int) -> array.array[float]:
    """``size`` 32-bit floats from a hash of the input, scaled to length 1."""
    seed = (
        model.encode() + b"\0" + (given.encode("utf-8", "replace") if isinstance(given, str) else orjson.dumps(given))
    )
    raw = array.array("h", shake_128(seed).digest(2 * size))
    if sys.byteorder == "big":
        raw.byteswap()
    length = math.sqrt(math.sumprod(raw, raw)) if hasattr(math, "sumprod") else math.sqrt(sum(x * x for x in raw))
    return array.array("f", [x / (length or 1.0) for x in raw])


def embeddings(tree: dict[str, Json], wishes: Wishes) -> dict[str, Json]:
    """A whole embeddings answer."""
    model = tree.get("model") or "demo"
    given = tree["input"]
    many = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
    size = min(tree.get("dimensions") or _SIZES.get(model, 1536), MAX_SIZE)
    as_base64 = tree.get("encoding_format") == "base64"
    data: list[Json] = []
    tokens = 0
    for index, one in enumerate(many):
        found = vector(model, one, size)
        tokens += count(one) if isinstance(one, str) else len(one)
        if as_base64:
            if sys.byteorder == "big":
                found.byteswap()
            data.append(
                {"object": "embedding", "index": index, "embedding": base64.b64encode(found.tobytes()).decode()}
            )
        else:
            data.append({"object": "embedding", "index": index, "embedding": found.tolist()})
    answer = {"object": "list", "data": data, "model": model}
    if wishes.usage:
        answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return answer
