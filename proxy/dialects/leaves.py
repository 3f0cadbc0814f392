"""Walking JSON that no dialect knows by name: every string in it is a text until shown otherwise.

What is left out names something rather than says something: ids, types, models and other enums, where the key says
so *and* the value looks it; URLs under a URL's key; base64 content beside its media type; reasoning that its
provider signed. A key alone never hides a value: ``{"type": "my name is Ann"}`` is a text.

The walk is iterative, so no nesting exhausts the stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from proxy.dialects.base import Kind, Opaque, Slot

__all__ = ["NAMES", "NO_NAMES", "TOOL_NAMES", "is_name", "is_signed", "keys", "opaque_parts", "walk"]

Path = tuple[str | int, ...]

_WORDS: Final = """
background completion_window detail effort encoding_format endpoint event finish_reason format
function_call id ids include input_fidelity kind media_type mime_type modalities mode model
moderation object output_format prompt_cache_retention purpose quality reasoning_effort
response_format role search_context_size service_tier size status stop_reason style
timestamp_granularities tool_choice truncation ttl type verbosity voice
"""
NAMES: Final = frozenset(_WORDS.split())
"""Keys whose value is an enum or an identifier when it looks like one."""
TOOL_NAMES: Final = NAMES | {"name", "required", "server_label"}
"""The same in the description of a tool, where names are identifiers too."""
NO_NAMES: Final[frozenset[str]] = frozenset()
"""For an application's own data (tool inputs): every string is a text."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,127}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_URL: Final = re.compile(r"(?:https?|wss?|gs|s3)://\S*|data:[\w.+/-]*(?:;[\w.=-]+)*,\S*")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/=_\r\n-]*")
_SEALED: Final = frozenset({"signature", "encrypted_content"})
_SEALING: Final = frozenset(
    {
        "thinking", "redacted_thinking", "reasoning", "reasoning.text", "reasoning.summary", "reasoning.encrypted",
        "compaction", "compaction_summary", "web_search_result", "signature_delta",
    }
)  # fmt: skip
"""Types of what a provider seals. A seal elsewhere is a field of that name."""
_SEAL: Final = 64
"""Characters of the shortest seal: a card or an account has fewer."""
_PROSE: Final = frozenset(
    {"text", "content", "refusal", "thinking", "summary", "reasoning_content", "reasoning", "output"}
)
_MEDIA: Final = {
    "image_url": "image",
    "input_image": "image",
    "image": "image",
    "image_file": "image",
    "input_audio": "audio",
    "audio": "audio",
    "video_url": "video",
    "input_video": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
    "container_upload": "file",
    "computer_screenshot": "image",
    "image_generation_call": "image",
}
_MEDIA_KEYS: Final = frozenset({"media_type", "mime_type", "format", "filename"})
_DATA_KEYS: Final = frozenset({"data", "file_data", "b64_json", "bytes", "result"})
_LONG: Final = 256
"""Base64 this long under a key for data is content even without a media type beside it."""
_SHORTEST: Final = 6
"""Characters of a key that is worth a look."""
_MANY: Final = 256
"""Keys of an object that are kept in their order when one is renamed; more would cost more than they are worth."""
_DEPTH: Final = 64
"""Paths longer than this stop growing, so that a deep tree costs no more than a wide one."""


def is_name(key: str, value: str, names: frozenset[str] = NAMES) -> bool:
    """Whether ``value`` under ``key`` names something (an id, an enum, a URL) and so is no text."""
    if not names:
        return False
    if key in names or key.endswith(("_id", "_ids")):
        return _IDENTIFIER.fullmatch(value) is not None or _UUID.fullmatch(value) is not None
    return key.endswith(("url", "uri", "URL")) and _URL.fullmatch(value) is not None


def is_signed(block: dict[str, Any]) -> bool:
    """Whether this is reasoning that its provider signed or sealed: one letter changed makes it worthless."""
    kind = block.get("type")
    if kind in ("thinking", "reasoning.text"):
        signature = block.get("signature")
        return type(signature) is str and len(signature) > 0
    return kind in ("redacted_thinking", "reasoning.encrypted")


