"""What goes over a link to Redis, and what its owner is told."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Op:
    """One operation on its way. deliver: told the answer, or None when Redis did not give one.

    asked: when somebody began to wait. waited: seconds of that which a slow batch before it took.
    """

    __slots__ = ("asked", "deliver", "message", "source", "waited")

    def __init__(
        self,
        message: list[Any],
        deliver: Callable[[Any], None] | None = None,
        source: object = None,
        asked: float = 0.0,
    ) -> None:
        self.message = message
        self.deliver = deliver
        self.source = source
        self.asked = asked
        self.waited = 0.0


class Hello(NamedTuple):
    """born: changes when Redis lost its data. last: the last batch it did for us. replicas, place: who shares."""

    born: bytes
    last: int
    replicas: int
    place: int


class Listener:
    """What the owner of a link is told, always from the link's own task."""

    def connected(self, hello: Hello, doubtful: Sequence[Op], lost: Sequence[Op]) -> Sequence[Op]:
        """Redis is there (again). doubtful: sent last time without an answer, and not done. lost: never sent.

        Returns what is to be said first.
        """
        raise NotImplementedError

    def ready(self) -> None:
        """What `connected` returned was said: the books agree, `ask` works."""
        raise NotImplementedError

    def disconnected(self, reason: str) -> None:
        """Redis is slow or gone; told at every attempt that fails."""
        raise NotImplementedError

    def noted(self, notes: Sequence[Sequence[Any]]) -> None:
        """What others have posted."""
        raise NotImplementedError

    def beat(self, hello: Hello) -> None:
        """Every two seconds while up, and as soon as a replica has come or gone."""
        raise NotImplementedError

    def met(self, replicas: int) -> None:
        """An answer said another number of replicas than the one before: at once, before the next `beat`."""
        raise NotImplementedError

    def poll(self) -> Sequence[Op]:
        """Every quarter of a second while up; returns what to ask by the way."""
        raise NotImplementedError
