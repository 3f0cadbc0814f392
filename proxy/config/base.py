"""What configuration models are made of.

`Model` is the base of every configured object: frozen, and with unknown keys refused. Policies may use it for their
options. Types are taken as written: `"5"` is a text and no number, `1` is no boolean (`proxy.config.validate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, WithJsonSchema


class Model(BaseModel):
    """A frozen configuration object that refuses unknown keys and never shows its input in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Refers:
    """Marks a text as the name of something else in the configuration; the loader checks that it is there.

    `kind` is the section that must hold the name: `upstreams`, `keys`, `chains`.
    """

    kind: str


def _one_or_many(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


UpstreamName = Annotated[str, Refers("upstreams")]
"""The name of an entry of `upstreams:`; usable in the options of policies too."""

ChainName = Annotated[str, Refers("chains")]
"""The name of an entry of `chains:`."""

PoolName = Annotated[str, Refers("keys")]
"""The name of a pool under `keys:`."""

Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_many),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""One text or a list of texts; always a tuple once loaded."""

Secret = SecretStr
"""A text that no repr, message or dump shows; `get_secret_value()` gives it."""

FilePath = Annotated[Path, AfterValidator(lambda path: path.expanduser())]
"""A path with `~` expanded; relative paths are relative to the working folder of the process."""

Text = Annotated[str, Field(min_length=1)]
"""A text that is not empty."""
