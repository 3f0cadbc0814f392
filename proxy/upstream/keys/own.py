"""A key for the proxy's own questions to an upstream, such as its list of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config.keys import Key


class OwnKey:
    """A configured key as an attempt takes it."""

    __slots__ = ("_key", "id")

    def __init__(self, key: Key) -> None:
        self._key = key
        self.id = key.id

    def reveal(self) -> str:
        """The secret, for the wire only."""
        return self._key.secret.get_secret_value()
