"""``llm-sidecar version``."""

from __future__ import annotations

from typing import Any

from proxy import __version__


def add_parser(commands: Any) -> None:
    """It takes nothing."""
    parser = commands.add_parser("version", help="print the version")
    parser.add_argument("--config", "-c", default=None, help="ignored; every command takes it")


def run(args: Any) -> int:
    """Print the version."""
    print(__version__)
    return 0
