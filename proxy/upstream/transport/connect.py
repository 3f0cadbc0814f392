"""From an endpoint to an open connection: lookup, happy eyeballs, CONNECT, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable

from .endpoint import Endpoint
from .errors import ConnectFailed
from .proxies import Proxy

EYEBALLS = 0.25
"""Seconds after which the next address is tried beside the one that has not answered (RFC 8305)."""
MAX_CONNECT_HEAD = 16 * 1024

Factory = Callable[[str], asyncio.Protocol]
"""Makes the protocol for a connection to the named peer (`host:port` or a path)."""


async def dial(
    endpoint: Endpoint,
    factory: Factory,
    context: ssl.SSLContext | None,
    proxy: Proxy | None,
    *,
    tunnel: bool = False,
) -> asyncio.Protocol:
    """An open connection to `endpoint`. Cancelling closes whatever is open by then. Raises ConnectFailed.

    `context` is needed for https. With a `proxy`, https goes through CONNECT; http is the caller's to send in absolute
    form, unless a `tunnel` is asked for.
    """
    loop = asyncio.get_running_loop()
    server_name = None
    if context is not None:
        server_name = (endpoint.tls.sni if endpoint.tls else None) or endpoint.host
    target = str(endpoint) if proxy is None else f"{endpoint} through proxy {proxy.host}:{proxy.port}"
    encrypting = False
    try:
        if endpoint.unix is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            with _closing_on_error(sock):
                await loop.sock_connect(sock, endpoint.unix)
            peer = endpoint.unix
        else:
            host, port = (endpoint.host, endpoint.port) if proxy is None else (proxy.host, proxy.port)
            sock = await _connect(loop, host, port)
            peer = _peer(sock, f"{host}:{port}")
            if proxy is not None and (context is not None or tunnel):
                with _closing_on_error(sock):
                    await _tunnel(loop, sock, endpoint, proxy)
        encrypting = context is not None
        with _closing_on_error(sock):
            if endpoint.unix is not None:
                _, protocol = await loop.create_unix_connection(
                    lambda: factory(peer), sock=sock, ssl=context, server_hostname=server_name
                )
            else:
                _, protocol = await loop.create_connection(
                    lambda: factory(peer), sock=sock, ssl=context, server_hostname=server_name
                )
    except ConnectFailed:
        raise
    except (OSError, RuntimeError, UnicodeError, ssl.CertificateError) as error:
        raise _explain(error, target, encrypting) from error
    return protocol


async def _connect(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    from aiohappyeyeballs import start_connection  # noqa: PLC0415  (first needed when something is dialled)

    infos = _literal(host, port) or await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sock = await start_connection(infos, happy_eyeballs_delay=EYEBALLS, loop=loop)
    # A peer that vanished behind a NAT shows after about two minutes, however long a silence is allowed.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return sock


def _literal(host: str, port: int) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]]:
    """What getaddrinfo would say of an address, without its thread."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    return []


def _peer(sock: socket.socket, otherwise: str) -> str:
    try:
        name = sock.getpeername()
    except OSError:
        return otherwise
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


async def _tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket, endpoint: Endpoint, proxy: Proxy) -> None:
    """CONNECT (RFC 9110, 9.3.6). The other side speaks TLS, so it says nothing before we do."""
    authority = endpoint.authority.encode("ascii")
    lines = [b"CONNECT %b HTTP/1.1" % authority, b"Host: " + authority]
    if proxy.authorization is not None:
        lines.append(b"Proxy-Authorization: " + proxy.authorization)
    await loop.sock_sendall(sock, b"\r\n".join(lines) + b"\r\n\r\n")
    said = b""
    name = f"proxy {proxy.host}:{proxy.port}"
    while (end := said.find(b"\r\n\r\n")) < 0:
        data = await loop.sock_recv(sock, 4096)
        if not data:
            raise ConnectFailed(f"{name} closed the connection instead of answering CONNECT", reason="proxy")
        said += data
        if len(said) > MAX_CONNECT_HEAD:
            raise ConnectFailed(f"{name} answered CONNECT with more than {MAX_CONNECT_HEAD} bytes", reason="proxy")
    words = said[: said.index(b"\r\n")].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ConnectFailed(f"{name} answered CONNECT with something that is not HTTP", reason="proxy")
    if not 200 <= int(words[1]) < 300:
        hint = ": check the user and password of the proxy" if words[1] == b"407" else ""
        raise ConnectFailed(
            f"{name} refused CONNECT to {endpoint.authority} with {int(words[1])}{hint}", reason="proxy"
        )
    if len(said) > end + 4:
        raise ConnectFailed(f"{name} sent bytes of its own into the tunnel", reason="proxy")


class _closing_on_error:  # noqa: N801  (reads as a with statement's verb)
    """Closes the socket when the block raises or is cancelled. A transport that owns it by then does not mind."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._sock.close()


def _explain(error: Exception, target: str, encrypting: bool) -> ConnectFailed:
    if isinstance(error, socket.gaierror):
        return ConnectFailed(
            f"cannot connect to {target}: the name cannot be resolved ({error.strerror})", reason="dns"
        )
    if isinstance(error, UnicodeError):
        return ConnectFailed(f"cannot connect to {target}: the host is not a valid name", reason="dns")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectFailed(
            f"cannot connect to {target}: its certificate was refused ({error.verify_message})", reason="tls_verify"
        )
    if isinstance(error, ssl.SSLError):
        return ConnectFailed(f"cannot connect to {target}: TLS failed ({error.reason or error})", reason="tls")
    if encrypting:
        what = "the connection ended during the TLS handshake"
        return ConnectFailed(f"cannot connect to {target}: {what} ({error})", reason="tls")
    if isinstance(error, ConnectionRefusedError):
        return ConnectFailed(f"cannot connect to {target}: nothing listens there", reason="refused")
    if isinstance(error, ConnectionError):
        return ConnectFailed(f"cannot connect to {target}: the connection was reset", reason="reset")
    if isinstance(error, FileNotFoundError):
        return ConnectFailed(f"cannot connect to {target}: the socket does not exist", reason="no_socket")
    reason = "refused" if getattr(error, "errno", None) == errno.ECONNREFUSED else "unreachable"
    return ConnectFailed(f"cannot connect to {target}: {error}", reason=reason)
