"""From a stored answer to what a client gets: whole or as events, with the original's identity or a new one."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from proxy.document import Document
from proxy.exact import read, written
from proxy.exchange import Answer
from proxy.policies.cache.keeping import added_up
from proxy.stream.fanout import Replay

if TYPE_CHECKING:
    from proxy.dialects.base import Dialect
    from proxy.exchange import Exchange
    from proxy.policies.cache.entry import Entry

__all__ = ["JSON", "add_up", "answer", "as_it_came", "asks_usage", "events", "renewed", "whole"]

JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (b"content-type", b"text/event-stream; charset=utf-8")
_TIMES: Final = ("created", "created_at")
_LETTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def answer(exchange: Exchange, dialect: Dialect, entry: Entry, age: float, *, new_ids: bool) -> Answer:
    """The stored answer as this caller asked for it. age: seconds since it was stored. Raises ValueError when it is
    not what it should be. Events that were added up stay so: the entry's body is then the whole answer."""
    streaming = exchange.streaming
    if not (streaming or new_ids or entry.events):
        return whole(entry.body, age)
    if entry.events and as_it_came(exchange, dialect, entry, new_ids=new_ids):
        return Answer(200, [_EVENTS, _age(int(age))], origin="cache", source=Replay.raw(entry.body), events=True)
    tree: Any = add_up(entry, dialect) if entry.events else read(entry.body)
    if new_ids:
        renewed(tree, exchange.started_wall)
    if streaming:
        told = events(exchange, dialect, tree)
        told.headers.append(_age(int(age)))
        return told
    return whole(written(tree), age)


def as_it_came(exchange: Exchange, dialect: Dialect, entry: Entry, *, new_ids: bool) -> bool:
    """Whether stored events are just what this caller asked for."""
    return exchange.streaming and not new_ids and entry.with_usage is asks_usage(exchange, dialect)


def add_up(entry: Entry, dialect: Dialect) -> dict[str, Any]:
    """Make of stored events the whole answer, which the entry then is. Raises ValueError when they are none. 30 ms for
    a megabyte."""
    tree = added_up(entry, dialect)
    if tree is None:
        raise ValueError("the stored events are no whole answer")
    entry.add_up(written(tree))
    return tree


def asks_usage(exchange: Exchange, dialect: Dialect) -> bool:
    """Whether the call's client gets usage with a stream."""
    asked = exchange.request.body
    return asked is not None and dialect.asks_usage(asked.strict())


def whole(body: bytes, age: float) -> Answer:
    """A whole answer."""
    return Answer(200, [JSON, _age(int(age))], origin="cache", body=Document(body))


@lru_cache(1024)
def _age(seconds: int) -> tuple[bytes, bytes]:
    return b"age", b"%d" % seconds


def events(exchange: Exchange, dialect: Dialect, tree: Any) -> Answer:
    """A whole answer as the events that the provider would have sent, with usage if the client asked for it."""
    made = dialect.replay(tree, include_usage=asks_usage(exchange, dialect))
    if not made:
        raise ValueError("the answer cannot be said as events")
    return Answer(200, [_EVENTS], origin="cache", source=Replay.of(made), events=True)


def renewed(tree: Any, now: float) -> None:
    """Give an answer an id and a time of its own; its id keeps the sign that tells what it is (``chatcmpl-``). Not one
    that the provider has kept: a later call refers to it by the id that it has there."""
    if type(tree) is not dict or tree.get("store") is True:
        return
    name = tree.get("id")
    if type(name) is str and name:
        at = max(name.rfind("-"), name.rfind("_")) + 1
        tree["id"] = name[:at] + "".join(random.choices(_LETTERS, k=max(24, len(name) - at)))
    for key in _TIMES:
        if type(tree.get(key)) in (int, float):
            tree[key] = int(now)
