"""Where a pool connects to, and the limits and deadlines it keeps. Values only: nothing here opens anything."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from .tls import TlsOptions


@dataclass(frozen=True)
class Endpoint:
    """One origin. `unix` is the path of a socket used instead of `host:port` (both still name the Host header).

    `proxy`: `None` asks the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), `""` or `"none"` never uses a proxy, else
    the `http://[user:password@]host:port` of one.
    """

    scheme: str
    host: str
    port: int
    unix: str | None = None
    tls: TlsOptions | None = None
    proxy: str | None = None

    def __post_init__(self) -> None:
        if self.scheme not in {"http", "https"}:
            raise ValueError(f"scheme {self.scheme!r} is not supported: use http or https")
        if not self.host or any(c.isspace() or c in "/?#@" for c in self.host):
            raise ValueError(f"{self.host!r} is not a host name")
        if not 0 < self.port < 65536:
            raise ValueError(f"port {self.port} of {self.host} is not between 1 and 65535")

    @classmethod
    def from_url(
        cls, url: str, *, unix: str | None = None, tls: TlsOptions | None = None, proxy: str | None = None
    ) -> Endpoint:
        """The origin of `url`; its path is not kept. Raises ValueError for what is no http or https URL."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname or "", port, unix, tls, proxy)

    @cached_property
    def authority(self) -> str:
        """`host:port`, an IPv6 address in brackets, an international name in its ASCII form."""
        return f"{self._host_text}:{self.port}"

    @cached_property
    def host_header(self) -> bytes:
        """The value of Host: the port is left out where it is the scheme's own."""
        standard = self.port == (443 if self.scheme == "https" else 80)
        return (self._host_text if standard else self.authority).encode("ascii")

    @cached_property
    def _host_text(self) -> str:
        if ":" in self.host:
            return f"[{self.host}]"
        return self.host if self.host.isascii() else self.host.encode("idna").decode("ascii")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}" + (f" (unix:{self.unix})" if self.unix else "")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Long silences are normal for reasoning models, so `first_byte` and `idle` are generous.

    connect: name lookup, TCP, CONNECT and TLS together. first_byte: from the request's last written byte to the whole
    head; it stands still while a streamed request body waits for its source. idle: between two pieces of a body; it
    stands still while the reader has paused. total: from the call of `send`.
    """

    connect: float = 5.0
    first_byte: float = 600.0
    idle: float = 300.0
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Per pool. Seconds and counts; `max_head` is in bytes.

    wait: how long a call may wait for a connection. max_idle: a connection unused for longer is closed (below the
    keep-alive time of usual balancers). max_age: an older one is closed after its call, so that DNS is asked again.
    """

    max_connections: int = 1024
    max_waiting: int = 4096
    wait: float = 30.0
    max_idle: float = 55.0
    max_age: float = 900.0
    max_head: int = 64 * 1024
