"""Options of ``budget``, as written in YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from proxy.accounting.charge import ASSUMED_OUTPUT
from proxy.accounting.windows import CALENDAR, zone
from proxy.config.base import Texts
from proxy.config.units import Duration, Ratio, parse_duration
from proxy.policy import PolicyOptions

__all__ = ["BudgetOptions", "Downgrade"]

_DIMENSIONS = ("principal", "project", "model", "task", "ip", "key", "upstream", "all")


def _window(value: Any) -> Any:
    if value in CALENDAR:
        return value
    try:
        seconds = parse_duration(value)
    except PydanticCustomError as error:
        said = error.message().removeprefix("must be ")
        raise PydanticCustomError("config", "must be hour, day, week, month or {said}", {"said": said}) from None
    if not seconds:
        raise PydanticCustomError("config", "must be longer than 0")
    return value


class Downgrade(PolicyOptions):
    """Where calls go when the budget is spent."""

    model: str = Field(min_length=1, description="Model to send instead.")
    upstream: str | None = Field(default=None, description="Upstream to send it to. Default: the call's own.")


class BudgetOptions(PolicyOptions):
    """Options of `budget`."""

    per: Texts = Field(
        default=("all",),
        description="What each value of has a budget of its own: principal, project, model, task, ip, key, upstream, "
        "tag:NAME, all, or a list of them.",
    )
    only: Texts = Field(
        default=(),
        description="Values of `per` that this budget is for; default: all. With per: key and the keys of a free tier: "
        "their credits; what is spent moves the call to another key.",
    )
    usd: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(default=None, description="Limit in USD.")
    tokens: Annotated[int, Field(gt=0)] | None = Field(default=None, description="Limit in tokens, both ways.")
    calls: Annotated[int, Field(gt=0)] | None = Field(default=None, description="Limit in requests sent upstream.")
    window: Annotated[str, BeforeValidator(_window)] = Field(
        default="day", description="hour, day, week or month of the calendar, or a duration: rolling."
    )
    time_zone: str = Field(default="UTC", description="Time zone of the calendar, such as Europe/Berlin.")
    warn_at: tuple[Ratio, ...] = Field(default=(), description="Shares of the limit at which an alert is raised.")
    on_limit: Literal["reject", "downgrade"] = Field(default="reject", description="What happens when it is spent.")
    downgrade: Downgrade | None = Field(default=None, description="For on_limit: downgrade.")
    max_wait: Duration = Field(
        default=2.0, description="How long to wait when only others' reservations are in the way."
    )
    assume_output: Annotated[int, Field(ge=0)] = Field(
        default=ASSUMED_OUTPUT, description="Output tokens to reserve when the client sets no limit."
    )
    on_unpriced: Literal["allow", "reject"] = Field(
        default="allow", description="Calls to models without a known price, for a limit in USD."
    )
    stop_stream: bool = Field(default=False, description="Cut a running stream when the limit is reached.")

    @model_validator(mode="after")
    def _whole(self) -> BudgetOptions:
        if self.usd is None and self.tokens is None and self.calls is None:
            raise PydanticCustomError("budget", "needs at least one of usd, tokens, calls")
        for name in self.per:
            if name not in _DIMENSIONS and not (name.startswith("tag:") and len(name) > 4):
                raise PydanticCustomError(
                    "budget",
                    "per: {name} is no dimension; allowed are {all} and tag:NAME",
                    {"name": name, "all": ", ".join(_DIMENSIONS)},
                )
        if (self.on_limit == "downgrade") != (self.downgrade is not None):
            raise PydanticCustomError("budget", "on_limit: downgrade and downgrade: {model: ...} belong together")
        zone(self.time_zone)
        return self
