"""``llm-sidecar schema``: the JSON Schema of the configuration, for editors."""

from __future__ import annotations

from typing import Any

from proxy.policy import names, options_of


def add_parser(commands: Any) -> None:
    """It takes nothing but an output file."""
    parser = commands.add_parser("schema", help="print the JSON Schema of the configuration")
    parser.add_argument("--config", "-c", default=None, help="ignored; every command takes it")


def run(args: Any) -> int:
    """Print the schema."""
    import json  # noqa: PLC0415 - only here

    from proxy.config.schema import schema  # noqa: PLC0415 - only here

    print(json.dumps(schema(options_of, names), indent=2))
    return 0
