"""What the demo says: quotes of what it received, as text, as JSON that follows a schema, and cut into tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import orjson

Json = Any
_TOKEN: Final = re.compile(r"\s*\S{1,4}|\s+")
_FILLER: Final = "All work and no play makes a dull demo. "
MAX_QUOTE: Final = 8000
_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class Heard:
    """What a request said. user: its last user text; system: its system prompt; tool: what a tool answered, when that
    is the last thing said."""

    user: str
    system: str = ""
    tool: str | None = None

    def quote(self) -> str:
        """The answer in words."""
        if self.tool is not None:
            return f"The tool said: {_short(self.tool)}"
        said = f"You said: {_short(self.user)}"
        return said + (f"\nThe system prompt said: {_short(self.system)}" if self.system else "")


def _short(text: str) -> str:
    return text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}... ({len(text)} characters in all)"


def part_texts(content: Json) -> str:
    """The texts of a message's content: a string, or parts of which those with a text count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_part(part) for part in content)
    return ""


def _part(part: Json) -> str:
    if not isinstance(part, dict):
        return str(part)
    text = part.get("text") or part.get("refusal")
    if isinstance(text, str):
        return text
    if "content" in part:
        return part_texts(part["content"])
    return f"[{part.get('type')}]"


def tokens_of(text: str) -> list[str]:
    """The text in pieces of at most four characters (and the space before); joined they are the text again."""
    return _TOKEN.findall(text)


def count(text: str) -> int:
    """How many tokens a text has; long ones are estimated."""
    return len(tokens_of(text)) if len(text) < 20_000 else len(text) // 4


def filler(length: int) -> str:
    """A text of exactly this many tokens."""
    one = tokens_of(_FILLER.strip())
    pieces = [" " + one[i % len(one)].lstrip() if i and not i % len(one) else one[i % len(one)] for i in range(length)]
    return "".join(pieces)


def cut(text: str, limit: int | None, stop: Json) -> tuple[str, bool]:
    """The text up to the first stop sequence and to ``limit`` tokens; and whether the limit cut it."""
    for one in [stop] if isinstance(stop, str) else stop or []:
        if one:
            text = text.partition(one)[0]
    if limit is None:
        return text, False
    pieces = tokens_of(text)
    return "".join(pieces[:limit]), len(pieces) > limit


def digest(value: Json) -> str:
    """Sixteen hexadecimal digits that are the same for the same request."""
    return blake2b(orjson.dumps(value), digest_size=8).hexdigest()


def in_json(heard: Heard, schema: Json = None) -> str:
    """The quote as a JSON text; with a schema, as something that follows it."""
    value = from_schema(schema, heard.quote(), schema) if isinstance(schema, dict) else {"answer": heard.quote()}
    return orjson.dumps(value).decode()


def arguments(heard: Heard, schema: Json) -> Json:
    """Arguments for a tool: its parameters filled with what the user said."""
    value = from_schema(schema, heard.user, schema) if isinstance(schema, dict) else {}
    return value if isinstance(value, dict) else {}


def from_schema(schema: Json, text: str, root: Json, depth: int = 0) -> Json:
    """A value that follows a JSON schema, as far as its types, enums, references and alternatives go."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return text
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found: Json = root
        for key in reference[2:].split("/"):
            found = found.get(key) if isinstance(found, dict) else None
        return from_schema(found, text, root, depth + 1)
    for several in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(several), list) and schema[several]:
            return from_schema(schema[several][0], text, root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object" or (kind is None and isinstance(schema.get("properties"), dict)):
        inner = schema.get("properties")
        properties = inner if isinstance(inner, dict) else {}
        return {name: from_schema(one, text, root, depth + 1) for name, one in properties.items()}
    if kind == "array":
        return [from_schema(schema["items"], text, root, depth + 1)] if "items" in schema else []
    if kind in ("integer", "number"):
        least = schema.get("minimum", 1)
        return least if isinstance(least, int | float) else 1
    if kind == "boolean":
        return True
    return None if kind == "null" else text
