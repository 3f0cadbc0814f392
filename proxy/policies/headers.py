"""The policy ``headers``: sets and removes headers, of the request going up and of the answer coming down."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from proxy.config.base import Texts
from proxy.match import any_glob
from proxy.policy import Policy, PolicyOptions, Stage

if TYPE_CHECKING:
    from proxy.exchange import Answer, Exchange
    from proxy.services import Services

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Written anew for every connection: setting one would break the framing of the call or go unheard.
_FRAMING: Final = frozenset(
    [
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)


def _settable(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or "*" in name:
            raise PydanticCustomError("header", '"{name}" is not a header name', {"name": name[:60]})
        if name.lower() in _FRAMING:
            raise PydanticCustomError(
                "header", '"{name}" belongs to the connection and cannot be set', {"name": name[:60]}
            )
        if not _VALUE.fullmatch(value):
            raise PydanticCustomError(
                "header", 'the value of "{name}" has characters that no header may have', {"name": name[:60]}
            )
    return {name.lower(): value.strip(" \t") for name, value in headers.items()}


def _removable(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _NAME.fullmatch(name):
            raise PydanticCustomError("header", '"{name}" is not a header name', {"name": name[:60]})
        if name.lower() in _FRAMING:
            raise PydanticCustomError(
                "header", '"{name}" belongs to the connection and cannot be removed', {"name": name[:60]}
            )
    return tuple(name.lower() for name in names)


Set = Annotated[dict[str, str], AfterValidator(_settable)]
Remove = Annotated[Texts, AfterValidator(_removable)]


class ResponseHeaders(PolicyOptions):
    """What happens to the headers of the answer."""

    set: Set = Field({}, repr=False, description="Headers to set, in place of those of the same name.")
    remove: Remove = Field((), description="Headers to remove; `*` is any run of characters. Removing comes first.")


class HeadersOptions(PolicyOptions):
    """What happens to the headers of a call."""

    set: Set = Field({}, repr=False, description="Request headers to set, in place of those of the same name.")
    remove: Remove = Field(
        (), description="Request headers to remove; `*` is any run of characters. Removing comes first."
    )
    response: ResponseHeaders = Field(
        default_factory=lambda: ResponseHeaders.model_validate({}),
        description="The same for the answer's headers.",
    )


class Headers(Policy):
    """Edits headers; bodies are not its business."""

    name: ClassVar[str] = "headers"
    Options = HeadersOptions
    reads_answer: ClassVar[bool] = False
    steers: ClassVar[bool] = True
    options: HeadersOptions

    def __init__(
        self, options: HeadersOptions, services: Services, *, label: str | None = None, observe: bool = False
    ) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self._set = tuple(options.set.items())
        self._remove, self._removes = _split(options.remove)
        answer = options.response
        self._answer_set = tuple(
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.set.items()
        )
        self._answer_removes = any_glob(answer.remove) if answer.remove else None
        self._edits_answer = bool(answer.set or answer.remove)

    def on_request(self, exchange: Exchange) -> Answer | None:
        request = exchange.request
        gone = [name for name in self._remove if name in request.headers]
        if self._removes is not None:
            gone += [low for name in request.headers if self._removes(low := name.lower()) and low not in _FRAMING]
        if self.observe:
            for name in gone:
                exchange.note(self.label, f"would remove {name}")
            for name, _ in self._set:
                exchange.note(self.label, f"would set {name}")
            return None
        for name in gone:
            request.remove_header(name)
        for name, value in self._set:
            request.set_header(name, value)
        if exchange.explain is not None:
            self._tell(exchange, gone)
        return None

    def _tell(self, exchange: Exchange, gone: list[str]) -> None:
        # Names only: values may be secrets.
        assert exchange.explain is not None
        for verb, names in (("removes", gone), ("sets", [name for name, _ in self._set])):
            if names:
                exchange.explain(self.label, f"{verb} {', '.join(names)}")

    def on_response(self, exchange: Exchange, answer: Answer) -> Answer | None:
        if self._edits_answer:
            self._edit(exchange, answer)
        return None

    def open_stream(self, exchange: Exchange, answer: Answer) -> Stage | None:
        if self._edits_answer:
            self._edit(exchange, answer)
        return None

    def _edit(self, exchange: Exchange, answer: Answer) -> None:
        removes = self._answer_removes
        if self.observe:
            exchange.note(self.label, "would edit the headers of the answer")
            return
        if removes is not None:
            answer.headers = [pair for pair in answer.headers if not removes(pair[0].lower().decode("latin-1"))]
        for name, value in self._answer_set:
            answer.set_header(name, value)


def _split(names: tuple[str, ...]) -> tuple[tuple[str, ...], Callable[[str], bool] | None]:
    """Exact names, and a test for the patterns among them."""
    patterns = [name for name in names if "*" in name]
    return tuple(name for name in names if "*" not in name), any_glob(patterns) if patterns else None
