"""What a client claims of its call in ``x-sidecar-*`` headers. ``authenticate`` settles it later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.exchange import Exchange, Priority

_PRIORITIES: Final[Mapping[str, Priority]] = {
    "critical": "critical",
    "high": "high",
    "normal": "normal",
    "background": "background",
}


def read_sidecar_headers(exchange: Exchange, headers: Mapping[str, str]) -> None:
    """What the client says of its call; ``authenticate`` settles it later."""
    tags = _text(headers, "x-sidecar-tags")
    if tags is not None:
        for part in tags[:2000].split(","):
            name, found, value = part.partition("=")
            if found and name.strip():
                exchange.tags[name.strip()[:60]] = value.strip()[:200]
    task = _text(headers, "x-sidecar-task")
    if task is not None and (said := task.strip()):
        exchange.tags["task"] = said[:100]
    project = _text(headers, "x-sidecar-project")
    if project is not None and (said := project.strip()):
        exchange.project = said[:100]
    priority = headers.get("x-sidecar-priority")
    if priority is not None:
        exchange.priority = _PRIORITIES.get(priority.strip().lower(), "normal")
    if headers.get("x-sidecar-debug") == "1":
        exchange.timings = {}


def _text(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value without bytes that are no text: what it says is written to logs and ledgers."""
    value = headers.get(name)
    return value if value is None or value.isascii() else value.encode("utf-8", "replace").decode()
