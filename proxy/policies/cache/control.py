"""What a client says about caching of one call: the header ``x-sidecar-cache``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from proxy.exchange import Request


class Control(NamedTuple):
    """fetch: do not look, ask the provider. keep: the answer may be stored and shared. max_age: seconds an answer may
    be old, None for any; a stale one is then not given. only_cached: never ask the provider."""

    fetch: bool = False
    keep: bool = True
    max_age: float | None = None
    only_cached: bool = False


DEFAULT: Final = Control()
_FORM: Final = "no-cache, no-store, max-age=SECONDS or only-if-cached, separated by commas"


def of(request: Request) -> Control:
    """What the call's client says. Raises ``invalid_value`` (400)."""
    head = request.head
    if head is not None and not head.ours and request.edits is None:
        return DEFAULT
    return parse(request.header("x-sidecar-cache"))


def parse(header: str | None) -> Control:
    """The header's directives. Raises ``invalid_value`` (400) for others: a typo must not cost money in silence."""
    if header is None:
        return DEFAULT
    fetch, keep, only = False, True, False
    age: float | None = None
    for part in header[:200].split(","):
        word, _, value = part.strip().lower().partition("=")
        if word == "no-cache":
            fetch = True
        elif word == "no-store":
            keep = False
        elif word == "only-if-cached":
            only = True
        elif word == "max-age" and value.strip().isdecimal():
            age = float(value)
        elif word:
            raise ProxyError(
                "invalid_value", f"x-sidecar-cache: {part.strip()[:40]!r} is not known; it takes {_FORM}.",
                param="x-sidecar-cache",
            )  # fmt: skip
    if age == 0:
        fetch = True
    return Control(fetch, keep, age, only)
