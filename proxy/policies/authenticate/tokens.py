"""Signed tokens: from the text a client sent to the principal it proves.

A verified token is remembered under its digest until it expires, so the signature is checked once. Which algorithms
count is the configuration's word alone; a token's header chooses only among the keys.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, cast

from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet, OctKey
from joserfc.jws import JWSRegistry

from proxy.errors import ProxyError
from proxy.exchange import Principal, Priority
from proxy.policies.authenticate.key_set import PublishedKeys

if TYPE_CHECKING:
    from proxy.policies.authenticate.options import Jwt
    from proxy.services import Services

MAX_TOKENS: Final = 10_000
MAX_LENGTH: Final = 16 * 1024
_PRIORITIES: Final = ("critical", "high", "normal", "background")
_CHALLENGE: Final = ((b"www-authenticate", b'Bearer error="invalid_token"'),)


class Tokens:
    """Verifies tokens as ``options`` say."""

    def __init__(self, options: Jwt, services: Services) -> None:
        self.options = options
        self._now = services.clock.now
        self._known: dict[bytes, tuple[float, Principal]] = {}
        self._registry = JWSRegistry(algorithms=list(options.algorithms), strict_check_header=False)
        self._registry.max_header_length = 2048
        self._registry.max_payload_length = MAX_LENGTH
        self._published: PublishedKeys | None = None
        self._secret: OctKey | None = None
        if options.secret is not None:
            self._secret = OctKey.import_key(options.secret.get_secret_value())
        else:
            self._published = PublishedKeys(options, services)

    def start(self) -> None:
        """Get the key set before the first call needs it; nobody waits for it."""
        if self._published is not None:
            self._published.prefetch()

    async def stop(self) -> None:
        """End a fetch that is under way."""
        if self._published is not None:
            await self._published.stop()

    async def verify(self, token: str) -> Principal:
        """Who the token proves to call.

        Raises:
            ProxyError: ``invalid_api_key`` with what is wrong with it; ``overloaded`` when no key set can be had.
        """
        now = self._now()
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is not None:
            if now < known[0]:
                return known[1]
            del self._known[digest]
            raise _refused("it has expired")
        if len(token) > MAX_LENGTH or not token.isascii() or token.count(".") != 2:
            raise _refused("it is not a JSON Web Token")
        claims = await self._decode(token)
        until = self._check(claims, now)
        principal = self._principal(claims, until)
        if len(self._known) >= MAX_TOKENS:
            # The oldest goes: it was verified longest ago and is cheap to verify again.
            del self._known[next(iter(self._known))]
        self._known[digest] = (until, principal)
        return principal

    async def _decode(self, token: str) -> dict[str, Any]:
        try:
            if self._secret is not None:
                return self._signed(token, self._secret)
            published = cast(PublishedKeys, self._published)
            keys = await published.current()
            try:
                return self._signed(token, keys)
            except InvalidKeyIdError:
                # The issuer may have changed its keys since: look again, as often as the back-off allows.
                newer = await published.renewed(keys)
                if newer is None:
                    raise
                return self._signed(token, newer)
        except JoseError as error:
            raise _refused(_because(error)) from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _refused("it is not a JSON Web Token") from None

    def _signed(self, token: str, keys: KeySet | OctKey) -> dict[str, Any]:
        found = jwt.decode(token, keys, algorithms=list(self.options.algorithms), registry=self._registry)
        return dict(found.claims)

    def _check(self, claims: dict[str, Any], now: float) -> float:
        """When the token stops being good, wall seconds, leeway included. Raises ProxyError when it already is not."""
        leeway = self.options.leeway
        until = _number(claims.get("exp"))
        if until is None:
            raise _refused("it has no valid expiry time (exp)")
        if now >= until + leeway:
            raise _refused("it has expired")
        if claims.get("nbf") is not None:
            since = _number(claims["nbf"])
            if since is None or now < since - leeway:
                raise _refused("it is not valid yet (nbf)")
        if self.options.issuer and claims.get("iss") not in self.options.issuer:
            raise _refused("its issuer (iss) is not accepted here")
        if self.options.audience:
            said = claims.get("aud")
            named = said if isinstance(said, list) else [said]
            if not any(one in self.options.audience for one in named if isinstance(one, str)):
                raise _refused("it is meant for another audience (aud)")
        return until + leeway

    def _principal(self, claims: dict[str, Any], until: float) -> Principal:
        where = self.options.claims
        name = _claim(claims, where.principal)
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not name:
            raise _refused(f"its claim {where.principal} does not name a caller")
        project = _claim(claims, where.project)
        priority = _claim(claims, where.priority)
        models = _texts(_claim(claims, where.models))
        if where.models is not None and not models:
            raise _refused(f"its claim {where.models} allows no model")
        tags = {tag: _claim(claims, path) for tag, path in where.tags.items()}
        return Principal(
            name[:200],
            project=project if isinstance(project, str) and project else None,
            projects=_texts(_claim(claims, where.projects)),
            models=models,
            tags={tag: value for tag, value in tags.items() if isinstance(value, str)},
            priority=cast(Priority, priority) if priority in _PRIORITIES else "normal",
            expires=until,
            method="jwt",
        )


def _refused(why: str) -> ProxyError:
    return ProxyError(
        "invalid_api_key", f"The token that was sent is refused: {why}. Get a new one.", headers=_CHALLENGE
    )


def _because(error: JoseError) -> str:
    match error.error:
        case "bad_signature":
            return "its signature is wrong"
        case "invalid_key_id":
            return "it is signed with a key that its issuer does not publish"
        case "unsupported_algorithm" | "conflict_algorithm":
            return "its signature algorithm is not accepted here"
    return "it is not a valid JSON Web Token"


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _claim(claims: dict[str, Any], path: str | None) -> Any:
    if path is None:
        return None
    if path in claims:  # names such as https://example.com/project hold dots themselves
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, list):
        return tuple(one for one in value if isinstance(one, str) and one)
    return ()
