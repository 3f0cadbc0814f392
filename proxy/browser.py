"""A web page must not be able to spend the user's money through a proxy on his own machine.

Two checks, before a body is read. **Host**: a name that is not ours means that somebody's DNS points
at this machine (rebinding). **Origin**: browsers name the page a request comes from; pages that the
chain's ``cors.origins`` does not list are refused, and preflights are answered from the same list. Programs send
no Origin and notice nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError
from proxy.exchange import Answer
from proxy.match import any_glob

if TYPE_CHECKING:
    from proxy.exchange import Exchange, RawHeaders

_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]", "::1")
_LOOPBACK_ORIGIN: Final = re.compile(r"https?://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?")
_DEFAULT_HEADERS: Final = "authorization, content-type, x-api-key, api-key"


def is_loopback(host: str) -> bool:
    """Whether binding to ``host`` is reachable from this machine only."""
    return host in _LOOPBACK or host.startswith("127.")


def host_name(authority: str) -> str:
    """A Host header without its port, in lower case; IPv6 addresses keep their brackets."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0].rstrip(".")


class Hosts:
    """Which names in Host are ours."""

    def __init__(self, bound: str, hosts: Sequence[str], *, unix: bool = False) -> None:
        names = {host_name(host) for host in hosts}
        if is_loopback(bound) or unix:
            self.names: frozenset[str] | None = frozenset({*names, *_LOOPBACK, host_name(bound)})
        else:
            self.names = frozenset(names) if names else None
        self._known: set[str] = set()

    def check(self, authority: str | None) -> None:
        """Raises ``origin_refused`` (403) for a foreign name. None: HTTP/1.0 without Host, which no browser sends."""
        if self.names is None or authority is None or authority in self._known:
            return
        if host_name(authority) in self.names:
            if len(self._known) < 64:
                self._known.add(authority)
            return
        raise ProxyError(
            "origin_refused",
            f"The host name {authority[:100]!r} is not one of this proxy's; add it to server.hosts if it should be.",
        )


@dataclass(frozen=True, slots=True)
class Cors:
    """What a chain's ``cors`` entry says. max_age in seconds."""

    origins: tuple[str, ...] | None = None
    methods: tuple[str, ...] = ("GET", "POST", "DELETE", "OPTIONS")
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    max_age: int = 600
    credentials: bool = False


class Origins:
    """Which pages may call a chain."""

    def __init__(self, cors: Cors | None, *, loopback: bool) -> None:
        self._cors = cors or Cors()
        listed = self._cors.origins
        self._allowed: Callable[[str], object] | None = any_glob(listed) if listed else None
        if listed is None and loopback:
            self._allowed = _LOOPBACK_ORIGIN.fullmatch
        self._any = listed == ("*",)

    def check(self, exchange: Exchange) -> Answer | None:
        """Refuse a foreign page's call, answer an allowed page's preflight, else add the answer's CORS headers."""
        origin = exchange.request.headers.get("origin")
        if origin is None:
            return None
        if self._allowed is None or not self._allowed(origin):
            raise ProxyError(
                "origin_refused",
                f"Calls from web pages of {origin[:100]!r} are not allowed; list the origin in this chain's "
                "cors.origins to allow them.",
            )
        cors = self._cors
        echoed = b"*" if self._any and not cors.credentials else origin.encode("utf-8", "replace")
        headers: RawHeaders = [
            (b"access-control-allow-origin", echoed),
            (b"vary", b"Origin"),
        ]
        if cors.credentials:
            headers.append((b"access-control-allow-credentials", b"true"))
        request = exchange.request
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            asked = request.headers.get("access-control-request-headers")
            allowed = ", ".join(cors.headers) if cors.headers else asked or _DEFAULT_HEADERS
            headers += [
                (b"access-control-allow-methods", ", ".join(cors.methods).encode()),
                (b"access-control-allow-headers", allowed.encode("latin-1", "replace")),
                (b"access-control-max-age", b"%d" % cors.max_age),
            ]
            if request.headers.get("access-control-request-private-network") == "true":
                headers.append((b"access-control-allow-private-network", b"true"))
            return Answer(204, headers, origin="sidecar")
        if cors.expose:
            headers.append((b"access-control-expose-headers", ", ".join(cors.expose).encode()))
        exchange.added_headers.extend(headers)
        return None
