"""Which bucket of a budget an attempt belongs to: ``per:`` compiled at load, so that a call walks no list of names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.exchange import Attempt, Exchange

__all__ = ["reader"]

Reader = Callable[["Exchange", "Attempt"], str]


def reader(per: Sequence[str]) -> Reader:
    """A function that gives the value of the dimensions, joined by ``|``; what a call lacks is ``-``."""
    if len(per) == 1:
        return _one(per[0])
    readers = [_one(name) for name in per]

    def several(exchange: Exchange, attempt: Attempt) -> str:
        return "|".join([read(exchange, attempt) for read in readers])

    return several


def _one(name: str) -> Reader:
    return _KNOWN.get(name) or (lambda exchange, _: exchange.dimension(name))


def _upstream(_: Exchange, attempt: Attempt) -> str:
    return attempt.upstream or "-"


_KNOWN: dict[str, Reader] = {
    "all": lambda _, __: "all",
    "principal": lambda exchange, _: exchange.principal.id,
    "project": lambda exchange, _: exchange.project or "-",
    "model": lambda exchange, _: exchange.model_asked or "-",
    "key": lambda _, attempt: attempt.key.id if attempt.key is not None else "-",
    "upstream": _upstream,
}
