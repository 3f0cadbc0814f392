"""The configuration as a whole. The fields' descriptions are its reference; `llm-sidecar schema` prints them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, SkipValidation
from pydantic_core import PydanticCustomError

from proxy.config.base import ChainName, FilePath, Model, Text, Texts, UpstreamName
from proxy.config.keys import KeyPool, Price
from proxy.config.match import Match, When
from proxy.config.problem import Place
from proxy.config.server import Admin, Log, Server
from proxy.config.upstream import Upstream


@dataclass(frozen=True, slots=True)
class ChainEntry:
    """One policy of a chain: which, with what options, and the options common to all policies.

    `on_error` None is the policy's own default. `place` is where the entry was written and `path` leads to it in the
    configuration, also when it came into the chain through `use`.
    """

    policy: str
    options: BaseModel
    when: When | None
    mode: Literal["enforce", "observe", "off"]
    name: str
    on_error: Literal["closed", "open"] | None
    place: Place
    path: tuple[str | int, ...]


class Common(Model):
    """The options that every policy takes."""

    when: When | None = Field(default=None, description="Conditions under which the policy acts. Default: always.")
    mode: Literal["enforce", "observe", "off"] = Field(
        default="enforce",
        description="observe: count, detect and report, but change and refuse nothing. off: not there.",
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,60}$")] | None = Field(
        default=None, description="What logs and metrics call this entry. Default: the policy's name."
    )
    on_error: Literal["closed", "open"] | None = Field(
        default=None,
        description="When the policy itself fails: closed refuses the call, open goes on without it. Default: closed "
        "for those that protect, open for the others.",
    )


class Route(Model):
    """A match that picks a chain and an upstream. The first route that matches a call is taken."""

    match: Match = Field(default_factory=Match, description="Which calls. Default: every call.")
    upstream: UpstreamName = Field(description="Where they go: an entry of `upstreams:`.")
    chain: ChainName = Field(description="Which policies they pass: an entry of `chains:`.")
    model: Text | None = Field(default=None, description="Send this model instead of the one that was asked for.")
    allow_chains: tuple[ChainName, ...] = Field(
        default=(), description="Chains that a client may ask for with x-sidecar-chain instead of `chain`."
    )
    name: Text | None = Field(default=None, description="What logs and metrics call this route. Default: its number.")
    enabled: bool = Field(default=True, description="false: the route is not there. Useful with ${set:NAME}.")


class ModelAlias(Model):
    """What a model name that clients use stands for."""

    model: Text = Field(description="Model to send.")
    upstream: UpstreamName | None = Field(default=None, description="Where to send it. Default: the route's upstream.")


def _state(value: str) -> str:
    if value == "memory":
        return value
    return _url(value, {"redis", "rediss", "unix"}, "must be memory, or a Redis URL such as redis://host:6379/0")


def _ledger(value: str) -> str:
    message = (
        "must be sqlite:///path/to/file.db (what follows sqlite:// is the file) or postgresql://user@host/database"
    )
    if value.startswith("sqlite://"):
        if len(value) > len("sqlite://"):
            return value
        raise PydanticCustomError("config", message)
    return _url(value, {"postgresql", "postgres"}, message)


def _url(value: str, schemes: set[str], message: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise PydanticCustomError("config", message) from None
    if parts.scheme not in schemes or not (parts.netloc or parts.path):
        raise PydanticCustomError("config", message)
    return value


class Config(Model):
    """Everything that can be configured. What is left out has a default that suits a single machine."""

    include: Texts = Field(
        default=(), description="Further files, relative to this one; `*` works. This file wins over them."
    )
    server: Server = Field(default_factory=Server, description="The port that applications talk to.")
    admin: Admin = Field(default_factory=Admin, description="The port for health, metrics and dashboard.")
    data: FilePath = Field(
        default_factory=lambda: Path("~/.local/share/llm-sidecar").expanduser(),
        description="Folder for journal, ledger and queues.",
    )
    state: Annotated[str, AfterValidator(_state)] = Field(
        default="memory",
        repr=False,
        description="Where limits, budgets and cooldowns are counted: memory, or redis://... shared by replicas.",
    )
    ledger: Annotated[str, AfterValidator(_ledger)] | None = Field(
        default=None,
        repr=False,
        description="Where every call's usage and cost is kept: sqlite:///file or postgresql://... Default: a SQLite "
        "file in `data`.",
    )
    upstreams: dict[str, Upstream] = Field(default={}, description="Provider endpoints by name.")
    keys: dict[str, KeyPool] = Field(default={}, description="Pools of provider keys by name.")
    routes: tuple[Route, ...] = Field(default=(), description="Which calls go where; the first that matches is taken.")
    chains: SkipValidation[Mapping[str, tuple[ChainEntry, ...]]] = Field(
        default={}, description="Lists of policies by name; requests go down the list, answers come back up."
    )
    models: dict[str, ModelAlias] = Field(
        default={}, description="Other names for models, such as fast: {model: gpt-4o-mini}."
    )
    prices: dict[str, Price] = Field(
        default={}, description="Prices by model in USD per million tokens, over the list that comes with the program."
    )
    log: Log = Field(default_factory=Log, description="What is logged, and how.")

    def __repr_args__(self) -> Any:
        """Without what may hold a password."""
        return [(name, value) for name, value in super().__repr_args__() if name not in {"state", "ledger"}]
