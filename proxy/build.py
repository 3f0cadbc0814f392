"""From a chain's entries in the configuration to the compiled chain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from proxy.chain import Chain, Step
from proxy.config.match import Match
from proxy.config.plain import plain
from proxy.config.problem import dotted
from proxy.match import compile_when, conditions
from proxy.policy import Policy, find

if TYPE_CHECKING:
    from proxy.config.model import ChainEntry
    from proxy.services import Services


class ChainError(ValueError):
    """A policy cannot work as it is configured; where it stands and what to do."""


def build_chain(name: str, entries: tuple[ChainEntry, ...], services: Services) -> Chain:
    """A chain from its entries; an entry with ``mode: off`` is not there. Its digest is of the policies that change
    what is asked and answered, below a split where there is one; its conditions are theirs. Raises ChainError."""
    steps: list[Step] = []
    digest = hashlib.blake2b(digest_size=16)
    matches: list[Match] = []
    for entry in entries:
        if entry.mode == "off":
            continue
        kind = find(entry.policy)
        try:
            policy = kind(
                entry.options,
                services,
                label=entry.name if entry.name != entry.policy else kind.name,
                observe=entry.mode == "observe",
            )
        except ValueError as error:
            raise ChainError(f"{entry.place}: {dotted(entry.path)}: {error}") from error
        closed = policy.protects if entry.on_error is None else entry.on_error == "closed"
        steps.append(Step(policy, closed, None if entry.when is None else compile_when(entry.when)))
        if policy.splits:
            digest = hashlib.blake2b(digest_size=16)  # what stands above is in the body already
            matches.clear()
        elif policy.edits_request or policy.edits_answer or policy.steers:
            said = f"{entry.policy}|{entry.mode}|{entry.when!r}|{plain(entry.options)}\n"
            digest.update(said.encode("utf-8", "surrogatepass"))
            matches += _matches((entry.when, entry.options))
    return Chain(name, steps, digest=digest.hexdigest(), conditions=conditions(matches))


def _matches(options: Any) -> Iterator[Match]:
    """The matches that stand somewhere in options."""
    if isinstance(options, Match):
        yield options
    elif isinstance(options, BaseModel):
        for name in type(options).model_fields:
            yield from _matches(getattr(options, name))
    elif isinstance(options, Mapping):
        yield from _matches(tuple(options.values()))
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _matches(value)


def overrides(policy: Any, phase: str) -> bool:
    """Whether a policy has a phase of its own."""
    return getattr(type(policy), phase) is not getattr(Policy, phase)


def cors_of(chain: Chain) -> Any:
    """What the chain's ``cors`` entry says, None without one."""
    policy = chain.find("cors")
    return None if policy is None else policy.cors  # type: ignore[attr-defined]
