"""`keys`: pools of provider keys and how one is chosen; `prices`: what a model costs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.base import Model, Secret, Text, Texts, UpstreamName
from proxy.config.upstream import Auth

Money = Annotated[float, Field(ge=0, le=1_000_000)]
Strategy = Literal["task", "priority", "round_robin", "weighted", "least_loaded", "cheapest", "fastest", "sticky"]
KeyId = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.:@-]+$")]


class Price(Model):
    """What a model costs, in USD per million tokens. A kind that is left out costs what its base kind costs."""

    input: Money = Field(description="Input tokens.")
    output: Money = Field(default=0.0, description="Output tokens.")
    cached_input: Money | None = Field(default=None, description="Input tokens read from the provider's cache.")
    cache_write: Money | None = Field(default=None, description="Input tokens written to the provider's cache.")
    reasoning: Money | None = Field(default=None, description="Output tokens spent on reasoning.")
    audio_input: Money | None = Field(default=None, description="Audio tokens in.")
    audio_output: Money | None = Field(default=None, description="Audio tokens out.")
    request: Money | None = Field(default=None, description="USD for each call, on top of its tokens.")


class Key(Model):
    """A provider key with its limits. Logs, metrics and headers name it by `id`, never by its secret."""

    id: KeyId = Field(description="Name of the key; unique over all pools. Letters, digits and _ . : @ - only.")
    secret: Secret = Field(description="The key itself: ${NAME}, ${file:/path} or ${encrypted:...}.")
    upstream: UpstreamName | None = Field(
        default=None, description="Upstream that this key is for, such as another region. Default: the target's own."
    )
    max_rpm: int | None = Field(default=None, ge=1, description="Requests in any 60 s. Default: no limit.")
    max_tpm: int | None = Field(
        default=None, ge=1, description="Tokens in any 60 s, input and output. Default: no limit."
    )
    max_concurrent: int | None = Field(default=None, ge=1, description="Requests at the same time. Default: no limit.")
    priority: int = Field(default=0, description="Strategy `priority`: keys with the highest number first.")
    weight: float = Field(default=1.0, gt=0, le=1_000_000, description="Strategy `weighted`: share of the calls.")
    task_types: Texts = Field(
        default=(), description="Strategy `task`: tasks that this key is for. Empty: a general key, for every task."
    )
    tier: Literal["free", "paid"] = Field(default="paid", description="What kind of account the key belongs to.")
    enabled: bool = Field(default=True, description="false keeps the key out; its secret may then be empty.")
    cost_per_token: Money | None = Field(
        default=None, description="USD for one token, input or output alike. Default: the model's price."
    )
    prices: dict[str, Price] = Field(default={}, description="Prices by model with this key, over `prices:`.")
    auth: Auth | None = Field(default=None, description="How this key is sent. Default: as its upstream says.")
    header: Text | None = Field(
        default=None, description="Header that carries this key alone in its value, such as api-key."
    )

    @model_validator(mode="after")
    def _usable(self) -> Key:
        secret = self.secret.get_secret_value()
        if self.enabled and not secret:
            raise PydanticCustomError("config", "secret is empty: set it, or give the key enabled: false")
        if any(ord(character) < 33 or ord(character) > 126 for character in secret):
            raise PydanticCustomError(
                "config", "secret holds a space, a line end or a character that no HTTP header can carry"
            )
        if self.auth is not None and self.header is not None:
            raise PydanticCustomError("config", "auth and header both say how the key is sent: give one")
        return self


class KeyPool(Model):
    """Keys that may stand in for one another."""

    strategy: tuple[Strategy, ...] = Field(
        default=("task", "priority", "least_loaded"),
        description="How a key is chosen: applied in this order until one key is left.",
    )
    keys: tuple[Key, ...] = Field(min_length=1, description="The keys of the pool.")

    @model_validator(mode="after")
    def _once(self) -> KeyPool:
        if len(set(self.strategy)) < len(self.strategy):
            raise PydanticCustomError("config", "strategy names the same step twice")
        return self
