"""The smaller endpoints: models, moderations, audio and files."""

from __future__ import annotations

import struct
import time
from typing import Any, Final

from proxy.demo.words import Json, digest, part_texts

MODELS: Final = ("demo", "gpt-4o", "gpt-4o-mini", "claude-sonnet-demo", "text-embedding-3-small")
_CREATED: Final = 1_700_000_000
_CATEGORIES: Final = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")


def model(name: str) -> dict[str, Json]:
    """One model, with the fields of both OpenAI's and Anthropic's API."""
    return {
        "id": name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "demo",
        "type": "model",
        "display_name": name,
        "created_at": "2023-11-14T22:13:20Z",
    }


def models() -> dict[str, Json]:
    """The list of models; other names are accepted too."""
    ends = {"has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
    return {"object": "list", "data": [model(name) for name in MODELS], **ends}


def moderations(tree: dict[str, Json]) -> dict[str, Json]:
    """Nothing is ever flagged."""
    given = tree.get("input")
    result: dict[str, Any] = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    several = isinstance(given, list) and all(isinstance(one, str) for one in given)
    return {
        "id": f"modr-demo-{digest(part_texts(given))}",
        "model": tree.get("model") or "omni-moderation-latest",
        "results": [result] * (len(given or []) if several else 1),
    }


def transcription(size: int, kind: str) -> dict[str, Json]:
    """What was said in an upload of ``size`` bytes."""
    return {"text": f"You sent {size} bytes of {kind}."}


def uploaded(size: int) -> dict[str, Json]:
    """A file that was taken; nothing is kept."""
    return {
        "id": f"file-demo-{size}",
        "object": "file",
        "bytes": size,
        "created_at": int(time.time()),
        "filename": "upload",
        "purpose": "user_data",
        "status": "processed",
    }


def silence(seconds: float = 0.5, rate: int = 8000) -> bytes:
    """A WAV file (RIFF, 16 bit, mono) with nothing to hear, for text to speech."""
    data = bytes(int(seconds * rate) * 2)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE") + form + struct.pack("<4sI", b"data", len(data)) + data
    )
