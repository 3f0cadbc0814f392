"""What a client says about caching of one call: the header ``x-sidecar-cache``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from proxy.exchange import Exchange, Request


class Control(NamedTuple):
    """fetch: do not look, ask the provider. keep: the answer may be stored and shared. max_age: seconds an answer may
    be old, None for any; a stale one is then not given. only_cached: never ask the provider."""

    fetch: bool = False
    keep: bool = True
    max_age: float | None = None
    only_cached: bool = False


DEFAULT: Final = Control()
_NAME: Final = "x-sidecar-cache"
_LONGEST: Final = 200
_FORM: Final = "no-cache, no-store, max-age=SECONDS or only-if-cached, separated by commas"


def of(request: Request) -> Control:
    """What the call's client says. Raises ``invalid_value`` (400)."""
    head = request.head
    if head is not None and not head.ours and request.edits is None:
        return DEFAULT
    if request.edits is not None and _NAME in request.edits:
        return parse(request.edits[_NAME])
    said = [value for name, value in request.headers.items() if name.lower() == _NAME]
    return parse(", ".join(said) if said else None)


def overheard(exchange: Exchange, label: str) -> Control:
    """The same for a cache that only looks on, and must refuse nothing. label: the policy's, for its notes."""
    try:
        return of(exchange.request)._replace(only_cached=False)
    except ProxyError as error:
        exchange.note(label, f"would have refused: {error.message}")
        return DEFAULT


def parse(header: str | None) -> Control:
    """The header's directives. Raises ``invalid_value`` (400) for others: a typo must not cost money in silence."""
    if header is None:
        return DEFAULT
    fetch, keep, only = False, True, False
    age: float | None = None
    if len(header) > _LONGEST:
        raise ProxyError("invalid_value", f"{_NAME}: longer than {_LONGEST} characters.", param=_NAME)
    for part in header.split(","):
        word, _, value = (said := part.strip().lower()).partition("=")
        if said == "no-cache":
            fetch = True
        elif said == "no-store":
            keep = False
        elif said == "only-if-cached":
            only = True
        elif word.strip() == "max-age" and value.strip().isdecimal():
            age = float(value)
        elif said:
            raise ProxyError(
                "invalid_value", f"{_NAME}: {part.strip()[:40]!r} is not known; it takes {_FORM}.", param=_NAME
            )
    if age == 0:
        fetch = True
    return Control(fetch, keep, age, only)
