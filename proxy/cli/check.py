"""``llm-sidecar check``: every mistake in the configuration, at once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from proxy import trial
from proxy.cli import add_config_arguments, say
from proxy.config import ConfigError
from proxy.load import load_config

if TYPE_CHECKING:
    from proxy.config.model import Config


def add_parser(commands: Any) -> None:
    """It takes a configuration."""
    parser = commands.add_parser("check", help="find every mistake in the configuration")
    parser.add_argument(
        "--live", action="store_true", help="also try each key and model against its provider; costs no tokens"
    )
    add_config_arguments(parser)


def run(args: Any) -> int:
    """Print every mistake (exit 1), or how much was found to be good (exit 0)."""
    try:
        loaded, warnings = load_config(args.config, overrides=args.overrides)
    except ConfigError as error:
        for problem in error.problems:
            print(problem)
        say(counted(len(error.problems)))
        return 1
    mistakes = dict.fromkeys(str(loaded.problem(place, text)) for place, text in trial.mistakes(loaded.config))
    for warning in warnings:
        print(f"{warning} (warning)")
    for mistake in mistakes:
        print(mistake)
    if mistakes:
        say(counted(len(mistakes)))
        return 1
    config = loaded.config
    if args.live and not _live(config):
        return 1
    say(
        f"good: {len(config.routes)} routes, {len(config.chains)} chains, {len(config.upstreams)} upstreams, "
        f"{sum(len(pool.keys) for pool in config.keys.values())} keys"
    )
    return 0


def counted(mistakes: int) -> str:
    """How many there are."""
    return f"{mistakes} mistake{'s' if mistakes != 1 else ''}"


def _live(config: Config) -> bool:
    """A table of what each provider said; whether all is well."""
    import asyncio  # noqa: PLC0415 - only here

    from proxy.cli.table import table  # noqa: PLC0415
    from proxy.upstream.live import try_all  # noqa: PLC0415

    shows = sys.stderr.isatty()

    def progress(done: int, every: int) -> None:
        print(f"\r{done} of {every} tried", end="\n" if done == every else "", file=sys.stderr, flush=True)

    found = asyncio.run(try_all(config, progress if shows else None))
    words = {True: "yes", False: "NO", None: "?"}
    rows = [
        (
            one.upstream,
            one.key,
            one.model,
            words[one.reachable],
            words[one.authorised],
            "-" if one.model is None else words[one.available],
            None if one.latency is None else f"{one.latency * 1000:.0f} ms",
            one.note,
        )
        for one in found
    ]
    print(table(("upstream", "key", "model", "reachable", "authorised", "available", "latency", "note"), rows))
    bad = sum(one.bad for one in found)
    if bad:
        say(f"{bad} of {len(found)} would fail")
    return not bad
