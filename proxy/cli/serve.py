"""``llm-sidecar serve``: run the proxy until it is told to stop."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.cli import add_config_arguments, say
from proxy.config import ConfigError
from proxy.load import load_config

if TYPE_CHECKING:
    from proxy.app import App


def add_parser(commands: Any) -> None:
    """It takes a configuration."""
    parser = commands.add_parser("serve", help="serve the configuration until stopped")
    add_config_arguments(parser)


def run(args: Any) -> int:
    """Serve. Exit 0 after a signal, 2 when it cannot start."""
    try:
        loaded, warnings = load_config(args.config, overrides=args.overrides)
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem))
        return 2
    if loaded.config.server.workers > 1:
        from proxy.workers import supervise  # noqa: PLC0415 - only for several workers

        return supervise(loaded, args, greet)
    import uvloop  # noqa: PLC0415 - after the configuration is known to be good

    from proxy.app import App, StartError  # noqa: PLC0415

    again = partial(load_config, args.config, overrides=args.overrides)
    file = Path(args.config).is_file()  # a pipe cannot be read again

    async def main() -> int:
        return await App(loaded, warnings, load=again if file else None).run(greet)

    try:
        return uvloop.run(main())
    except StartError as error:
        say(str(error))
        return 2


def greet(app: App) -> None:
    """On a terminal: where it listens, which upstreams it uses, and the two lines to try it."""
    if not sys.stderr.isatty():
        return
    url = app.where[0] if app.where else ""
    base = url if url.startswith("unix:") else f"{url}/v1"
    routes = [route for route in app.config.routes if route.enabled]
    used = list(dict.fromkeys(route.upstream for route in routes))
    lines = ["", f"  llm-sidecar listens on {url}" + (f", admin on {app.admin_url}" if app.admin_url else "")]
    for name in used:
        upstream = app.config.upstreams[name]
        what = "embedded demo, answers without a provider" if upstream.api == "demo" else upstream.base_url
        lines.append(f"  upstream {name}: {what}")
    lines += ["", "  try it:", f"    export OPENAI_BASE_URL={base}"]
    curl = "--unix-socket " + url.removeprefix("unix:") + " http://localhost" if url.startswith("unix:") else url
    lines.append(
        f"    curl -s {curl}/v1/chat/completions -H 'content-type: application/json' "
        """-d '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}'"""
    )
    say("\n".join([*lines, "", "  Ctrl-C stops it", ""]))
