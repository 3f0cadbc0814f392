"""The options of the `pii` policy, as written in YAML."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from proxy.policies.pii.actions import Action
from proxy.policies.pii.allow import Allow
from proxy.policies.pii.custom import CustomEntity
from proxy.policies.pii.found import ENTITY_TYPES, NER_TYPES
from proxy.policy import PolicyOptions


class CustomOption(BaseModel):
    """One entity of your own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = Field(description="Name in upper case, as in the placeholder: EMPLOYEE_ID.")
    pattern: str = Field(description="RE2 pattern; its first group, if any, is the value.")
    context: tuple[str, ...] = Field(default=(), description="Words of which one must stand before the value.")
    validator: str | None = Field(default=None, description="luhn, mod97 or a python-stdnum module such as de.idnr.")
    examples: tuple[str, ...] = Field(default=(), description="Texts in which it must be found; verified by check.")
    counter_examples: tuple[str, ...] = Field(default=(), description="Texts in which it must not be found.")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        """`name` is understood as `type`: everything else in a chain has a name."""
        if isinstance(value, dict) and "name" in value and "type" not in value:
            value = {"type": value["name"], **{key: given for key, given in value.items() if key != "name"}}
        return value

    def entity(self) -> CustomEntity:
        """The entity this describes."""
        return CustomEntity(self.type, self.pattern, self.context, self.validator, self.examples, self.counter_examples)


class NerOption(BaseModel):
    """A model that adds PERSON, LOCATION and ORGANIZATION; needs the `ner` extra."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["spacy", "gliner"] = "spacy"
    path: str = Field(description="Folder of the model on this machine; nothing is downloaded.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="Least score of a finding (gliner).")


class PiiOptions(PolicyOptions):
    """What is looked for, where, and what happens to it."""

    entities: Literal["all"] | tuple[str, ...] = Field(
        default="all", description="Types to look for; all is every built-in type but DATE."
    )
    action: Action = Field(default="mask", description="What happens to what is found.")
    actions: dict[str, Action] = Field(default_factory=dict, description="Another action for some types.")
    direction: tuple[Literal["request", "response"], ...] = Field(
        default=("request",), description="Where to look: in what is sent, in what is answered, or both."
    )
    restore: bool = Field(default=True, description="Put masked values back into the answer.")
    allow: tuple[str, ...] = Field(
        default=(), description="Values, /patterns/, or `documentation` (reserved example ranges) that stay."
    )
    custom: tuple[CustomOption, ...] = Field(default=(), description="Entities of your own.")
    on_opaque: Literal["allow", "block"] = Field(
        default="allow",
        description="What to do with images, audio, uploads, websockets and token arrays, which cannot be read.",
    )
    described: bool = Field(
        default=False, description="Look at tool descriptions too, and hash `user` and `metadata` values."
    )
    hash_key: str | None = Field(
        default=None, repr=False, description="Key of hash and fake; without one a new key is made at each start."
    )
    ner: NerOption | None = Field(default=None, description="A local model for names, places and organizations.")

    @field_validator("direction", mode="before")
    @classmethod
    def _one_direction(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> PiiOptions:
        own = {c.type for c in self.custom}
        known = {*ENTITY_TYPES, *own, *(NER_TYPES if self.ner is not None else ())}
        named = () if self.entities == "all" else self.entities
        unknown = sorted({*named, *self.actions} - known)
        if unknown:
            raise ValueError(f"unknown entity type {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        if not self.direction:
            raise ValueError("direction: name request, response or both")
        clash = sorted(own & set(ENTITY_TYPES))
        if clash:
            raise ValueError(f"custom entity {', '.join(clash)} has the name of a built-in type")
        alike: dict[str, str] = {}
        for kind in sorted({*ENTITY_TYPES, *NER_TYPES, *own}):
            other = alike.setdefault(kind.replace("_", ""), kind)
            if other != kind:  # models drop `_` from placeholders, and then one would mean the other's value
                mine, theirs = (kind, other) if kind in own else (other, kind)
                raise ValueError(f"custom entity {mine} differs from {theirs} in _ alone")
        Allow(self.allow)
        problems = [problem for c in self.custom for problem in c.entity().problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self
