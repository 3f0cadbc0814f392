"""What can be configured about the cache. The descriptions are its reference."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from proxy.config.base import Texts
from proxy.config.units import Duration, PositiveDuration, PositiveSize, Size
from proxy.policy import PolicyOptions

_SCHEMES = frozenset({"redis", "rediss", "unix"})


def _redis_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in _SCHEMES or not (parts.netloc or parts.path):
        raise PydanticCustomError("config", "must be a Redis URL such as redis://host:6379/0")
    return value


class CacheOptions(PolicyOptions):
    """Options of `cache`."""

    ttl: PositiveDuration = Field(default=3600.0, description="How long an answer is fresh.")
    scope: Literal["principal", "project", "global"] = Field(
        default="principal",
        description="Who shares answers: one principal's calls, one project's, or everybody's. project: a caller "
        "without a project, or with one that no key or token vouches for, shares with nobody else.",
    )
    coalesce: bool = Field(default=True, description="Identical calls in flight share one request to the provider.")
    stale_if_error: Duration = Field(
        default=0.0,
        description="How long after its ttl an answer is still given when the provider cannot be reached, is too "
        "slow, answers 5xx or 429, or no circuit or key is free.",
    )
    stale_while_revalidate: Duration = Field(
        default=0.0,
        description="How long after its ttl an answer is still given at once while a new one is fetched behind it.",
    )
    max_temperature: Annotated[
        Annotated[float, Field(ge=0, le=2)] | None, BeforeValidator(lambda value: None if value == "none" else value)
    ] = Field(
        default=None, description="Calls above this temperature are not cached (none said counts as 1). Default: all."
    )
    tool_calls: bool = Field(default=True, description="Cache calls that offer tools, and answers that call them.")
    vary: Texts = Field(default=(), description="Further request headers that an answer depends on.")
    ids: Literal["original", "new"] = Field(
        default="original", description="Id and time of a cached answer: the original's, or new ones for each call."
    )
    store: Literal["memory", "redis", "tiered"] = Field(
        default="memory",
        description="Where answers are kept. tiered: in memory first, in Redis for all replicas.",
    )
    max_bytes: PositiveSize = Field(
        default=64 * 1024**2, description="Memory that this process keeps answers in; the least recently used leave."
    )
    max_entry: PositiveSize = Field(default=4 * 1024**2, description="A larger answer is not stored.")
    compress_above: Size = Field(default=32 * 1024, description="Answers above this size are kept compressed.")
    redis: Annotated[SecretStr, AfterValidator(_redis_url)] | None = Field(
        default=None, description="Redis for answers. Default: the one of `state:`."
    )
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,80}$")] = Field(
        default="llm-sidecar:cache", description="What the names of all entries in Redis begin with."
    )
    encrypt: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Encrypt entries in Redis. auto: when a master key is set (LLM_SIDECAR_MASTER_KEY or its _FILE).",
    )
    local_ttl: PositiveDuration = Field(
        default=60.0, description="For tiered: how long the copy in memory serves before Redis is asked again."
    )
