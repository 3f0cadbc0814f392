"""Embeddings item by item: of a batch of a hundred inputs of which ninety are known, ten are sent.

An item is one input (a text or a token array), named by itself and the call's other parameters. Stored is its vector
as the provider wrote it, with its share of the tokens. The provider counts a whole batch only; the tokens are shared
out by the inputs' sizes. A provider that counts nothing is not said to have counted zero.

An answer is cut in two steps: into rows, at once and without touching the numbers, and each row into a part when its
turn comes (to write 3072 numbers takes 90 us).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from proxy.policies.cache.entry import Entry, EntryError

__all__ = ["Part", "Row", "batch_of", "entry_of", "merged", "part_of", "rows_of"]

_MOST: Final = 100_000
_INDEX: Final = frozenset({"index"})
_APART: Final = frozenset({"index", "embedding"})
_NUMBERS: Final = (float, int)


class Part(NamedTuple):
    """One item's vector: the JSON of its object without ``index``, its share of the tokens (None: nobody counted), the
    model that made it."""

    body: bytes
    tokens: int | None
    model: str


class Row(NamedTuple):
    """The same before its numbers are written. body: without them; numbers: None where they are in ``body``."""

    body: bytes
    numbers: list[Any] | None
    tokens: int | None
    model: str

    def part(self) -> Part | None:
        """None when the numbers are not all numbers: there could be a text among them, and by the time a row is
        written, a policy above may have put a secret back into the tree that it is from."""
        if self.numbers is None:
            return Part(self.body, self.tokens, self.model)
        numbers = orjson.dumps(self.numbers)
        if b'"' in numbers:
            return None
        comma = b"," if len(self.body) > 2 else b""
        return Part(b"".join((self.body[:-1], comma, b'"embedding":', numbers, b"}")), self.tokens, self.model)


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


def rows_of(tree: Any, items: Sequence[Any]) -> list[Row] | None:
    """A provider's answer for ``items``, in their order; None when it is not an answer for them."""
    data = tree.get("data") if type(tree) is dict else None
    if type(data) is not list or len(data) != len(items) or tree.get("error"):
        return None
    said = tree.get("model")
    model = said if type(said) is str else ""
    shares = _shares(tree, items)
    found: list[Row | None] = [None] * len(items)
    last: dict[str, Any] = {}
    body = b"{}"
    for place, one in enumerate(data):
        vector = one.get("embedding") if type(one) is dict else None
        if vector is None:
            return None
        index = one.get("index", place)
        if type(index) is not int or not 0 <= index < len(found) or found[index] is not None:
            return None
        later = type(vector) is list and len(vector) > 0 and type(vector[0]) in _NUMBERS
        left_out = _APART if later else _INDEX
        rest = {key: value for key, value in one.items() if key not in left_out}
        if rest != last:
            last, body = rest, orjson.dumps(rest)  # 2 us, and mostly the same as before
        found[index] = Row(body, vector if later else None, shares[index], model)
    return found  # type: ignore[return-value] # as many different places as there are


def _shares(tree: Mapping[str, Any], items: Sequence[Any]) -> Sequence[int | None]:
    usage = tree.get("usage")
    total = usage.get("prompt_tokens") if type(usage) is dict else None
    if type(total) is not int or total < 0:
        return [None] * len(items)
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
    """The whole answer made of parts, in the shape of OpenAI's; with usage if it is known of each."""
    pieces: list[bytes | memoryview] = [b'{"object":"list","data":[']
    for index, part in enumerate(parts):
        pieces += (memoryview(part.body)[:-1], b',"index":%d},' % index)
    pieces[-1] = b',"index":%d}],' % (len(parts) - 1)
    tail: dict[str, Any] = {"model": parts[-1].model}
    counted = [part.tokens for part in parts if part.tokens is not None]
    if len(counted) == len(parts):
        tokens = sum(counted)
        tail["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    pieces.append(orjson.dumps(tail)[1:])
    return b"".join(pieces)


def entry_of(part: Part, now: float, ttl: float) -> Entry:
    """What is stored of a part: its JSON, and after a line end its model."""
    counts = None if part.tokens is None else (part.tokens,)
    return Entry(b"".join((part.body, b"\n", part.model.encode())), now, ttl, counts)


def part_of(entry: Entry) -> Part:
    """A part from what was stored. Raises EntryError."""
    body, found, model = entry.body.rpartition(b"\n")
    if not found or not body.endswith(b"}"):
        raise EntryError("not an embedding")
    return Part(body, entry.counts[0] if entry.counts else None, model.decode("utf-8", "replace"))
