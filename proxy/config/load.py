"""From a path to a checked configuration: read, override, type, build the chains, check what belongs together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from proxy.config import checks
from proxy.config.chains import Chains, Names, Resolve
from proxy.config.model import ChainEntry, Config
from proxy.config.overrides import apply
from proxy.config.problem import ConfigError, Place, Problem
from proxy.config.problem import Path as KeyPath
from proxy.config.source import UNRESOLVED, Sources
from proxy.config.tree import Mapping, Node, Scalar, find, place_of
from proxy.config.validate import validate

_PASSWORD = re.compile(r"(://[^/@\s:]*:)[^/\s]*@")

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*|file:[^}]*)\}|LLM_SIDECAR__\w+")
_HIDDEN = "**********"


@dataclass(frozen=True)
class Loaded:
    """A configuration that can be used, and where everything in it stands.

    `warnings` are things that are allowed and hardly meant. `sources` are the files that were read, secret files
    included: what a reload watches. `tree` is the merged source.
    """

    config: Config
    warnings: tuple[Problem, ...]
    sources: tuple[Path, ...]
    tree: Mapping

    def place(self, path: KeyPath) -> Place:
        """Where `path`, such as ("routes", 0, "chain"), was written; for what has its default, what would hold it."""
        return place_of(self.tree, path)

    def problem(self, path: KeyPath, message: str) -> Problem:
        """A problem at that place, for checks that are made later."""
        return Problem.at(self.place(path), path, message)

    def shown(self) -> dict[str, Any]:
        """The configuration with its defaults as plain values for people: no secret, and `${...}` as written."""
        dump = self.config.model_dump(mode="json", by_alias=True, exclude={"chains"})
        shown = {key: _mask(value, self.tree.items.get(key)) for key, value in dump.items()}
        chains = self.config.chains.items()
        return shown | {"chains": {name: [self._entry(entry) for entry in chain] for name, chain in chains}}

    def _entry(self, entry: ChainEntry) -> dict[str, Any]:
        options = entry.options.model_dump(mode="json", by_alias=True)
        if entry.when is not None:
            options["when"] = entry.when.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        options |= {"mode": entry.mode} if entry.mode != "enforce" else {}
        options |= {"name": entry.name} if entry.name != entry.policy else {}
        options |= {"on_error": entry.on_error} if entry.on_error else {}
        # An entry that came through `use` is hidden by the place where it was written.
        node = find(self.tree, entry.path)
        return {entry.policy: _mask(options, node if isinstance(node, Mapping) else None)}


def _mask(value: Any, node: Node | None) -> Any:
    if isinstance(node, Scalar) and node.origin is not None:
        # Text around a reference in a secret is a part of the secret.
        hidden = value == _HIDDEN and not _REFERENCE.fullmatch(node.origin)
        return value if hidden else _PASSWORD.sub(r"\1***@", node.origin)
    if isinstance(value, dict):
        below = node.items if isinstance(node, Mapping) else {}
        return {key: _mask(item, below.get(key)) for key, item in value.items()}
    if isinstance(value, list):
        items = [] if node is None or isinstance(node, Mapping | Scalar) else node.items
        return [_mask(item, items[index] if index < len(items) else None) for index, item in enumerate(value)]
    return _PASSWORD.sub(r"\1***@", value) if isinstance(value, str) else value


class Read(NamedTuple):
    """What could be read of a configuration, for checks that other parts of the program make. config: with its chains;
    None where a section is wrong or a value from outside is missing. whole: every entry of every chain could be read.
    wrong: mistakes were found."""

    chains: dict[str, tuple[ChainEntry, ...]]
    config: Config | None
    whole: bool
    wrong: bool


Further = Callable[[Read], Iterable[tuple[KeyPath, str]]]
"""Further mistakes: their paths, and what is wrong."""


def load(
    path: str | Path,
    *,
    overrides: Iterable[str] = (),
    env: MappingType[str, str] | None = None,
    resolve: Resolve,
    names: Names,
    further: Further | None = None,
) -> Loaded:
    """The configuration in a file, with what it includes, the environment and `--set` overrides (`server.port=9000`).

    `resolve` gives the options model of a policy, or None when there is no such policy; `names` the known policies;
    `further` what is wrong beyond what the sections can tell. Raises `ConfigError` with every mistake.
    """
    environment = os.environ if env is None else env
    problems: list[Problem] = []
    sources = Sources(environment, problems.append)
    tree = sources.load(Path(path))
    apply(tree, overrides, environment, problems.append)
    chains = Chains(tree, resolve, names, problems.append, complete=not sources.broken)
    entries = chains.build()
    config, found = validate(Config, _core(tree), (), tree, also=("chains",))
    problems += found
    if not sources.broken:
        problems += checks.mistakes(tree, chains.references)
    if config is not None:
        config = config.model_copy(update={"chains": entries})
    if further is not None:
        known = None if problems and _unresolved(tree) else config
        more = further(Read(entries, known, chains.whole and not sources.broken, bool(problems)))
        problems += [Problem.at(place_of(tree, at), at, text) for at, text in more]
    if problems or config is None:
        raise ConfigError(_sorted(problems, sources.read))
    warnings = (*sources.warnings, *checks.warnings(config, tree))
    return Loaded(config, warnings, tuple(sources.read), tree)


def _unresolved(node: Node) -> bool:
    """Whether a value that should come from outside has not come."""
    if isinstance(node, Scalar):
        return node.value == UNRESOLVED
    return any(map(_unresolved, node.items.values() if isinstance(node, Mapping) else node.items))


def _core(tree: Mapping) -> Mapping:
    """The tree without the chains and without sections that say nothing (all their lines commented out)."""
    core = Mapping(tree.place)
    for key, node in tree.items.items():
        empty = isinstance(node, Scalar) and node.value is None and not node.loose
        if key != "chains" and not empty:
            core.put(key, tree.keys[key], node)
    return core


def _sorted(problems: list[Problem], files: Iterable[Path]) -> list[Problem]:
    """By place: the files in the order in which they were read, then what was set from outside; none twice."""
    order = {str(file): number for number, file in enumerate(files)}
    unique = list(dict.fromkeys(problems))
    return sorted(unique, key=lambda problem: (order.get(problem.file, len(order)), problem.line, problem.column))
