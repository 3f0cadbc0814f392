"""The opening handshake (RFC 6455, 4): what a client asks for, what is asked upstream, and whether 101 means it.

Pure: requests and header lists in, values and ProxyErrors out. Each side has a key of its own, since one call may need
several attempts.
"""

from __future__ import annotations

import base64
import os
import re
from hashlib import sha1
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, unquote_plus

from multidict import CIMultiDict, CIMultiDictProxy

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from proxy.exchange import Exchange, RawHeaders
    from proxy.head import Head

__all__ = ["Upgrade", "accept_of", "asked", "new_key", "prepare", "request_headers", "with_model", "wrong_answer"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS: Final = b"sec-websocket-"
_SECRET: Final = "openai-insecure-api-key."
_CREDENTIALS: Final = ("authorization", "x-api-key", "api-key")
_ANOTHER_VERSION: Final = (
    (b"sec-websocket-version", b"13"),
    (b"upgrade", b"websocket"),
)


class Upgrade:
    """A client's wish for a websocket. key: its Sec-WebSocket-Key. protocols: the subprotocols it offers, in order and
    without those that carry a credential. fixes_model: the query's ``model`` is what the session talks to; for other
    paths than ``realtime`` each message may name another one.
    """

    __slots__ = ("fixes_model", "key", "protocols")

    def __init__(self, key: str, protocols: tuple[str, ...], *, fixes_model: bool) -> None:
        self.key = key
        self.protocols = protocols
        self.fixes_model = fixes_model


def asked(head: Head) -> bool:
    """Whether this request asks for a websocket. Other upgrades, other methods and HTTP/1.0 are served as if the header
    were not there (RFC 9110, 7.8)."""
    return head.upgrade and head.method == "GET" and not head.http10 and _is_websocket(head.headers.get("upgrade"))


def _is_websocket(value: str | None) -> bool:
    return value is not None and value.lower() == "websocket"


def prepare(exchange: Exchange) -> None:
    """Read the wish and put it on the request: the model from the query, a credential from the subprotocols.

    What belongs to this hop alone leaves the headers. Raises ``invalid_request`` (400, or 426 for another version),
    ``invalid_value``.
    """
    request = exchange.request
    headers = request.headers
    version = headers.get("sec-websocket-version")
    if version is None or version.strip() != "13":
        raise ProxyError(
            "invalid_request",
            "Only version 13 of the websocket protocol is spoken here (Sec-WebSocket-Version).",
            status=426,
            headers=_ANOTHER_VERSION,
        )
    key = (headers.get("sec-websocket-key") or "").strip()
    if _KEY.fullmatch(key) is None:
        raise ProxyError("invalid_request", "Sec-WebSocket-Key must be 16 bytes in base64.")
    if request.content_length or "transfer-encoding" in headers:
        raise ProxyError("invalid_request", "A request for a websocket has no body.")
    offered = _offered(headers.getall("sec-websocket-protocol", ()) if isinstance(headers, CIMultiDictProxy) else ())
    models = [value for name, value in parse_qsl(request.query, keep_blank_values=True) if name == "model"]
    if len(models) > 1:
        raise ProxyError("invalid_value", "The query names more than one model.", param="model")
    model = models[0] if models and models[0] else None
    request.upgrade = Upgrade(
        key,
        tuple(one for one in offered if not one.startswith(_SECRET)),
        fixes_model=model is not None and names_model(request.path),
    )
    secret = next((one[len(_SECRET) :] for one in offered if one.startswith(_SECRET)), "")
    _strip(exchange, secret)
    exchange.name_model(model)


def names_model(path: str) -> bool:
    """Whether the API behind this path takes its model from the query."""
    return path.rstrip("/").endswith("/realtime")


def _offered(lines: list[str] | tuple[()]) -> list[str]:
    offered = [one.strip() for line in lines for one in line.split(",")]
    offered = [one for one in offered if one]
    for one in offered:
        if _TOKEN.fullmatch(one) is None:
            raise ProxyError("invalid_request", "Sec-WebSocket-Protocol holds something that is no token.")
    return offered


def _strip(exchange: Exchange, secret: str) -> None:
    """Take the handshake's own fields out of the request. A browser cannot send headers, so its key comes among the
    subprotocols: it becomes the header that it stands for, unless there is one, and is treated like it from here on."""
    request = exchange.request
    headers = CIMultiDict(request.headers)
    for name in [name for name in headers if name.lower().encode("latin-1", "replace").startswith(_OURS)]:
        headers.popall(name, None)
    raw = [pair for pair in request.raw_headers if not pair[0].lower().startswith(_OURS)]
    if secret and not any(name in headers for name in _CREDENTIALS):
        headers["Authorization"] = f"Bearer {secret}"
        raw.append((b"Authorization", f"Bearer {secret}".encode()))
    request.headers = CIMultiDictProxy(headers)
    request.raw_headers = tuple(raw)


# --- upstream ------------------------------------------------------------------------------------------


def new_key() -> bytes:
    """A Sec-WebSocket-Key."""
    return base64.b64encode(os.urandom(16))


def accept_of(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers a key."""
    return base64.b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def request_headers(upgrade: Upgrade, rendered: RawHeaders, key: bytes) -> RawHeaders:
    """The headers of one attempt: what goes up of the client's, and a handshake of our own."""
    headers = [pair for pair in rendered if not pair[0].lower().startswith(_OURS)]
    headers += [
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key),
    ]
    if upgrade.protocols:
        headers.append((b"Sec-WebSocket-Protocol", ", ".join(upgrade.protocols).encode()))
    return headers


def with_model(query: str, model: str, *, add: bool) -> str:
    """The query with another model in it. add: also where it names none."""
    parts = query.split("&") if query else []
    named = f"model={quote(model, safe='')}"
    found = False
    for index, part in enumerate(parts):
        if unquote_plus(part.partition("=")[0]) == "model":
            parts[index] = named
            found = True
    if add and not found:
        parts.append(named)
    return "&".join(parts)


def wrong_answer(upgrade: Upgrade, headers: RawHeaders, key: bytes) -> str | None:
    """Why a 101 is not the answer to our handshake; None when it is."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value.strip())
    if [value.lower() for value in found.get(b"upgrade", [])] != [b"websocket"]:
        return "it does not upgrade to websocket"
    if found.get(b"sec-websocket-accept") != [accept_of(key)]:
        return "its Sec-WebSocket-Accept is wrong"
    if any(found.get(b"sec-websocket-extensions", [])):
        return "it uses an extension that was not offered"
    chosen = found.get(b"sec-websocket-protocol", [])
    if len(chosen) > 1 or any(one.decode("latin-1") not in upgrade.protocols for one in chosen):
        return "it chose a subprotocol that was not offered"
    return None


def answer_head(upgrade: Upgrade, upstream: RawHeaders) -> RawHeaders:
    """The end-to-end headers of the upstream's 101 with the client's own handshake in the place of ours."""
    headers = [pair for pair in upstream if not pair[0].lower().startswith(_OURS)]
    headers.append((b"sec-websocket-accept", accept_of(upgrade.key.encode())))
    headers += [(b"sec-websocket-protocol", value) for name, value in upstream if name.lower() == _OURS + b"protocol"]
    return headers
