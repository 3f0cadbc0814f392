"""Embeddings item by item: of a batch of a hundred inputs of which ninety are known, ten are sent.

An item is one input (a text or a token array), named by itself and the call's other parameters. Stored is its vector
as the provider wrote it, with its share of the tokens. The provider counts a whole batch only; the tokens are shared
out by the inputs' sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from proxy.policies.cache.entry import Entry, EntryError

__all__ = ["Part", "batch_of", "entry_of", "merged", "part_of", "parts_of"]

_MOST: Final = 100_000


class Part(NamedTuple):
    """One item's vector: the JSON of its object without ``index``, its share of the tokens, the model that made it."""

    body: bytes
    tokens: int
    model: str


def batch_of(tree: Mapping[str, Any]) -> list[Any] | None:
    """The items of a request, in order; None when its input has no known shape."""
    said = tree.get("input")
    if type(said) is str:
        return [said]
    if type(said) is not list or not said or len(said) > _MOST:
        return None
    kinds = {type(item) for item in said}
    if kinds == {int}:
        return [said]  # one token array
    if kinds == {str} or (kinds == {list} and all(type(token) is int for item in said for token in item)):
        return said
    return None


def parts_of(tree: Any, items: Sequence[Any]) -> list[Part] | None:
    """A provider's answer for ``items``, cut into parts in their order; None when it is not an answer for them."""
    data = tree.get("data") if type(tree) is dict else None
    if type(data) is not list or len(data) != len(items) or tree.get("error"):
        return None
    found: list[Any] = [None] * len(items)
    for place, one in enumerate(data):
        if type(one) is not dict or one.get("embedding") is None:
            return None
        index = one.get("index", place)
        if type(index) is not int or not 0 <= index < len(found) or found[index] is not None:
            return None
        found[index] = {key: value for key, value in one.items() if key != "index"}
    shares = _shares(tree, items)
    said = tree.get("model")
    model = said if type(said) is str else ""
    return [Part(orjson.dumps(one), share, model) for one, share in zip(found, shares, strict=True)]


def _shares(tree: Mapping[str, Any], items: Sequence[Any]) -> list[int]:
    usage = tree.get("usage")
    total = usage.get("prompt_tokens") if type(usage) is dict else None
    if type(total) is not int or total < 0:
        return [0] * len(items)
    sizes = [max(1, len(item)) for item in items]
    whole, given, passed = sum(sizes), 0, 0
    shares = []
    for size in sizes:  # rounded so that the shares sum up to the whole
        passed += size
        share = total * passed // whole - given
        given += share
        shares.append(share)
    return shares


def merged(parts: Sequence[Part]) -> bytes:
    """The whole answer made of parts, in the shape of OpenAI's."""
    tokens = sum(part.tokens for part in parts)
    data = b",".join([b'%s,"index":%d}' % (part.body[:-1], index) for index, part in enumerate(parts)])
    tail = {"model": parts[-1].model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return b'{"object":"list","data":[' + data + b"]," + orjson.dumps(tail)[1:]


def entry_of(part: Part, now: float, ttl: float) -> Entry:
    """What is stored of a part: its JSON, and after a line end its model."""
    return Entry(part.body + b"\n" + part.model.encode(), now, ttl, (part.tokens,))


def part_of(entry: Entry) -> Part:
    """A part from what was stored. Raises EntryError."""
    body, found, model = entry.body.rpartition(b"\n")
    if not found or not body.endswith(b"}"):
        raise EntryError("not an embedding")
    return Part(body, entry.counts[0] if entry.counts else 0, model.decode("utf-8", "replace"))