def walk(
    holder: Any, key: Any, role: str, path: Path, *, names: frozenset[str] = NAMES, sealed: bool = True
) -> Iterator[Slot]:
    """Every text at and below ``holder[key]``, in order.

    names: keys whose identifiers are no texts; ``NO_NAMES`` for an application's own data. sealed: leave signed
    reasoning alone.
    """
    own_data = not names
    stack: list[tuple[Any, Any, Path, str, bool, bool]] = [(holder, key, path, _nearest_name(path), False, False)]
    while stack:
        holder, key, path, name, media, said = stack.pop()
        value = holder[key]
        kind = type(value)
        if kind is str:
            if (
                not value
                or is_name(name, value, names)
                or (name in _SEALED and not own_data and _is_seal(holder, value))
            ):
                continue
            if name in _DATA_KEYS and not own_data and not said and (media or len(value) > _LONG) and _is_base64(value):
                continue
            slot_kind: Kind = "text" if name in _PROSE and not own_data else "leaf"
            yield Slot(holder, key, slot_kind, role, path)
        elif kind is dict:
            held = {"thinking", "text", "data", "signature"} if sealed and names and is_signed(value) else set()
            media = not own_data and (
                name in _MEDIA or value.get("type") in _MEDIA_TYPES or not _MEDIA_KEYS.isdisjoint(value)
            )
            said = media and _is_plain(value)
            grow = len(path) < _DEPTH
            for inner in reversed(value):
                if inner not in held:
                    stack.append((value, inner, (*path, inner) if grow else path, inner, media, said))
        elif kind is list:
            grow = len(path) < _DEPTH
            for index in range(len(value) - 1, -1, -1):
                if type(value[index]) not in _SCALARS:
                    stack.append((value, index, (*path, index) if grow else path, name, media, said))


class _Keys:
    """The keys of one object in the place of its values: what is set under a key is its new name."""

    __slots__ = ("_names", "_tree")

    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree = tree
        self._names: dict[str, str] = {}

    def __getitem__(self, key: str) -> str:
        return self._names.get(key, key)

    def __setitem__(self, key: str, name: str) -> None:
        tree, old = self._tree, self[key]
        while name != old and name in tree:  # two keys may become one; neither value may be lost
            name += "_"
        self._names[key] = name
        if len(tree) > _MANY:
            tree[name] = tree.pop(old)
            return
        items = list(tree.items())
        tree.clear()
        tree.update((name if said == old else said, value) for said, value in items)


def keys(holder: Any, key: Any, role: str, path: Path) -> Iterator[Slot]:
    """The keys of all objects at and below ``holder[key]`` that are long enough to hold something. For an application's
    own data. Values are reached by the old keys, so edit them before."""
    stack: list[tuple[Any, Path]] = [(holder[key], path)]
    found: list[Slot] = []
    while stack:
        value, path = stack.pop()
        grow = len(path) < _DEPTH
        if type(value) is dict:
            names = _Keys(value)
            found += [Slot(names, name, "leaf", role, path) for name in value if len(name) >= _SHORTEST]
        if type(value) is dict or type(value) is list:
            for inner, item in value.items() if type(value) is dict else enumerate(value):
                if type(item) in _CONTAINERS:
                    stack.append((item, (*path, inner) if grow else path))
    yield from found


def opaque_parts(holder: Any, key: Any, path: Path) -> Iterator[Opaque]:
    """Images, audio and files at and below ``holder[key]``, told by their ``type``."""
    stack: list[tuple[Any, Path]] = [(holder[key], path)]
    while stack:
        value, path = stack.pop()
        grow = len(path) < _DEPTH
        if type(value) is dict:
            kind = value.get("type")
            found = _MEDIA.get(kind) if type(kind) is str else None
            if found is not None and not _is_text_document(value):
                yield Opaque(found, path)
                continue
            stack.extend(
                (value[inner], (*path, inner) if grow else path)
                for inner in reversed(value)
                if type(value[inner]) in _CONTAINERS
            )
        elif type(value) is list:
            stack.extend(
                (value[index], (*path, index) if grow else path)
                for index in range(len(value) - 1, -1, -1)
                if type(value[index]) in _CONTAINERS
            )


_SCALARS: Final = frozenset({int, float, bool, type(None)})
_CONTAINERS: Final = frozenset({dict, list})


class _Types(frozenset[str]):
    """Media types; anything unhashable is not among them."""

    def __contains__(self, value: object) -> bool:
        return type(value) is str and super().__contains__(value)


_MEDIA_TYPES: Final = _Types({*_MEDIA, "base64"})


def _is_text_document(part: dict[str, Any]) -> bool:
    """Anthropic's documents may hold plain text, which is inspected like any other."""
    source = part.get("source")
    return part.get("type") == "document" and type(source) is dict and source.get("type") in ("text", "content")


def _is_seal(holder: Any, value: str) -> bool:
    if len(value) < _SEAL or type(holder) is not dict:
        return False
    kind = holder.get("type")
    return type(kind) is str and kind in _SEALING and _is_base64(value)


def _is_plain(part: dict[str, Any]) -> bool:
    """Whether the media that ``part`` describes are text as it stands, not base64."""
    if part.get("type") == "base64":
        return False
    return any(str(part.get(key, "")).startswith("text/") for key in ("media_type", "mime_type"))


def _is_base64(value: str) -> bool:
    """Whether this is base64 as far as both ends tell, also as a ``data:`` URL."""
    if value.startswith("data:"):
        value = value[value.find(";base64,", 0, 128) + 8 :] if ";base64," in value[:128] else " "
    return (
        " " not in value and _BASE64.fullmatch(value[:256]) is not None and _BASE64.fullmatch(value[-256:]) is not None
    )


def _nearest_name(path: Path) -> str:
    for part in reversed(path):
        if type(part) is str:
            return part
    return ""
