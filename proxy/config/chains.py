"""`chains:` from the tree to entries with typed options.

An entry is `name`, `{name: options}` or `{use: chain}`, which is replaced by that chain's entries. The options common
to all policies (`when`, `mode`, `name`, `on_error`) are taken out before the policy's own model sees the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pydantic import BaseModel

from proxy.config.compose import Report
from proxy.config.fields import fields_of, references
from proxy.config.model import ChainEntry, Common
from proxy.config.problem import Path, Place, PolicyLoadError, Problem, listing, suggest
from proxy.config.source import UNRESOLVED
from proxy.config.tree import Mapping, Node, Scalar, Sequence
from proxy.config.validate import shape, unknown_key, validate

Resolve = Callable[[str], type[BaseModel] | None]
Names = Callable[[], Iterable[str]]

COMMON = ("mode", "name", "on_error", "when")
MAX_ENTRIES = 500
_FORM = "must be a policy's name, {name: options} or {use: chain}"


class Reference(NamedTuple):
    """A text that names an entry of another section."""

    path: Path
    kind: str
    node: Scalar


class _Use(NamedTuple):
    chain: str
    place: Place
    path: Path


class Chains:
    """Reads every chain of a tree; `references` are the names that policies' options hold; `whole` says whether every
    entry could be read."""

    def __init__(self, root: Mapping, resolve: Resolve, names: Names, report: Report, *, complete: bool) -> None:
        self.root = root
        self.resolve = resolve
        self.names = names
        self.report = report
        self.complete = complete
        self.references: list[Reference] = []
        self.whole = True
        self._entries: dict[str, list[ChainEntry | _Use]] = {}

    def build(self) -> dict[str, tuple[ChainEntry, ...]]:
        section = self.root.items.get("chains")
        if section is None or (isinstance(section, Scalar) and section.value is None):
            return {}
        if not isinstance(section, Mapping):
            self.whole = False
            self._wrong(("chains",), section.place, f"must be a map (key: value), not {shape(section)}")
            return {}
        for name, node in section.items.items():
            self._entries[name] = self._read(name, node)
        return {name: self._flat(name) for name in self._entries}

    def _wrong(self, path: Path, place: Place, message: str) -> None:
        self.report(Problem.at(place, path, message))

    def _read(self, chain: str, node: Node) -> list[ChainEntry | _Use]:
        if not isinstance(node, Sequence):
            said = f"must be a list of policies, not {shape(node)}; [] is a plain forward"
            self.whole = False
            self._wrong(("chains", chain), node.place, said)
            return []
        entries: list[ChainEntry | _Use] = []
        named: dict[str, Place] = {}
        for index, item in enumerate(node.items):
            entry = self._entry(("chains", chain, index), item)
            if entry is None:
                self.whole = False
                continue
            entries.append(entry)
            if isinstance(entry, ChainEntry) and entry.name != entry.policy:
                first = named.setdefault(entry.name, entry.place)
                if first is not entry.place:
                    said = f'the name "{entry.name}" is already taken in this chain, in {first}'
                    self._wrong((*entry.path, "name"), entry.place, said)
        return entries

    def _entry(self, path: Path, item: Node) -> ChainEntry | _Use | None:
        if isinstance(item, Scalar):
            if not isinstance(item.value, str) or not item.value:
                self._wrong(path, item.place, f"{_FORM}, not {shape(item)}")
                return None
            return self._policy(item.value, item.place, path, Mapping(item.place), item)
        if isinstance(item, Sequence) or len(item.items) != 1:
            self._wrong(path, item.place, self._malformed(item))
            return None
        key, options = next(iter(item.items.items()))
        place = item.keys[key]
        path = (*path, key)
        if key == "use":
            if not isinstance(options, Scalar) or not isinstance(options.value, str):
                self._wrong(path, options.place, "must be the name of a chain")
                return None
            return None if options.value == UNRESOLVED else _Use(options.value, options.place, path)
        if isinstance(options, Scalar) and options.value is None:
            options = Mapping(place)
        if not isinstance(options, Mapping):
            if not (isinstance(options, Scalar) and options.value == UNRESOLVED):
                said = f"the options of {key} must be a map (key: value), not {shape(options)}"
                self._wrong(path, options.place, said)
            return None
        return self._policy(key, place, path, options, None)

    def _malformed(self, item: Sequence | Mapping) -> str:
        if isinstance(item, Sequence):
            return f"{_FORM}, not a list"
        if not item.items:
            return f"{_FORM}, not an empty map"
        first, *rest = item.items
        below = item.items[first]
        if isinstance(below, Scalar) and below.value is None:
            return f"the options of {first[:60]} must be indented further than its name: {listing(rest)[:200]}"
        return f"an entry is one policy, here are {listing(item.items)[:200]}; options stand below the policy's name"

    def _policy(
        self, policy: str, place: Place, path: Path, options: Mapping, bare: Scalar | None
    ) -> ChainEntry | None:
        if policy == UNRESOLVED:
            return None
        model = self._model(policy, place, path, hidden=bare.origin if bare else None)
        # The common options are checked even when the policy is unknown: all mistakes at once.
        shared, own = Mapping(options.place), Mapping(options.place)
        for key, node in options.items.items():
            (shared if key in COMMON else own).put(key, options.keys[key], node)
        common, mistakes = validate(Common, shared, path, self.root)
        for mistake in mistakes:
            self.report(mistake)
        if model is None:
            return None
        built, mistakes = validate(model, own, path, self.root, also=COMMON)
        if model.model_config.get("extra") not in {"allow", "forbid"}:
            # An outsider's model that would pass over a misspelt option in silence.
            known = list(fields_of(model))
            for key in own.items:
                if key not in known:
                    self._wrong((*path, key), own.keys[key], unknown_key(key, [*known, *COMMON]))
        for mistake in mistakes:
            self.report(mistake)
        self.references += [Reference((*path, *at), kind, node) for at, kind, node in references(model, own)]
        if built is None or common is None:
            return None
        return ChainEntry(
            policy=policy,
            options=built,
            when=common.when,
            mode=common.mode,
            name=common.name or policy,
            on_error=common.on_error,
            place=place,
            path=path,
        )

    def _model(self, policy: str, place: Place, path: Path, *, hidden: str | None) -> type[BaseModel] | None:
        try:
            model = self.resolve(policy)
        except Exception as error:
            kind = "" if isinstance(error, PolicyLoadError) else f"{type(error).__name__}: "
            said = f"the policy {hidden or policy[:100]} cannot be loaded: {kind}{str(error)[:300]}"
            self._wrong(path, place, said)
            return None
        if model is None:
            known = list(self.names())
            meant = "" if hidden else suggest(policy, [*known, "use"])
            said = f'unknown policy "{hidden or policy[:60]}"{meant}; allowed: {listing(known, 60)}'
            self._wrong(path, place, said)
        return model

    def _flat(self, name: str) -> tuple[ChainEntry, ...]:
        flat: list[ChainEntry] = []
        self._splice(name, [name], flat)
        if len(flat) > MAX_ENTRIES:
            place = self.root.place
            self._wrong(("chains", name), place, f"more than {MAX_ENTRIES} policies, those of use: counted")
        return tuple(flat)

    def _splice(self, name: str, stack: list[str], flat: list[ChainEntry]) -> None:
        for entry in self._entries[name]:
            if len(flat) > MAX_ENTRIES:
                return
            if isinstance(entry, ChainEntry):
                flat.append(entry)
            elif entry.chain in stack:
                # Each circle is reported once for each chain in it, at the entry that closes it.
                if entry.chain == stack[0]:
                    said = "chains use one another in a circle: " + " -> ".join([*stack, entry.chain])
                    self._wrong(entry.path, entry.place, said)
            elif entry.chain in self._entries:
                self._splice(entry.chain, [*stack, entry.chain], flat)
            else:
                self.whole = False
                if len(stack) > 1 or not self.complete:
                    continue
                said = f'there is no chain "{entry.chain[:60]}"{suggest(entry.chain, self._entries)}'
                self._wrong(entry.path, entry.place, f"{said}; allowed: {listing(self._entries) or 'none is defined'}")
