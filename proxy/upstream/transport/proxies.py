"""Which forward proxy, if any, stands between us and an endpoint."""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from .endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Proxy:
    """A forward proxy spoken to in plain HTTP. `authorization`: the value of Proxy-Authorization; never shown."""

    host: str
    port: int
    authorization: bytes | None = None

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"


def parse(url: str) -> Proxy:
    """`http://[user:password@]host[:port]`, or `host:port`. Raises ValueError, without the password in its message."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    shown = f"{parts.scheme}://{parts.hostname}"
    if parts.scheme != "http":
        raise ValueError(f"proxy {shown}: only proxies spoken to by http:// are supported")
    if not parts.hostname:
        raise ValueError("proxy: the URL names no host; write http://host:port")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = b"Basic " + base64.b64encode(pair.encode())
    return Proxy(parts.hostname, parts.port or 80, authorization)


def choose(endpoint: Endpoint, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy for `endpoint`, or None. Unix sockets never have one; loopback never takes one from the environment.

    Lower-case names win over upper-case ones, as in curl. Raises ValueError when the chosen URL is not usable.
    """
    if endpoint.unix is not None:
        return None
    if endpoint.proxy is not None:
        return parse(endpoint.proxy) if endpoint.proxy.lower() not in {"", "none"} else None
    environ = os.environ if environ is None else environ
    name = f"{endpoint.scheme}_proxy"
    url = environ.get(name) or environ.get(name.upper()) or environ.get("all_proxy") or environ.get("ALL_PROXY")
    if not url:
        return None
    if bypassed(endpoint.host, endpoint.port, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    return parse(url)


def bypassed(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY (names with their subdomains, addresses, networks, each maybe with a port, or `*`) covers it."""
    host = host.rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in no_proxy.replace(",", " ").lower().split():
        if entry == "*":
            return True
        if address is not None and _covers(entry, address):
            return True
        name, _, its_port = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
        if its_port and its_port != str(port):
            continue
        name = name.removeprefix("*").lstrip(".").rstrip(".")
        if name and (host == name or host.endswith("." + name)):
            return True
    return False


def _covers(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
