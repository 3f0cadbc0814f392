"""The commands, one module each: ``add_parser(subparsers)`` says what it takes, ``run(args)`` does it.

Results go to stdout, talk goes to stderr. Exit codes: 0 done, 1 a check failed, 2 cannot do it as asked.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from proxy import __version__

COMMANDS: dict[str, str] = {
    "serve": "serve the configuration until stopped",
    "check": "find every mistake in the configuration",
    "explain": "show what would happen to a request, without sending it",
    "demo": "serve the embedded demo upstream alone",
    "pii": "find or mask personal data in texts",
    "keys": "generate, encrypt, rotate and list keys",
    "costs": "report what calls cost",
    "schema": "print the JSON Schema of the configuration",
    "version": "print the version",
}


def run(arguments: list[str]) -> int:
    """Run the command that ``arguments`` name."""
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="llm-sidecar",
        description="A proxy between your code and its language models: every call runs through a chain of policies.",
    )
    parser.add_argument("--version", action="version", version=f"llm-sidecar {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        if name == wanted:
            _module(name).add_parser(commands)
        else:
            commands.add_parser(name, help=text)
    args = parser.parse_args(arguments)
    try:
        code: int = _module(args.command).run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    return code


def default_config() -> str:
    """``config.yaml`` of this folder; where there is none, the one that was installed with the program, if it was."""
    if not Path("config.yaml").exists():
        installed = Path(sys.prefix) / "share" / "llm-sidecar" / "config.yaml"
        if installed.exists():
            return str(installed)
    return "config.yaml"


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config`` and ``--set``, as every command takes them."""
    parser.add_argument("--config", "-c", default=default_config(), metavar="FILE", help="configuration (%(default)s)")
    parser.add_argument(
        "--set",
        "-s",
        dest="overrides",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="set one value over the file, as server.port=9000; may be repeated",
    )


def _module(name: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"proxy.cli.{name}")


def say(text: str) -> None:
    """Talk: to stderr."""
    print(text, file=sys.stderr)
