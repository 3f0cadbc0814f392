"""What the ``x-demo-*`` headers of a request ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic_core import PydanticCustomError

from proxy.config.units import parse_duration
from proxy.errors import ProxyError

MAX_TOKENS = 100_000


@dataclass(frozen=True, slots=True)
class Wishes:
    """latency and delay in seconds; status an error to answer with; series and failures: the first ``failures``
    requests of ``series`` fail; cut and stall: after how many events; tokens: length of the answer."""

    latency: float = 0.0
    delay: float = 0.0
    status: int | None = None
    retry_after: str | None = None
    code: str | None = None
    series: str | None = None
    failures: int = 0
    cut: int | None = None
    stall: int | None = None
    tokens: int | None = None
    usage: bool = True


NO_WISHES = Wishes()


def read_wishes(headers: Mapping[str, str]) -> Wishes:
    """The wishes of a request. Raises ProxyError for one that cannot be understood."""
    given = {name.lower()[7:]: value.strip() for name, value in headers.items() if name.lower().startswith("x-demo-")}
    if not given:
        return NO_WISHES
    series, failures = _series(given.get("fail"))
    return Wishes(
        latency=_duration("latency", given.get("latency")),
        delay=_duration("delay", given.get("delay")),
        status=_number("status", given.get("status"), 400, 599),
        retry_after=given.get("retry-after"),
        code=given.get("code"),
        series=series,
        failures=failures,
        cut=_number("cut", given.get("cut"), 0, 10**9),
        stall=_number("stall", given.get("stall"), 0, 10**9),
        tokens=_number("tokens", given.get("tokens"), 0, MAX_TOKENS),
        usage=given.get("usage") != "none",
    )


def _wrong(name: str, wanted: str) -> ProxyError:
    return ProxyError("invalid_value", f"The header x-demo-{name} must be {wanted}.", param=f"x-demo-{name}")


def _duration(name: str, value: str | None) -> float:
    if value is None:
        return 0.0
    try:
        return parse_duration(value)
    except PydanticCustomError:
        raise _wrong(name, "a time with a unit, such as 200ms or 2s") from None


def _number(name: str, value: str | None, least: int, most: int) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 12 and least <= int(value) <= most):
        raise _wrong(name, f"a number from {least} to {most}")
    return int(value)


def _series(value: str | None) -> tuple[str | None, int]:
    if value is None:
        return None, 0
    name, equals, count = value.partition("=")
    if not name.strip() or not equals:
        raise _wrong("fail", "a name and how many requests of it fail, such as orders=2")
    return name.strip()[:100], _number("fail", count.strip(), 0, 10**6) or 0
