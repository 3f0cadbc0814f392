"""What a call must look like for a route or a policy to apply: the written form. `proxy/match.py` compiles it."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.base import Model, Texts

_COMPARISON = re.compile(r"(>=|<=|>|<) ?([0-9]{1,12})")
_RANGE = re.compile(r"([0-9]{1,12}) ?- ?([0-9]{1,12})")
_FORM = 'a comparison such as ">= 4000", "< 200" or "200-4000"'


def parse_tokens(value: Any) -> tuple[int, int | None]:
    """The inclusive bounds of `>= 4000`, `> 4000`, `<= 200`, `< 200` or `200-4000`; None is no upper bound.

    Raises `PydanticCustomError` with the right form.
    """
    if isinstance(value, str):
        compared = _COMPARISON.fullmatch(value.strip())
        if compared:
            bound = int(compared[2])
            match compared[1]:
                case ">=":
                    return bound, None
                case ">":
                    return bound + 1, None
                case "<=":
                    return 0, bound
                case _ if bound > 0:
                    return 0, bound - 1
        between = _RANGE.fullmatch(value.strip())
        if between and int(between[1]) <= int(between[2]):
            return int(between[1]), int(between[2])
    raise PydanticCustomError("config", "must be " + _FORM)


Tokens = Annotated[
    tuple[int, int | None],
    BeforeValidator(parse_tokens),
    WithJsonSchema(
        {"type": "string", "pattern": r"^((>=|<=|>|<) ?[0-9]+|[0-9]+ ?- ?[0-9]+)$", "examples": [">= 4000"]}
    ),
]
"""Inclusive bounds of a number of tokens."""


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value == "*":
            continue
        try:
            ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise PydanticCustomError(
                "config", "must be an address or a network, such as 10.0.0.5, 10.0.0.0/8 or ::1"
            ) from None
    return values


Networks = Annotated[Texts, AfterValidator(_networks)]
"""Addresses and networks (CIDR); `*` is any."""


def _paths(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value[:1] not in ("/", "*"):
            raise PydanticCustomError("config", "matches no path: paths begin with /, as in /v1/*")
    return values


Paths = Annotated[Texts, AfterValidator(_paths)]
"""Patterns of paths."""


class Match(Model):
    """Conditions on a call; all that are given must hold.

    A list means any of its values. `*` stands for any run of characters, `/` included. Nothing given matches every
    call. A route is chosen before the chain runs, so there project, task and tags are what the client says.
    """

    path: Paths = Field(default=(), description="Path of the request, such as /v1/chat/completions or /v1/*.")
    method: Texts = Field(default=(), description="HTTP method, such as POST.")
    model: Texts = Field(default=(), description="Model that the request asks for, such as gpt-4o* (before any alias).")
    headers: dict[str, Texts] = Field(
        default={},
        description="Request headers and what their value must look like; `*` means that the header is there.",
    )
    ip: Networks = Field(
        default=(), description="Address of the caller: single addresses or networks such as 10.0.0.0/8."
    )
    project: Texts = Field(default=(), description="Project of the call (x-sidecar-project).")
    task: Texts = Field(default=(), description="Task type of the call (x-sidecar-task, or what `classify` decided).")
    tags: dict[str, Texts] = Field(
        default={}, description="Tags of the call (x-sidecar-tags) and what they must look like."
    )
    not_: Match | None = Field(default=None, alias="not", description="Conditions that must not hold together.")

    @model_validator(mode="after")
    def _no_empty_lists(self) -> Match:
        for name in type(self).model_fields:
            if name in self.model_fields_set and getattr(self, name) == () and name != "tokens":
                raise PydanticCustomError(
                    "config", f"{name}: an empty list matches nothing; leave {name} out to match every call"
                )
        return self


class When(Match):
    """Conditions under which a policy acts: those of a route, and what is known once the chain runs."""

    principal: Texts = Field(default=(), description="Who calls, as `authenticate` found out.")
    tokens: Tokens | None = Field(default=None, description='Estimated input tokens: ">= 4000", "< 200" or "200-4000".')
    not_: When | None = Field(default=None, alias="not", description="Conditions that must not hold together.")
