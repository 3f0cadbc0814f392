"""From a file to a configuration that may run: loaded, its chains' orders checked, its limits divided among workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from proxy import order, trial
from proxy.config import ConfigError, Loaded, load
from proxy.config.load import Read
from proxy.config.problem import Problem
from proxy.policy import names, options_of
from proxy.workers import shares

__all__ = ["ConfigError", "load_config"]


def load_config(
    path: str | Path, *, overrides: Iterable[str] = (), env: Mapping[str, str] | None = None
) -> tuple[Loaded, list[Problem]]:
    """The configuration and its warnings. Raises ConfigError with every mistake."""
    loaded = load(path, overrides=overrides, env=env, resolve=options_of, names=names, further=_further)
    return loaded, [*loaded.warnings, *(loaded.problem(place, text) for place, text in order.warnings(loaded.config))]


def _further(read: Read) -> list[order.Found]:
    """What is wrong with what could be read, whatever else is. Policies are built only where something is: one that is
    served is built soon enough, and says it then."""
    found = list(order.of_chains(read.chains.values()))
    config = read.config
    if config is not None:
        found += shares.mistakes(config)
        if read.whole:
            found += order.between(config)
        if read.wrong or found:
            found += trial.mistakes(config, partly=True)
    return found
