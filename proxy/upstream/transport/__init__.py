"""Our own HTTP/1.1 client: a pool of kept connections on asyncio protocols and httptools.

    pool = Pool(Endpoint("https", "api.example.com", 443))
    answer = await pool.send(Outgoing(b"POST", b"/v1/x", [(b"content-type", b"application/json")], b"{}"))
    body = await answer.read(limit=1 << 20)        # whole, or
    answer.start(sink)                             # pushed, piece by piece

Read `connection.py` for a call's life and `pool.py` for who gets which connection. Nothing here knows of policies,
retries (but the one repeat on a kept connection that had been closed) or dialects.
"""

from .endpoint import Endpoint, Limits, Timeouts
from .errors import (
    BodyTooLarge,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    DecodeFailed,
    FirstByteTimeout,
    IdleTimeout,
    InvalidRequest,
    InvalidResponse,
    PoolClosed,
    PoolFull,
    PoolTimeout,
    TotalTimeout,
    TransportError,
    Truncated,
)
from .incoming import Incoming, Sink
from .outgoing import Outgoing
from .pool import Pool
from .switching import Switched
from .tls import TlsOptions

__all__ = [
    "BodyTooLarge",
    "ConnectFailed",
    "ConnectTimeout",
    "ConnectionLost",
    "DecodeFailed",
    "Endpoint",
    "FirstByteTimeout",
    "IdleTimeout",
    "Incoming",
    "InvalidRequest",
    "InvalidResponse",
    "Limits",
    "Outgoing",
    "Pool",
    "PoolClosed",
    "PoolFull",
    "PoolTimeout",
    "Sink",
    "Switched",
    "Timeouts",
    "TlsOptions",
    "TotalTimeout",
    "TransportError",
    "Truncated",
]
