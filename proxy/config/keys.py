"""`keys`: pools of provider keys and how one is chosen; `prices`: what a model costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.base import Model, Secret, Text, Texts, UpstreamName
from proxy.config.units import DURATION_FORM, Duration, parse_duration
from proxy.config.upstream import Auth

Money = Annotated[float, Field(ge=0, le=1_000_000)]
Strategy = Literal["task", "priority", "round_robin", "weighted", "least_loaded", "cheapest", "fastest", "sticky"]
KeyId = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.:@-]+$")]


CALENDAR = ("hour", "day", "week", "month")


def _quota_window(value: object) -> object:
    if value in CALENDAR:
        return value
    try:
        seconds = parse_duration(value)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        shown = f'"{value[:40]}"' if isinstance(value, str) else "that"
        raise PydanticCustomError(
            "config",
            f"must be hour, day, week or month (of the calendar, UTC), or {DURATION_FORM}, not {{shown}}",
            {"shown": shown},
        )
    return seconds


QuotaWindow = Annotated[
    str | float,
    BeforeValidator(_quota_window),
    WithJsonSchema(
        {"anyOf": [{"enum": list(CALENDAR)}, TypeAdapter(Duration).json_schema()], "examples": ["day", "month", "5h"]}
    ),
]
"""hour, day, week or month; or seconds."""


class PriceKinds(Model):
    """Prices by kind: USD per million tokens, and USD apiece for image, minute, search and request."""

    input: Money | None = Field(default=None, description="Input tokens.")
    output: Money | None = Field(default=None, description="Output tokens.")
    cached_input: Money | None = Field(
        default=None, description="Input tokens read from the provider's cache. Default: as input."
    )
    cache_write: Money | None = Field(
        default=None, description="Input tokens written to the provider's cache. Default: as input."
    )
    cache_write_1h: Money | None = Field(
        default=None, description="Input tokens written to be kept for an hour. Default: as cache_write."
    )
    reasoning: Money | None = Field(default=None, description="Output tokens spent on reasoning. Default: as output.")
    audio_input: Money | None = Field(default=None, description="Audio tokens in. Default: as input.")
    audio_output: Money | None = Field(default=None, description="Audio tokens out. Default: as output.")
    image_input: Money | None = Field(default=None, description="Image tokens in. Default: as input.")
    image_output: Money | None = Field(default=None, description="Image tokens out. Default: as output.")
    image: Money | None = Field(default=None, description="USD for each image made.")
    minute: Money | None = Field(default=None, description="USD for each minute of speech.")
    search: Money | None = Field(default=None, description="USD for each web search of the provider's.")
    request: Money | None = Field(default=None, description="USD for each call, on top of its tokens.")


class PriceTier(PriceKinds):
    """What calls with a long input cost. All tokens of such a call are charged so, not only those above."""

    above: int = Field(ge=1, description="Holds for calls with more input tokens than this.")

    @model_validator(mode="after")
    def _prices(self) -> PriceTier:
        if self.model_fields_set == {"above"}:
            raise PydanticCustomError("config", "a tier needs at least one price, such as input or output")
        return self


def _factor_or_prices(value: object) -> str:
    return "prices" if isinstance(value, Mapping | PriceKinds) else "factor"


Service = Annotated[
    Annotated[Annotated[float, Field(ge=0, le=10)], Tag("factor")] | Annotated[PriceKinds, Tag("prices")],
    Discriminator(_factor_or_prices),
]


class Price(PriceKinds):
    """What a model costs, in USD per million tokens. With both input and output it stands alone;
    anything less lies over the bundled price of the model."""

    tiers: tuple[PriceTier, ...] = Field(default=(), description="Other prices for calls with a long input.")
    batch: Service | None = Field(
        default=None, description="Batch calls: a factor on the prices above (0.5: half), or prices of their own."
    )
    flex: Service | None = Field(default=None, description="Calls with service_tier flex: a factor, or prices.")
    priority: Service | None = Field(default=None, description="Calls with service_tier priority: a factor, or prices.")
    fast: Service | None = Field(default=None, description="Calls with service_tier fast: a factor, or prices.")

    @model_validator(mode="after")
    def _something(self) -> Price:
        if not any(getattr(self, name) not in (None, ()) for name in self.model_fields_set):
            raise PydanticCustomError("config", "a price needs at least one kind, such as input or output")
        starts = [tier.above for tier in self.tiers]
        if len(set(starts)) < len(starts):
            raise PydanticCustomError("config", "two tiers start at the same number of input tokens")
        return self


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
    quota_window: QuotaWindow | None = Field(
        default=None,
        description="How long a key is out whose quota is spent (402, insufficient_quota), where the provider does not "
        "say until when: to the end of the running hour, day, week or month (UTC), or for a duration. Default: as the "
        "pool says.",
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
    quota_window: QuotaWindow = Field(default="day", description="What holds for keys that set no quota_window.")
    keys: tuple[Key, ...] = Field(min_length=1, description="The keys of the pool.")

    @model_validator(mode="after")
    def _once(self) -> KeyPool:
        if len(set(self.strategy)) < len(self.strategy):
            raise PydanticCustomError("config", "strategy names the same step twice")
        return self
