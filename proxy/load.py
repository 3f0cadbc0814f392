"""From a file to a configuration that may run: loaded, its chains' orders checked, its limits divided among workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from proxy import order
from proxy.config import ConfigError, Loaded, load
from proxy.config.problem import Problem
from proxy.policy import names, options_of
from proxy.workers import shares


def load_config(
    path: str | Path, *, overrides: Iterable[str] = (), env: Mapping[str, str] | None = None
) -> tuple[Loaded, list[Problem]]:
    """The configuration and its warnings. Raises ConfigError with every mistake."""
    loaded = load(path, overrides=overrides, env=env, resolve=options_of, names=names)
    mistakes = [
        loaded.problem(place, text) for place, text in (*order.mistakes(loaded.config), *shares.mistakes(loaded.config))
    ]
    if mistakes:
        raise ConfigError(mistakes)
    return loaded, [*loaded.warnings, *(loaded.problem(place, text) for place, text in order.warnings(loaded.config))]
