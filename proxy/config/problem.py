"""What is wrong with a configuration, where it stands, and what would be right.

A loader that stops at the first mistake costs its user one restart for each; so mistakes are collected as
`Problem` values and raised together as one `ConfigError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A point in a source. Lines and columns start at 1.

    `line` 0 means that the source has no lines: a flag (`--set server.port`), an environment variable, or a file
    that could not be read.
    """

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


def dotted(path: Sequence[str | int]) -> str:
    """The path as `--set` takes it: `routes.0.chain`; a segment that holds a dot stands in quotes."""
    return ".".join(f'"{segment}"' if "." in str(segment) else str(segment) for segment in path)


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake (or warning): `message` says what was wrong, what is allowed, and what may have been meant."""

    file: str
    line: int
    column: int
    path: str
    message: str

    @classmethod
    def at(cls, place: Place, path: Sequence[str | int], message: str) -> Problem:
        return cls(place.file, place.line, place.column, dotted(path), message)

    def __str__(self) -> str:
        where = str(Place(self.file, self.line, self.column))
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class ConfigError(Exception):
    """A configuration that cannot be used. `problems` holds every mistake found, in the order of the sources."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class PolicyLoadError(Exception):
    """The class of a policy that is named cannot be had; the message says why and what to do."""


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` when one of the known words is close to `word`, else nothing."""
    names = {str(name).lower(): str(name) for name in known}
    close = difflib.get_close_matches(str(word)[:80].lower(), names, n=1, cutoff=0.6)
    return f'; did you mean "{names[close[0]]}"?' if close else ""


def listing(known: Iterable[str], limit: int = 30) -> str:
    """The allowed words for a message, sorted; a long list is cut with a count of what was left out."""
    names = sorted(set(known))
    if len(names) > limit:
        return ", ".join(names[:limit]) + f" and {len(names) - limit} more"
    return ", ".join(names)
