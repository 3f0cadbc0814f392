"""``llm-sidecar check``: every mistake in the configuration, at once."""

from __future__ import annotations

from typing import Any

from proxy.cli import add_config_arguments, say
from proxy.config import ConfigError
from proxy.load import load_config


def add_parser(commands: Any) -> None:
    """It takes a configuration."""
    parser = commands.add_parser("check", help="find every mistake in the configuration")
    add_config_arguments(parser)


def run(args: Any) -> int:
    """Print every mistake (exit 1), or how much was found to be good (exit 0)."""
    try:
        loaded, warnings = load_config(args.config, overrides=args.overrides)
    except ConfigError as error:
        for problem in error.problems:
            print(problem)
        say(f"{len(error.problems)} mistake{'s' if len(error.problems) != 1 else ''}")
        return 1
    mistakes = _build(loaded)
    for warning in warnings:
        print(f"{warning} (warning)")
    for mistake in mistakes:
        print(mistake)
    if mistakes:
        return 1
    config = loaded.config
    say(
        f"good: {len(config.routes)} routes, {len(config.chains)} chains, {len(config.upstreams)} upstreams, "
        f"{sum(len(pool.keys) for pool in config.keys.values())} keys"
    )
    return 0


def _build(loaded: Any) -> list[str]:
    """Build every policy, so that what only a constructor can find is found too."""
    from proxy.clock import SystemClock  # noqa: PLC0415 - only here
    from proxy.services import Services  # noqa: PLC0415
    from proxy.snapshot import build_chain  # noqa: PLC0415
    from proxy.wiring import offer_services  # noqa: PLC0415

    services = Services(SystemClock(), loaded.config, dry=True)
    offer_services(services)
    services.offer("upstreams", lambda _: {})
    found: list[str] = []
    for name, entries in loaded.config.chains.items():
        for entry in entries:
            try:
                build_chain(name, (entry,), services)
            except Exception as error:
                found.append(f"{entry.place}: chains.{name}.{entry.policy}: {error}")
    return found
