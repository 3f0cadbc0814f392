"""`upstreams`: the provider endpoints that calls are forwarded to."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.base import FilePath, Model, PoolName, Secret, Text
from proxy.config.units import DurationOrNone, PositiveDuration

_BAD_URL = "must be a URL such as https://api.example.com/v1, without user, query or fragment"


def _base_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise PydanticCustomError("config", _BAD_URL) from None
    usable = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc
    if not usable or parts.query or parts.fragment or any(c.isspace() or not c.isprintable() for c in value):
        raise PydanticCustomError("config", _BAD_URL)
    return value.rstrip("/")


def _proxy_url(value: Secret) -> Secret:
    try:
        parts = urlsplit(value.get_secret_value())
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme != "http" or not parts.hostname:
        raise PydanticCustomError("config", "must be the URL of an HTTP proxy, such as http://proxy.example.com:3128")
    return value


BaseUrl = Annotated[str, AfterValidator(_base_url)]
ProxyUrl = Annotated[Secret, AfterValidator(_proxy_url)]


class Timeouts(Model):
    """How long each part of a call may take; each has its own error. `none` is no bound."""

    connect: PositiveDuration = Field(default=5.0, description="To open a connection, TLS included.")
    first_byte: DurationOrNone = Field(
        default=600.0, description="From the last byte sent to the first byte of the answer."
    )
    idle: DurationOrNone = Field(
        default=300.0, description="Longest silence within an answer. Reasoning models are slow."
    )
    total: DurationOrNone = Field(
        default=None, description="From the start of the call to its end, all tries included."
    )


class UpstreamTls(Model):
    """How the upstream's certificate is checked and what is shown to it."""

    ca: FilePath | None = Field(
        default=None, description="PEM file with the authorities to trust. Default: the system's."
    )
    cert: FilePath | None = Field(default=None, description="PEM file with a client certificate.")
    key: FilePath | None = Field(default=None, description="PEM file with the client certificate's private key.")
    sni: Text | None = Field(default=None, description="Server name to ask for and to check. Default: the URL's host.")
    verify: bool = Field(default=True, description="false accepts any certificate: for tests only.")

    @model_validator(mode="after")
    def _pair(self) -> UpstreamTls:
        if (self.cert is None) != (self.key is None):
            raise PydanticCustomError("config", "cert and key belong together: give both or neither")
        return self


class Auth(Model):
    """Which header carries the key upward, and how."""

    header: Text = Field(
        default="authorization", description="Header that carries the key, such as api-key or x-api-key."
    )
    prefix: str = Field(default="", description='What stands before the key in the header, such as "Bearer ".')


class Health(Model):
    """A request that is sent now and then to see whether the upstream is there."""

    every: PositiveDuration = Field(default=30.0, description="Time between two probes.")
    path: Annotated[str, Field(pattern="^/")] = Field(default="/models", description="Path to ask, below base_url.")
    timeout: PositiveDuration = Field(default=5.0, description="How long a probe may take.")


_DEFAULT_AUTH: dict[str, Auth] = {
    "openai": Auth.model_construct(header="authorization", prefix="Bearer "),
    "anthropic": Auth.model_construct(header="x-api-key", prefix=""),
    "demo": Auth.model_construct(header="authorization", prefix="Bearer "),
}


class Upstream(Model):
    """A provider endpoint: the API it speaks, where it is, its keys and its patience."""

    api: Literal["openai", "anthropic", "demo"] = Field(
        description="The API it speaks: openai (also every compatible one), anthropic, or demo, which is built in."
    )
    base_url: BaseUrl | None = Field(
        default=None, description="Where it is. openai: with /v1, as for the SDK; anthropic: without; demo: not given."
    )
    keys: PoolName | None = Field(
        default=None,
        description="Pool under `keys:` that this upstream is called with. Default: the client's credential.",
    )
    timeouts: Timeouts = Field(default_factory=Timeouts, description="Patience with each part of a call.")
    max_connections: int = Field(default=100, ge=1, le=100_000, description="Connections at a time, for each worker.")
    max_waiting: int = Field(
        default=1000, ge=0, description="Calls that may wait for a connection; further ones get 503."
    )
    keepalive: PositiveDuration = Field(
        default=30.0, description="How long an idle connection is kept for the next call."
    )
    tls: UpstreamTls = Field(default_factory=UpstreamTls, description="Trust and client certificate.")
    proxy: ProxyUrl | None = Field(
        default=None, description="HTTP proxy to go through, such as http://user:pw@proxy:3128."
    )
    headers: dict[str, Secret] = Field(
        default={}, description="Headers that are set on every request, such as OpenAI-Organization or api-version."
    )
    query: dict[str, str] = Field(
        default={}, description="Query parameters added to every request, such as api-version."
    )
    auth: Auth | None = Field(
        default=None,
        description='How a key is sent. Default: "authorization: Bearer KEY", for anthropic "x-api-key: KEY"; Azure '
        "wants {header: api-key}.",
    )
    health: Health | None = Field(default=None, description="Probe it now and then. Default: only real calls tell.")
    stream_usage: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether a stream is asked for its usage (stream_options.include_usage). auto: asked when the "
        "client did not, and the extra event is kept from the client; when a 400 or 422 may be about that, the call is "
        "sent again without it, and an upstream that then answers is not asked any more. always: asked, whatever it "
        "says. never: not asked.",
    )

    @model_validator(mode="after")
    def _address(self) -> Upstream:
        if self.api == "demo" and self.base_url is not None:
            raise PydanticCustomError("config", "base_url is not used with api: demo, which is built in")
        if self.api != "demo" and self.base_url is None:
            raise PydanticCustomError("config", f"base_url is required with api: {self.api}")
        return self

    @property
    def key_auth(self) -> Auth:
        """`auth`, or what the API expects."""
        return self.auth or _DEFAULT_AUTH[self.api]
