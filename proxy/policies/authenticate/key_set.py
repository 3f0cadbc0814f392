"""The keys an issuer publishes (JWKS, RFC 7517), from a URL or a file, kept and fetched again with a back-off.

One fetch at a time, shared by every call that waits for it; a call that leaves does not end it. While a fetch
fails, the keys that were there before stay good.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import orjson
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from proxy.policies.authenticate.options import Jwt
    from proxy.services import Services

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 300.0
RENEW_EVERY: Final = 10.0
"""Seconds between two looks for a key that is not in the set: strangers may send any key id they like."""
MAX_BYTES: Final = 1024 * 1024

log = logging.getLogger("llm_sidecar.authenticate")


class PublishedKeys:
    """The current key set. place: where it comes from, for messages."""

    def __init__(self, options: Jwt, services: Services) -> None:
        self._options = options
        self._clock = services.clock
        self.place = str(options.jwks_url or options.jwks_file)
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._may_fetch_at = 0.0
        self._wait = FIRST_WAIT
        self._fetch: asyncio.Task[None] | None = None

    def prefetch(self) -> None:
        """Begin to fetch; nobody waits."""
        if self._keys is None:
            self._begin()

    async def stop(self) -> None:
        """End a fetch that is under way."""
        if self._fetch is not None and not self._fetch.done():
            self._fetch.cancel()
            await asyncio.wait([self._fetch])

    async def current(self) -> KeySet:
        """The keys, fetched when there are none yet. Raises ProxyError ``overloaded`` when they cannot be had."""
        now = self._clock.monotonic()
        if self._keys is None:
            if self._fetch is None and now < self._may_fetch_at:
                raise self._missing(self._may_fetch_at - now)
            await asyncio.shield(self._begin())
            if self._keys is None:
                raise self._missing(self._wait)
        elif now - self._fetched_at > self._options.refresh and now >= self._may_fetch_at:
            self._begin()  # in the background: old keys are good until newer ones are here
        return self._keys

    async def renewed(self, old: KeySet) -> KeySet | None:
        """A newer set than ``old``, or None when there is none and looking again would be too soon."""
        if self._keys is old:
            if self._fetch is None and self._clock.monotonic() < self._may_fetch_at:
                return None
            await asyncio.shield(self._begin())
        return None if self._keys is old else self._keys

    def _missing(self, wait: float) -> ProxyError:
        message = "The keys that tokens are checked with cannot be had at the moment."
        return ProxyError("overloaded", message, retry_after=max(1.0, wait))

    def _begin(self) -> asyncio.Task[None]:
        if self._fetch is None:
            self._fetch = asyncio.get_running_loop().create_task(self._run())
        return self._fetch

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._options.timeout):
                raw = await (self._from_url() if self._options.jwks_url else asyncio.to_thread(self._from_file))
            self._keys = _parse(raw)
            self._fetched_at = self._clock.monotonic()
            self._may_fetch_at = self._fetched_at + RENEW_EVERY
            self._wait = FIRST_WAIT
        except Exception as error:  # whatever stands behind the URL, calls go on with the old keys
            self._may_fetch_at = self._clock.monotonic() + self._wait
            log.error(
                "the key set %s cannot be read: %s: %s; next try in %.0f s at the earliest",
                self.place,
                type(error).__name__,
                error,
                self._wait,
            )
            self._wait = min(self._wait * 2, LONGEST_WAIT)
        finally:
            self._fetch = None

    async def _from_url(self) -> bytes:
        import aiohttp  # noqa: PLC0415 - 100 ms, only for who fetches

        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(str(self._options.jwks_url), headers={"accept": "application/json"}) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"HTTP status {answer.status}")
            raw = bytearray()
            async for piece in answer.content.iter_any():
                raw += piece
                if len(raw) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
            return bytes(raw)

    def _from_file(self) -> bytes:
        path = self._options.jwks_file
        assert path is not None
        return path.read_bytes()


def _parse(raw: bytes) -> KeySet:
    """The usable public keys of a key set. Raises ValueError when it has none."""
    tree: Any = orjson.loads(raw)
    listed = tree.get("keys") if isinstance(tree, dict) else None
    if not isinstance(listed, list):
        raise ValueError('no JSON object with a list "keys"')
    usable: list[Any] = []
    for one in listed:
        # A shared secret in a published set would let everyone sign.
        if isinstance(one, dict) and one.get("kty") != "oct" and one.get("use", "sig") == "sig":
            try:
                usable += KeySet.import_key_set({"keys": [one]}).keys
            except (JoseError, ValueError, TypeError, KeyError):
                log.warning("a key of a published key set is not usable (kid %r)", str(one.get("kid"))[:80])
    if not usable:
        raise ValueError("it holds no usable signing key")
    return KeySet(usable)
