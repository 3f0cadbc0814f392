"""The policy ``authenticate``: who calls, which project pays, which models are allowed.

It settles what the client claims in ``x-sidecar-project``, ``-tags`` and ``-priority`` (they stand on the exchange
when the chain starts): a project must be the caller's, the caller's tags win, a priority is at most the caller's.
The credential of a principal of method ``keys`` or ``jwt`` never goes up: ``proxy.upstream`` leaves it out of every
attempt, by ``principal.method``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, ClassVar, Final

from proxy.errors import ProxyError
from proxy.exchange import Principal
from proxy.match import any_glob
from proxy.policies.authenticate.options import AuthenticateOptions, VirtualKey
from proxy.policy import Policy

if TYPE_CHECKING:
    from proxy.exchange import Exchange, Request
    from proxy.policies.authenticate.tokens import Tokens
    from proxy.services import Services

RANK: Final = {"background": 0, "normal": 1, "high": 2, "critical": 3}
_CHALLENGE: Final = ((b"www-authenticate", b"Bearer"),)
_NOTHING_SENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
# Drawn once a process: callers keep their names over a reload.
_PROCESS_KEY: Final = os.urandom(32)
_MAX_MODEL: Final = 256
_MAX_REMEMBERED: Final = 10_000


class Authenticate(Policy):
    """Finds out who calls and refuses who may not."""

    name: ClassVar[str] = "authenticate"
    Options = AuthenticateOptions
    protects: ClassVar[bool] = True
    observable: ClassVar[bool] = False
    options: AuthenticateOptions

    def __init__(
        self, options: AuthenticateOptions, services: Services, *, label: str | None = None, observe: bool = False
    ) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self._now = services.clock.now
        self._keys = {key.sha256: (key.sha256, _principal(key)) for key in options.keys}
        self._models: dict[tuple[str, ...], Callable[[str], bool]] = {}
        self._hash_key = options.hash_key.get_secret_value().encode()[:64] if options.hash_key else _PROCESS_KEY
        self._passing: dict[bytes, Principal] = {}
        self._tokens: Tokens | None = None
        if options.method == "none":
            self.unused = frozenset({"on_request"})
        if options.jwt is not None:
            from proxy.policies.authenticate.tokens import Tokens  # noqa: PLC0415 - only this method pays for it

            self._tokens = Tokens(options.jwt, services)

    async def start(self) -> None:
        if self._tokens is not None:
            self._tokens.start()

    async def stop(self) -> None:
        if self._tokens is not None:
            await self._tokens.stop()

    def on_request(self, exchange: Exchange) -> Awaitable[None] | None:
        method = self.options.method
        if method == "none":
            return None
        request = exchange.request
        if method == "passthrough":
            exchange.principal = self._hashed(_all_credentials(request))
            return None
        given = credential(request)
        if given is None:
            raise ProxyError(
                "invalid_api_key",
                "No API key was sent. Send the key that this proxy's operator gave you as 'Authorization: Bearer KEY'.",
                headers=_CHALLENGE,
            )
        if self._tokens is not None:
            if self.services.dry and self.options.jwt is not None and self.options.jwt.jwks_url is not None:
                # A rehearsal calls nobody: the caller stays anonymous and may nothing more than that.
                exchange.note(
                    self.label, f"the token is not verified here: its keys are at {self.options.jwt.jwks_url}"
                )
                return None
            return self._verify(exchange, self._tokens, given)
        self._enter(exchange, self._known(given))
        return None

    async def _verify(self, exchange: Exchange, tokens: Tokens, given: str) -> None:
        self._enter(exchange, await tokens.verify(given))

    def _enter(self, exchange: Exchange, principal: Principal) -> None:
        exchange.principal = principal
        self._settle(exchange, principal)
        if principal.models:
            self._check_model(exchange, principal.models)
        if exchange.explain is not None:
            exchange.explain(self.label, f"the caller is {principal.id} (key {principal.key_id or '-'})")

    def _known(self, given: str) -> Principal:
        digest = sha256(given.encode("utf-8", "surrogatepass")).hexdigest()
        stored, principal = self._keys.get(digest, ("", None))
        if principal is None or not compare_digest(stored, digest):
            raise ProxyError(
                "invalid_api_key",
                "The API key that was sent is not known to this proxy. Provider keys do not work here: use a key that "
                "this proxy's operator gave you.",
                headers=_CHALLENGE,
            )
        expires = principal.expires
        if expires is not None and self._now() >= expires:
            at = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            raise ProxyError(
                "invalid_api_key",
                f"The API key {principal.key_id} expired at {at}. Ask this proxy's operator for a new one.",
                headers=_CHALLENGE,
            )
        return principal

    def _hashed(self, given: str | None) -> Principal:
        if given is None:
            return _NO_CREDENTIAL
        digest = blake2b(given.encode("utf-8", "surrogatepass"), key=self._hash_key, digest_size=12).digest()
        principal = self._passing.get(digest)
        if principal is None:
            principal = Principal("key-" + digest.hex(), method="passthrough")
            if len(self._passing) >= _MAX_REMEMBERED:
                self._passing.clear()
            self._passing[digest] = principal
        return principal

    def _settle(self, exchange: Exchange, principal: Principal) -> None:
        claimed = exchange.project
        if claimed is None:
            exchange.project = principal.project
        elif claimed != principal.project and claimed not in principal.projects:
            raise ProxyError(
                "policy_refused",
                f"This key may not use the project {claimed[:80]!r} (x-sidecar-project). "
                f"It may use: {_listed(tuple(dict.fromkeys((principal.project, *principal.projects))))}.",
                param="x-sidecar-project",
            )
        if principal.tags:
            exchange.tags.update(principal.tags)
        highest = principal.priority
        if "x-sidecar-priority" not in exchange.request.headers or RANK[exchange.priority] > RANK[highest]:
            exchange.priority = highest

    def _check_model(self, exchange: Exchange, models: tuple[str, ...]) -> None:
        asked = exchange.model_asked
        upgrade = exchange.request.upgrade
        if upgrade is not None and not upgrade.fixes_model:
            asked = None  # whatever its query says, each message of such a websocket may name a model
        if exchange.request.form is not None:
            asked = None  # a part that is still to come may name another
        if asked is None:
            sends = upgrade is not None or exchange.request.method not in _NOTHING_SENT
            if not sends or self.options.unnamed_models == "allow" or "*" in models:
                return
            raise ProxyError(
                "model_not_allowed",
                f"This key may use certain models only ({_listed(models)}), and this call names none that can be "
                "checked.",
                param="model",
            )
        allows = self._models.get(models)
        if allows is None:
            if len(self._models) >= _MAX_REMEMBERED:
                self._models.clear()
            allows = self._models[models] = any_glob(models)
        if len(asked) > _MAX_MODEL or not allows(asked):
            raise ProxyError(
                "model_not_allowed",
                f"This key may not use the model {asked[:80]!r}. It may use: {_listed(models)}.",
                param="model",
            )


_NO_CREDENTIAL: Final = Principal("anonymous", method="passthrough")


def credential(request: Request) -> str | None:
    """The key or token that a client sent, wherever SDKs put it; None without one."""
    value = request.header("authorization")
    if value is not None:
        if value.startswith("Bearer "):
            given = value[7:].strip()
        else:
            scheme, _, rest = value.partition(" ")
            given = rest.strip() if scheme.lower() == "bearer" else ""
        if given:
            return given
    return request.header("x-api-key") or request.header("api-key") or None


def _all_credentials(request: Request) -> str | None:
    """All that goes up to say who calls: two callers are one only if all of it is the same. None without any."""
    given = credential(request)
    told = [value for name in ("authorization", "x-api-key", "api-key") if (value := request.header(name))]
    if len(told) < 2 and given is not None:
        return given  # the usual: one key, wherever it stands
    return "\n".join(told) or None


def _principal(key: VirtualKey) -> Principal:
    return Principal(
        key.principal or key.id,
        key.project,
        key.projects,
        key.models,
        key.tags,
        key.priority,
        key.expires,
        key.id,
        "keys",
    )


def _listed(names: Iterable[str | None]) -> str:
    known = [name for name in names if name is not None]
    if not known:
        return "none"
    return ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
