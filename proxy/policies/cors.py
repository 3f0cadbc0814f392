"""The policy ``cors``: which web pages may call through this chain.

It only holds the options. The Origin of a call is checked before its body is read and before any policy runs, and
preflights are answered there too: see ``proxy.browser``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from proxy import browser
from proxy.config.base import Texts
from proxy.config.units import Duration
from proxy.policy import Policy, PolicyOptions

if TYPE_CHECKING:
    from proxy.services import Services


def _origins(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for value in values or ():
        scheme, _, rest = value.partition("://")
        whole = value in {"*", "null"}
        if not whole and (not scheme or not rest or "/" in rest or any(character.isspace() for character in value)):
            raise PydanticCustomError(
                "origin", "must be origins such as https://app.example.com, https://*.example.com or *, without a path"
            )
    return values


class CorsOptions(PolicyOptions):
    """Which pages may call, and what their scripts may send and read."""

    origins: Annotated[Texts | None, AfterValidator(_origins)] = Field(
        None,
        description="Origins of the pages that may call, such as https://app.example.com; `*` is any run of "
        "characters. An empty list: none. Default: pages of this machine on a loopback listener, none elsewhere.",
    )
    methods: Texts = Field(("GET", "POST", "DELETE", "OPTIONS"), description="Methods that their scripts may use.")
    headers: Texts = Field((), description="Request headers that they may set. Default: what the browser asks for.")
    expose: Texts = Field((), description="Answer headers that they may read, such as x-request-id.")
    max_age: Duration = Field(600.0, description="How long a browser may remember the answer to a preflight.")
    credentials: bool = Field(False, description="Whether browsers may send cookies; needs origins other than `*`.")

    @model_validator(mode="after")
    def _no_cookies_for_everyone(self) -> CorsOptions:
        if self.credentials and "*" in (self.origins or ()):
            raise PydanticCustomError("cors", "credentials needs origins that are listed: `*` would let every page in")
        return self


class Cors(Policy):
    """Holds what ``proxy.browser`` asks for, as ``cors``."""

    name: ClassVar[str] = "cors"
    Options = CorsOptions
    options: CorsOptions

    def __init__(
        self, options: CorsOptions, services: Services, *, label: str | None = None, observe: bool = False
    ) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self.cors = browser.Cors(
            options.origins,
            options.methods,
            options.headers,
            options.expose,
            int(options.max_age),
            options.credentials,
        )
