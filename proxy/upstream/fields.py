"""Which headers cross the proxy, decided once per name and remembered.

Hop-by-hop fields never cross (RFC 9110, 7.6.1), ``x-sidecar-*`` is ours, Host and the body's
framing are written anew. Everything else goes through as the bytes it came in.
"""

from __future__ import annotations

from typing import Final

KEEP: Final = 0
DROP: Final = 1
CREDENTIAL: Final = 2
ACCEPT_ENCODING: Final = 3
CONNECTION: Final = 4
CONTENT_ENCODING: Final = 5
CONTENT_LENGTH: Final = 6
CONTENT_TYPE: Final = 7

USUAL_CONNECTION: Final = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
"""Values of Connection that name no further field."""

_HOP: Final = frozenset(
    {
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_UP: Final = {
    **dict.fromkeys(_HOP, DROP),
    b"connection": CONNECTION,
    b"host": DROP,
    b"content-length": DROP,
    b"expect": DROP,
    b"accept-encoding": ACCEPT_ENCODING,
    b"content-encoding": CONTENT_ENCODING,
    b"authorization": CREDENTIAL,
    b"x-api-key": CREDENTIAL,
    b"api-key": CREDENTIAL,
}
_DOWN: Final = {
    **dict.fromkeys(_HOP, DROP),
    b"connection": CONNECTION,
    b"content-length": CONTENT_LENGTH,
    b"content-encoding": CONTENT_ENCODING,
    b"content-type": CONTENT_TYPE,
}
# Names are a client's to invent: what is remembered is bounded.
_REMEMBERED: Final = 512
known_request_actions: dict[bytes, int] = {}
_up = known_request_actions
_down: dict[bytes, int] = {}


def request_action(name: bytes) -> int:
    """What happens to a request header of this name (any case)."""
    action = _up.get(name)
    if action is None:
        low = name.lower()
        action = DROP if low.startswith(b"x-sidecar-") else _UP.get(low, KEEP)
        if len(_up) < _REMEMBERED:
            _up[name] = action
    return action


def answer_action(name: bytes) -> int:
    """What happens to an answer header of this name (any case)."""
    action = _down.get(name)
    if action is None:
        low = name.lower()
        action = DROP if low.startswith(b"x-sidecar-") else _DOWN.get(low, KEEP)
        if len(_down) < _REMEMBERED:
            _down[name] = action
    return action


def named_by_connection(headers: list[tuple[bytes, bytes]] | tuple[tuple[bytes, bytes], ...]) -> frozenset[bytes]:
    """The lower-case names that Connection fields declare hop-by-hop."""
    found: set[bytes] = set()
    for name, value in headers:
        if name.lower() == b"connection":
            found.update(token.strip().lower() for token in value.split(b","))
    return frozenset(found - {b"close", b"keep-alive", b"upgrade", b"te", b""})


def answer_headers(
    headers: list[tuple[bytes, bytes]],
) -> tuple[list[tuple[bytes, bytes]], bytes | None, bytes, int | None]:
    """(end-to-end answer headers as received, the content-encoding taken out of them, content-type, content-length).

    Encoding and type are in lower case; None and b"" where the upstream said nothing.
    """
    out: list[tuple[bytes, bytes]] = []
    encoding: bytes | None = None
    kind = b""
    length: int | None = None
    named: frozenset[bytes] = frozenset()
    known = _down
    for pair in headers:
        action = known.get(pair[0])
        if action is None:
            action = answer_action(pair[0])
        if action == 0:  # KEEP
            out.append(pair)
        elif action == CONTENT_TYPE:
            out.append(pair)
            kind = kind or pair[1].lower()
        elif action == CONTENT_LENGTH:
            length = int(pair[1]) if pair[1].isdigit() else None
        elif action == CONTENT_ENCODING:
            value = pair[1].strip().lower()
            if value and value != b"identity":
                encoding = value if encoding is None else encoding + b", " + value
        elif action == CONNECTION and pair[1] not in USUAL_CONNECTION:
            named = named_by_connection(headers)
    if named:
        out = [pair for pair in out if pair[0].lower() not in named]
    return out, encoding, kind, length
