"""A JSON body that is bytes until somebody reads it, and a tree from then on.

What was inspected is what is sent: the received bytes are kept only while they say exactly what
the tree says. orjson keeps the last of duplicate keys and turns integers beyond 64 bits into
floats, both in silence, so a strict document checks for them. The check compares what stands
outside of strings (braces, colons, numbers) in the received bytes and in the tree written again:
four passes at C speed; only when they differ does the slow, exact parser decide.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

import orjson

from proxy.errors import ProxyError
from proxy.exact import slowly, written
from proxy.place import step

if TYPE_CHECKING:
    from proxy.dialects.base import Bound, Dialect, Finish

Json = Any
_UNREAD: Final = object()
_MAX_INT: Final = 2**64 - 1
_MIN_INT: Final = -(2**63)
_SPACE: Final = b" \t\r\n"
_SHORT: Final = 16 * 1024


class Document:
    """One JSON body. ``raw`` is what was received (already decoded from gzip and the like)."""

    __slots__ = ("_bound", "_finish", "_prose", "_raw", "_stale", "_tree", "edited")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._tree: Json = _UNREAD
        self._stale = False  # the bytes do not say yet what the tree says
        self._bound: Bound | None = None
        self._finish: Finish | None = None
        self._prose: list[str] | None = None
        self.edited = False
        """Whether the tree was ever changed: from then on the bytes received must not be sent, by any attempt."""

    @classmethod
    def of(cls, tree: Json) -> Document:
        """A document made here."""
        self = cls(b"")
        self.replace(tree)
        return self

    @property
    def was_read(self) -> bool:
        """Whether anybody asked for the tree."""
        return self._tree is not _UNREAD

    def peek(self, name: str) -> Json | None:
        """A member of the tree, if somebody has read it and it is there."""
        tree = self._tree
        return tree.get(name) if type(tree) is dict else None

    def strict(self) -> dict[str, Json]:
        """The tree of a request. Raises ``invalid_json`` (400) unless it is one unambiguous JSON object."""
        if self._tree is _UNREAD:
            self._tree = _parse_strict(self._raw)
        tree: dict[str, Json] = self._tree
        return tree

    def bound(self, dialect: Dialect) -> Bound:
        """What bounds the answer that a request asks for: worked out once for all who reserve tokens. Raises as
        ``strict``."""
        bound = self._bound
        if bound is None:
            bound = self._bound = dialect.bound(self.strict())
        return bound

    def prose(self, dialect: Dialect) -> list[str] | None:
        """The texts of a request that is nothing but prose, listed once for all who want to see them; else None. Raises
        as ``strict``."""
        prose = self._prose
        if prose is None:
            prose = self._prose = dialect.prose(self.strict())
        return prose

    def lenient(self) -> Json | None:
        """The tree of an answer; None when it is no JSON."""
        if self._tree is _UNREAD:
            try:
                self._tree = orjson.loads(self._raw)
            except orjson.JSONDecodeError:
                self._tree = _lenient(self._raw)
        return self._tree

    def finish(self, dialect: Dialect) -> Finish:
        """How the answer ended: worked out once for all who ask."""
        finish = self._finish
        if finish is None:
            finish = self._finish = dialect.finish(self.lenient())
        return finish

    def touch(self) -> None:
        """Say that the tree was changed: from now on it, not the received bytes, is what is sent."""
        self._stale = self.edited = True
        self._bound = self._finish = self._prose = None

    def replace(self, tree: Json) -> None:
        """Put another tree in place of this one."""
        self._tree = tree
        self.touch()

    def encode(self) -> bytes:
        """The bytes to send: the received ones unless the tree was changed. Raises ValueError when it is no JSON."""
        if self._stale:
            self._raw = written(self._tree)
            self._stale = False
        return self._raw

    def fork(self) -> Document:
        """An independent document that says the same; the trees share nothing."""
        other = Document(self.encode())
        if self.was_read and isinstance(self._tree, dict):
            # Same bytes, checked once: the fork parses them again only if somebody reads it.
            other._tree = _UNREAD
        return other


def _lenient(raw: bytes) -> Json | None:
    """The tree of what is not strictly JSON: with NaN, or half a surrogate pair. None when it is not even that."""
    if raw.lstrip(_SPACE)[:1] not in (b"{", b"["):
        return None
    try:
        return slowly(raw)
    except ValueError:
        return None


def _skeleton(data: bytes) -> bytes:
    """What stands outside of strings, without white space. Needs valid JSON."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b'"'.join(data.split(b'"')[::2]).translate(None, _SPACE)


def _parse_strict(raw: bytes) -> dict[str, Json]:
    try:
        tree = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ProxyError("invalid_json", f"The body is not valid JSON: {error}.") from None
    if not isinstance(tree, dict):
        kind = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(tree), "a number")
        raise ProxyError("invalid_json", f"The body must be a JSON object, not {kind}.")
    try:
        again = orjson.dumps(tree)
    except orjson.JSONEncodeError:
        raise ProxyError("invalid_json", "The body is nested too deeply (more than 250 levels).") from None
    if again != raw and not _same_text(raw, again) and _skeleton(raw) != _skeleton(again):
        _check_exactly(raw)
    return tree


def _same_text(raw: bytes, again: bytes) -> bool:
    """Whether the two differ in white space only: the usual body, in two passes instead of ten. A member or a
    digit that was lost would be missing here, too. A long body is told by its skeleton: its strings are not copied."""
    return len(raw) < _SHORT and raw.translate(None, _SPACE) == again.translate(None, _SPACE)


def _check_exactly(raw: bytes) -> None:
    def pairs(items: list[tuple[str, Json]]) -> dict[str, Json]:
        out = dict(items)
        if len(out) != len(items):
            seen: set[str] = set()
            for key, _ in items:
                if key in seen:
                    name = step(key)  # never a value that stands there as a key
                    raise ProxyError("invalid_json", f"The key {name!r} stands twice in one object.", param=name)
                seen.add(key)
        return out

    def integer(text: str) -> int:
        # Length first: turning a million digits into an int is quadratic work.
        if len(text) > 20 or not _MIN_INT <= int(text) <= _MAX_INT:
            raise ProxyError(
                "invalid_value", f"An integer of {len(text.lstrip('-'))} digits does not fit into 64 bits."
            )
        return int(text)

    def constant(text: str) -> NoReturn:
        raise ProxyError("invalid_json", f"{text} is not JSON.")

    try:
        json.loads(raw, object_pairs_hook=pairs, parse_int=integer, parse_constant=constant)
    except RecursionError:
        raise ProxyError("invalid_json", "The body is nested too deeply.") from None
    except UnicodeDecodeError:
        raise ProxyError("invalid_json", "The body is not valid UTF-8.") from None
