"""One Redis, and several parts of this process that talk to it: a call waits for a silent one once, not once for each.

Whoever has waited in vain says so. Unless somebody has had an answer lately, the others stop waiting at once: they find
out in the background, as ever, when it answers again.
"""

from collections.abc import Callable
from time import monotonic
from typing import TypeAlias
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

Told: TypeAlias = Callable[[str], None]
"""Called with what was waited for in vain."""


class Server:
    """What is known of one server. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._answered = 0.0
        self._parts: list[Told] = []

    def __repr__(self) -> str:
        return f"<Server answered {monotonic() - self._answered:.3f} s ago, {len(self._parts)} parts>"

    def join(self, told: Told) -> None:
        """From now on `told` hears of vain waits of others."""
        if told not in self._parts:
            self._parts.append(told)

    def leave(self, told: Told) -> None:
        """Ends `join`."""
        if told in self._parts:
            self._parts.remove(told)

    def answered(self) -> None:
        """Somebody had an answer just now."""
        self._answered = monotonic()

    def silent(self, since: float, reason: str, told: Told) -> None:
        """Whoever joined as `told` has waited since then in vain.

        An answer of the first half of that time was perhaps given before the server fell silent, and only read then.
        """
        if self._answered < (since + monotonic()) / 2:
            for part in [part for part in self._parts if part != told]:
                part(reason)


_servers: WeakValueDictionary[str, Server] = WeakValueDictionary()


def server_of(url: str) -> Server:
    """The server behind a redis://, rediss:// or unix:// address, whatever its database, user and password."""
    parts = urlsplit(url)
    place = parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
    return _servers.setdefault(place, Server())
