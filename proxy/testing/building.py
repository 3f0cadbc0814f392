"""What a policy's unit test needs: its services, the policy itself, and an exchange to call its phases with."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.clock import Clock, FakeClock
from proxy.config.model import Config
from proxy.dialects.base import Dialect
from proxy.document import Document
from proxy.exchange import ANONYMOUS, Exchange, Principal, Priority, Request, Target
from proxy.services import Services

if TYPE_CHECKING:
    from proxy.policy import Policy

P = TypeVar("P", bound="Policy")

_PATHS = {
    "openai_chat": "/v1/chat/completions",
    "openai_completions": "/v1/completions",
    "openai_embeddings": "/v1/embeddings",
    "openai_responses": "/v1/responses",
    "anthropic_messages": "/v1/messages",
    "generic": "/v1/unknown",
}
CHAT: Mapping[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def services_builder(
    clock: Clock | None = None, config: Config | None = None, *, workers: int = 1, dry: bool = False
) -> Services:
    """Services with a still clock and a default configuration, unless others are given. No parts are offered:
    add those the policy asks for with ``services.offer``."""
    return Services(clock or FakeClock(), config or Config(), workers=workers, dry=dry)


def policy_builder(
    policy: type[P],
    options: Mapping[str, Any] | None = None,
    *,
    services: Services | None = None,
    label: str | None = None,
    observe: bool = False,
) -> P:
    """A policy with its options written as in YAML. Raises pydantic's ValidationError for wrong ones."""
    checked = policy.Options.model_validate(dict(options or {}))
    return policy(checked, services or services_builder(), label=label, observe=observe)


def dialect_named(name: str) -> Dialect:
    """The dialect of this name. Raises LookupError."""
    module = importlib.import_module(f"proxy.dialects.{name}")
    for found in vars(module).values():
        if isinstance(found, Dialect) and found.name == name:
            return found
        if isinstance(found, type) and issubclass(found, Dialect) and found.__module__ == module.__name__:
            return found()
    raise LookupError(f"proxy/dialects/{name}.py has no dialect called {name!r}")


def exchange_builder(
    body: Mapping[str, Any] | bytes | None = CHAT,
    *,
    dialect: str | Dialect | None = "openai_chat",
    method: str = "POST",
    path: str | None = None,
    headers: Mapping[str, str] | None = None,
    peer: str = "127.0.0.1",
    principal: Principal = ANONYMOUS,
    project: str | None = None,
    tags: Mapping[str, str] | None = None,
    priority: Priority = "normal",
    target: Target | None = None,
    clock: Clock | None = None,
    id: str = "test-exchange",  # noqa: A002 - the exchange's own word
) -> Exchange:
    """An exchange as the chain gets it: matched, read, nothing entered yet.

    body: a mapping is sent as JSON, bytes stand as they are, None is a call without a JSON body. path: may hold a
    query; its default follows from the dialect. headers: of the client, any case. project, tags and priority: what
    the client claims. target: default is upstream ``openai`` with the client's own model.
    """
    clock = clock or FakeClock()
    spoken = dialect_named(dialect) if isinstance(dialect, str) else dialect
    target_text = path or _PATHS.get(spoken.name if spoken else "generic", "/v1/unknown")
    raw_path, _, query = target_text.partition("?")
    raw = body if isinstance(body, bytes) or body is None else orjson.dumps(dict(body))
    sent: CIMultiDict[str] = CIMultiDict({"host": "127.0.0.1:8080"})
    if raw is not None:
        sent["content-type"] = "application/json"
        sent["content-length"] = str(len(raw))
    for name, value in (headers or {}).items():
        sent[name] = value
    request = Request(
        method,
        target_text,
        unquote(raw_path),
        raw_path,
        query,
        CIMultiDictProxy(sent),
        tuple((name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in sent.items()),
        peer,
    )
    if raw is not None:
        request.raw_body = raw
        request.body = Document(raw)
        request.content_length = len(raw)
    exchange = Exchange(id, request, clock.monotonic(), clock.now())
    exchange.dialect = spoken
    exchange.principal = principal
    exchange.project = project
    exchange.tags = dict(tags or {})
    exchange.priority = priority
    exchange.target = target or Target("openai")
    return exchange
