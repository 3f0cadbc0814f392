"""Adding the deltas of a stream up to the object they describe.

Two rules. ``merge``: what is told piece by piece grows. ``renew``: what describes it is said anew, and the last word
holds. A text may come in a hundred thousand pieces: they are listed as they come and joined once (``joined``).
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["joined", "merge", "renew"]

_ONCE: Final = frozenset({"id", "type", "role", "call_id", "object", "format", "signature", "finish_reason", "model"})
_DEPTH: Final = 32
"""What lies deeper is taken as it came last."""
_SAYS: Final = frozenset({int, float, bool})


class _Pieces(list[str]):
    """A string while it grows."""


def merge(whole: dict[str, Any], delta: dict[str, Any], depth: int = 0) -> None:
    """Add ``delta`` to ``whole`` in place; nothing that grows is shared. Ask ``joined`` for the result.

    Strings grow, except those that name something (``id``, ``type``, ``role``); a repeated ``name`` stays as it
    is. Lists whose items carry an ``index`` grow item by item, others are extended. Other values replace.
    """
    for key, value in delta.items():
        have = whole.get(key)
        kind = type(value)
        if value is None:
            whole.setdefault(key, None)
        elif kind is str:
            if type(have) is _Pieces:
                have.append(value)
            elif type(have) is not str or key in _ONCE:
                if value or not have:
                    whole[key] = value
            elif key == "name":
                whole[key] = value if have == value else have + value
            else:
                whole[key] = _Pieces((have, value)) if have else value
        elif kind is dict and depth < _DEPTH:
            if type(have) is not dict:
                whole[key] = have = {}
            merge(have, value, depth + 1)
        elif kind is list and depth < _DEPTH:
            if type(have) is not list:
                whole[key] = have = []
            _merge_list(have, value, depth + 1)
        else:
            whole[key] = value


def renew(whole: dict[str, Any], later: dict[str, Any], depth: int = 0) -> None:
    """Say the fields of ``later`` anew in ``whole``. Objects are renewed field by field; null, an empty string and an
    empty list replace nothing."""
    for key, value in later.items():
        have = whole.get(key)
        if type(value) is dict and depth < _DEPTH:
            if type(have) is not dict:
                if have and not value:
                    continue
                whole[key] = have = {}
            renew(have, value, depth + 1)
        elif value or have is None or type(value) in _SAYS:
            whole[key] = value


def joined(tree: dict[str, Any]) -> dict[str, Any]:
    """What was merged, with each string in one piece. In place."""
    stack: list[Any] = [tree]
    while stack:
        holder = stack.pop()
        for key, value in holder.items() if type(holder) is dict else enumerate(holder):
            kind = type(value)
            if kind is _Pieces:
                holder[key] = "".join(value)
            elif kind is dict or kind is list:
                stack.append(value)
    return tree


def _merge_list(whole: list[Any], delta: list[Any], depth: int) -> None:
    for item in delta:
        if type(item) is not dict:
            holder: dict[str, Any] = {}
            merge(holder, {"item": item}, depth)
            whole.extend(holder.values())
            continue
        index = item.get("index")
        if type(index) is int:
            # The newest item is nearly always the one that grows.
            for have in reversed(whole):
                if type(have) is dict and have.get("index") == index:
                    merge(have, item, depth)
                    break
            else:
                _append(whole, item, depth)
        else:
            _append(whole, item, depth)


def _append(whole: list[Any], item: dict[str, Any], depth: int) -> None:
    fresh: dict[str, Any] = {}
    merge(fresh, item, depth)
    whole.append(fresh)
