"""Where the proxy listens and what it tells about itself: `server`, `admin`, `log`."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.base import FilePath, Model, Secret, Text
from proxy.config.match import Networks
from proxy.config.units import Duration, DurationOrNone, PositiveDuration, PositiveSize, Size, SizeOrNone

Port = Annotated[int, Field(ge=0, le=65535)]
SecretText = Annotated[Secret, Field(min_length=1)]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener bound to `host`."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class ServerTls(Model):
    """The certificate to listen with."""

    cert: FilePath = Field(description="PEM file with the certificate and its chain.")
    key: FilePath = Field(description="PEM file with the private key.")


class Server(Model):
    """The data port, where applications send their calls."""

    host: Text = Field(default="127.0.0.1", description="Address to bind. 0.0.0.0 or :: is every interface.")
    port: Port = Field(default=8080, description="Port to bind; 0 takes a free one.")
    unix: FilePath | None = Field(
        default=None, description="Path of a unix socket to listen on, instead of host and port."
    )
    tls: ServerTls | None = Field(default=None, description="Serve TLS with this certificate. Default: plain HTTP.")
    workers: int = Field(
        default=1, ge=1, le=256, description="Worker processes. More than one wants `state: redis://...`."
    )
    drain: Duration = Field(default=30.0, description="How long calls in flight may take to end after SIGTERM.")
    hosts: tuple[Text, ...] = Field(
        default=(),
        description="Host names that clients may use. On loopback localhost, 127.0.0.1 and [::1] are always allowed; "
        "bound elsewhere an empty list allows any.",
    )
    trusted_proxies: Networks = Field(
        default=(), description="Networks whose X-Forwarded-For is believed. Default: none, the peer's address counts."
    )
    header_timeout: PositiveDuration = Field(
        default=10.0, description="How long a client may take to send the head of a call."
    )
    body_timeout: PositiveDuration = Field(
        default=30.0, description="How long a client may pause while it sends a body."
    )
    keepalive: DurationOrNone = Field(default=75.0, description="How long an idle client connection stays open.")
    write_timeout: PositiveDuration = Field(default=60.0, description="How long a client may take none of its answer.")
    max_header: PositiveSize = Field(
        default=64 * 1024, description="Largest head of a request: request line and all headers."
    )
    max_body: PositiveSize = Field(
        default=64 * 1024**2, description="Largest body that is read into memory, when unpacked."
    )
    max_upload: SizeOrNone = Field(default=None, description="Largest body that is streamed through (files, audio).")
    max_buffered: Size = Field(
        default=512 * 1024**2, description="Memory for all held bodies together; beyond it calls get 503 overloaded."
    )
    max_connections: int = Field(default=10_000, ge=1, description="Client connections at a time; further ones wait.")
    backlog: int = Field(default=1024, ge=1, le=65535, description="Connections that the kernel queues before accept.")

    @model_validator(mode="after")
    def _one_listener(self) -> Server:
        if self.unix is not None and self.model_fields_set & {"host", "port"}:
            raise PydanticCustomError("config", "unix excludes host and port: listen on one of the two")
        return self


class Admin(Model):
    """The admin port: health, metrics, JSON API, dashboard."""

    enabled: bool = Field(default=True, description="Whether there is an admin port at all.")
    host: Text = Field(default="127.0.0.1", description="Address to bind. Off loopback a token is required.")
    port: Port = Field(default=8081, description="Port to bind; 0 takes a free one.")
    token: SecretText | None = Field(
        default=None,
        description="Bearer token for everything but /healthz, /readyz and /metrics. Required off loopback.",
    )
    hosts: tuple[Text, ...] = Field(default=(), description="Host names that clients may use, as for `server.hosts`.")
    tls: ServerTls | None = Field(default=None, description="Serve TLS with this certificate. Default: plain HTTP.")


class Log(Model):
    """What is written to the log. Never a body, never a secret."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is written."
    )
    format: Literal["auto", "json", "text"] = Field(
        default="auto", description="json: one object a line; text: for people; auto: text on a terminal, else json."
    )
    access: bool = Field(default=True, description="One line for each call.")
    file: FilePath | None = Field(default=None, description="File to append to. Default: standard error.")
