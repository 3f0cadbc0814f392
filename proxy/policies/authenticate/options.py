"""The options of ``authenticate``; their descriptions are its reference."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.base import FilePath, Text, Texts
from proxy.config.units import Duration
from proxy.policy import PolicyOptions

PriorityName = Literal["critical", "high", "normal", "background"]
Asymmetric = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Algorithm = Asymmetric | Literal["HS256", "HS384", "HS512"]


def _moment(value: Any) -> float:
    """Wall seconds of an ISO 8601 date or time; without a zone it is UTC, a date alone is its first second."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            value = None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    if not isinstance(value, datetime):
        raise PydanticCustomError("moment", "must be a date or time such as 2027-01-31 or 2027-01-31T18:00:00Z")
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


Moment = Annotated[
    float, BeforeValidator(_moment), WithJsonSchema({"type": "string", "examples": ["2027-01-31", "2027-01-31T18:00Z"]})
]


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise PydanticCustomError(
            "sha256", "must be 64 hexadecimal digits: the SHA-256 of the key, never the key itself"
        )
    return value.lower()


Sha256 = Annotated[str, AfterValidator(_sha256), WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"})]


class VirtualKey(PolicyOptions):
    """A key that this proxy gives out. It is stored as its digest only."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:@-]{1,100}$")] = Field(
        description="Name of the key, shown in logs and reports instead of the key. Unique."
    )
    sha256: Sha256 = Field(
        description="SHA-256 of the key in hexadecimal, as `printf %s KEY | sha256sum` prints it. Unique."
    )
    principal: Text | None = Field(None, description="Who calls with it. Keys may share one. Default: the key's id.")
    project: Text | None = Field(None, description="Project that pays unless the call names another allowed one.")
    projects: Texts = Field((), description="Further projects that a call may name in x-sidecar-project.")
    models: Texts = Field((), description="Models it may ask for; `*` is any run of characters. Empty: every model.")
    tags: dict[str, str] = Field({}, description="Tags of every call with it; they win over the client's own.")
    expires: Moment | None = Field(None, description="From then on it is refused. A date or time, UTC by default.")
    priority: PriorityName = Field(
        "normal", description="Priority of its calls, and the highest that x-sidecar-priority may claim."
    )


class Claims(PolicyOptions):
    """Where a token says who calls. A name is looked up as it is first, then as a dotted path into objects."""

    principal: Text = Field("sub", description="Claim that names the caller. A token without it is refused.")
    project: Text | None = Field(None, description="Claim with the project that pays.")
    projects: Text | None = Field(None, description="Claim with further projects: a list, or one text with spaces.")
    models: Text | None = Field(
        None,
        description="Claim with the allowed models: a list, or one text with spaces. A token without it is refused.",
    )
    priority: Text | None = Field(None, description="Claim with the priority of the caller. Default: normal.")
    tags: dict[str, Text] = Field({}, description="Tags to set, and the claim that holds the value of each.")


class Jwt(PolicyOptions):
    """How tokens are verified. Exactly one of jwks_url, jwks_file and secret says with which keys."""

    jwks_url: Annotated[str, Field(pattern=r"^https?://[^\s/]+")] | None = Field(
        None, description="Where the issuer publishes its key set. It is fetched again when a token names a new key."
    )
    jwks_file: FilePath | None = Field(None, description="File with the key set; read again when it names a new key.")
    secret: SecretStr | None = Field(None, description="Shared secret for HS256, HS384 and HS512, at least 32 bytes.")
    algorithms: tuple[Algorithm, ...] = Field(
        ("RS256",), min_length=1, description="Signatures that are accepted. What a token claims never widens this."
    )
    issuer: Texts = Field((), description="Accepted `iss` values. Empty: any.")
    audience: Texts = Field((), description="Accepted `aud` values. Empty: any, also none.")
    leeway: Duration = Field(30.0, description="How far clocks may differ.")
    claims: Claims = Field(default_factory=lambda: Claims.model_validate({}), description="Which claims say what.")
    timeout: Duration = Field(5.0, gt=0, description="How long fetching the key set may take.")
    refresh: Duration = Field(3600.0, gt=0, description="How old a key set may get before it is fetched again.")

    @model_validator(mode="after")
    def _consistent(self) -> Jwt:
        given = [name for name in ("jwks_url", "jwks_file", "secret") if getattr(self, name) is not None]
        if len(given) != 1:
            raise PydanticCustomError("jwt", "give exactly one of jwks_url, jwks_file and secret")
        shared = [name.startswith("HS") for name in self.algorithms]
        if self.secret is not None:
            if not all(shared):
                raise PydanticCustomError("jwt", "secret works with HS256, HS384 and HS512 only: set algorithms")
            if len(self.secret.get_secret_value().encode()) < 32:
                raise PydanticCustomError("jwt", "secret must have at least 32 bytes")
        elif any(shared):
            raise PydanticCustomError("jwt", "HS256, HS384 and HS512 need secret; a published key set cannot sign them")
        return self


class AuthenticateOptions(PolicyOptions):
    """Who may call."""

    method: Literal["none", "keys", "passthrough", "jwt"] = Field(
        description="none: everyone, as `anonymous`. keys: virtual keys listed here. jwt: signed tokens. passthrough: "
        "the client's own provider key goes upstream, and a keyed hash of it says who calls."
    )
    keys: tuple[VirtualKey, ...] = Field((), description="The virtual keys of `method: keys`.")
    jwt: Jwt | None = Field(None, description="How the tokens of `method: jwt` are verified.")
    unnamed_models: Literal["refuse", "allow"] = Field(
        "refuse",
        description="Calls that send something but name no model that can be seen (uploads, batches, websockets other "
        "than `/v1/realtime?model=`), from a caller who is limited to certain models.",
    )
    hash_key: SecretStr | None = Field(
        None,
        description="Key of the hash that names the callers of `method: passthrough`. Default: a random one, so that "
        "the names change with every start and differ between processes.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> AuthenticateOptions:
        if self.method == "keys" and not self.keys:
            raise PydanticCustomError("authenticate", "method keys needs at least one entry under keys")
        if self.method == "jwt" and self.jwt is None:
            raise PydanticCustomError("authenticate", "method jwt needs the section jwt")
        for name, method in (("keys", "keys"), ("jwt", "jwt"), ("hash_key", "passthrough")):
            if getattr(self, name) and self.method != method:
                raise PydanticCustomError(
                    "authenticate",
                    "{name} works with method {method} only",
                    {"name": name, "method": method},
                )
        seen: set[str] = set()
        for key in self.keys:
            for value, what in ((key.id, "id"), (key.sha256, "sha256")):
                if f"{what} {value}" in seen:
                    raise PydanticCustomError(
                        "authenticate", "two keys have the same {what} (key {id})", {"what": what, "id": key.id}
                    )
                seen.add(f"{what} {value}")
        return self
