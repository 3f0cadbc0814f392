"""One configured upstream at run time: its pool, where its paths are, how it takes a key."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from proxy.upstream.transport import Endpoint, Limits, Pool, Timeouts
from proxy.upstream.transport.tls import TlsOptions
from proxy.upstream.usage_question import UsageQuestion

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.upstream import Upstream as UpstreamConfig
    from proxy.config.upstream import UpstreamTls

_FOREVER = 10 * 365 * 86400.0


class Upstream:
    """name, config, pool, and what the hot path needs precomputed.

    has_keys: a key pool is configured. usage: whether streams are asked for their usage.
    """

    __slots__ = (
        "api", "auth_header", "auth_prefix", "base_path", "config", "failures", "has_keys",
        "headers", "headers_named", "name", "pool", "query", "requests", "timeouts", "total", "usage",
    )  # fmt: skip

    def __init__(self, name: str, config: UpstreamConfig, base_url: str) -> None:
        self.name = name
        self.config = config
        self.api = config.api
        parts = urlsplit(base_url)
        self.base_path = parts.path.rstrip("/")
        tls = config.tls
        proxy = config.proxy
        self.pool = Pool(
            Endpoint.from_url(
                base_url,
                unix=getattr(config, "unix", None),
                tls=None if tls is None else _tls(tls),
                proxy=None if proxy is None else proxy.get_secret_value(),
            ),
            Limits(max_connections=config.max_connections, max_waiting=config.max_waiting),
            self._timeouts(config),
        )
        self.timeouts = self._timeouts(config)
        self.has_keys = config.keys is not None
        auth = config.key_auth
        self.auth_header = auth.header.lower().encode()
        self.auth_prefix = auth.prefix
        self.headers = [(key.encode(), value.get_secret_value().encode()) for key, value in config.headers.items()]
        self.headers_named = frozenset(key.lower() for key, _ in self.headers)
        self.query = urlencode(config.query)
        self.usage = UsageQuestion(config.stream_usage)
        self.total = config.timeouts.total
        self.requests = 0
        self.failures = 0

    @staticmethod
    def _timeouts(config: UpstreamConfig) -> Timeouts:
        times = config.timeouts
        return Timeouts(
            connect=times.connect,
            first_byte=_FOREVER if times.first_byte is None else times.first_byte,
            idle=_FOREVER if times.idle is None else times.idle,
            total=None,  # a bound on the whole call, kept as the exchange's deadline
        )

    def target(self, raw_path: str, query: str) -> bytes:
        """The request target on this upstream: what follows ``/v1`` is appended to the base URL; for
        ``anthropic``, whose base URLs carry no ``/v1``, the whole path; a path outside ``/v1`` as it is."""
        if self.api == "anthropic":
            path = self.base_path + raw_path
        elif raw_path.startswith("/v1/"):
            path = self.base_path + raw_path[3:]
        elif raw_path == "/v1":
            path = self.base_path or "/"
        else:
            path = raw_path
        if self.query:
            query = f"{query}&{self.query}" if query else self.query
        return (f"{path}?{query}" if query else path).encode("ascii", "surrogateescape")

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {self.pool!r}>"


def _tls(tls: UpstreamTls) -> TlsOptions:
    return TlsOptions(ca=_path(tls.ca), cert=_path(tls.cert), key=_path(tls.key), sni=tls.sni, verify=tls.verify)


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
