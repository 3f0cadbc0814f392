"""Adding the deltas of a stream up to the object they describe."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["merge"]

_ONCE: Final = frozenset({"id", "type", "role", "call_id", "object", "format", "signature", "finish_reason", "model"})
_DEPTH: Final = 32


def merge(whole: dict[str, Any], delta: dict[str, Any], depth: int = 0) -> None:
    """Add ``delta`` to ``whole`` in place, sharing nothing that can be edited.

    Strings grow, except those that name something (``id``, ``type``, ``role``); a repeated ``name`` stays as it
    is. Lists whose items carry an ``index`` grow item by item, others are extended. Other values replace.
    """
    for key, value in delta.items():
        have = whole.get(key)
        kind = type(value)
        if value is None:
            whole.setdefault(key, None)
        elif kind is str:
            if type(have) is str and not (key in _ONCE or (key == "name" and have == value)):
                whole[key] = have + value
            elif value or not have:
                whole[key] = value
        elif kind is dict and depth < _DEPTH:
            if type(have) is not dict:
                whole[key] = have = {}
            merge(have, value, depth + 1)
        elif kind is list and depth < _DEPTH:
            if type(have) is not list:
                whole[key] = have = []
            _merge_list(have, value, depth + 1)
        elif kind is not dict and kind is not list:
            whole[key] = value


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
