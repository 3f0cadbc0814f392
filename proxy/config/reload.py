"""What a reload asks of the files: have they changed, and may what changed be taken over while the process runs?

The files are polled and not watched: stat of some ten files costs 0.1 ms a second in a thread, and works where
file events do not come (ConfigMap symlinks that are swapped, bind mounts, network file systems). A file counts as
changed when its content has changed, not its time; new YAML files beside the known ones count as well, since an
`include:` with `*` may take them in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from proxy.config.load import Loaded
from proxy.config.problem import Path as KeyPath
from proxy.config.problem import Problem

SUFFIXES: Final = (".yaml", ".yml")
MAX_FILES: Final = 500
"""Files that are looked at; a configuration reads 200 at most, secrets apart."""
MAX_BYTES: Final = 16 * 1024 * 1024

FIXED: Final[tuple[KeyPath, ...]] = (
    ("server", "host"),
    ("server", "port"),
    ("server", "unix"),
    ("server", "tls"),
    ("server", "workers"),
    ("server", "backlog"),
    ("server", "max_header"),
    ("admin", "enabled"),
    ("admin", "host"),
    ("admin", "port"),
    ("admin", "tls"),
    ("data",),
    ("ledger",),
)
"""What is bound or opened at the start: another value needs another process."""


def needs_restart(old: Loaded, new: Loaded) -> list[Problem]:
    """A problem for each setting that differs and cannot be taken over by a process that runs."""
    found: list[Problem] = []
    for path in FIXED:
        before, after = _value(old, path), _value(new, path)
        if before != after:
            shown = "" if path in (("ledger",), ("server", "tls"), ("admin", "tls")) else f" from {before} to {after}"
            found.append(
                new.problem(path, f"was changed{shown}; that needs a restart. Nothing of this reload was taken over")
            )
    return found


def _value(loaded: Loaded, path: KeyPath) -> object:
    value: object = loaded.config
    for name in path:
        value = getattr(value, str(name))
    return value


Picture = Mapping[Path, bytes]
"""The content of each file as a hash; empty for a file that cannot be read."""


class Files:
    """The files of a configuration. ``look`` blocks for the disk: call it in a thread."""

    def __init__(self, sources: Iterable[Path]) -> None:
        self.sources = tuple(sources)
        self._known: dict[Path, tuple[tuple[int, int, int], bytes]] = {}

    def look(self) -> Picture:
        """What the files hold now. Only what has another time, size or place than at the last look is read again."""
        known, self._known = self._known, {}
        return {path: self._hash(path, known) for path in self._all()}

    def _all(self) -> list[Path]:
        paths = dict.fromkeys(self.sources)
        for folder in dict.fromkeys(path.parent for path in self.sources if path.suffix in SUFFIXES):
            try:
                names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIXES))  # noqa: PTH208
            except OSError:
                continue
            paths.update(dict.fromkeys(folder / name for name in names))
        return list(paths)[:MAX_FILES]

    def _hash(self, path: Path, known: Mapping[Path, tuple[tuple[int, int, int], bytes]]) -> bytes:
        try:
            status = path.stat()
            if not path.is_file() or status.st_size > MAX_BYTES:
                return b""
            signature = (status.st_mtime_ns, status.st_size, status.st_ino)
            before = known.get(path)
            if before is not None and before[0] == signature:
                self._known[path] = before
                return before[1]
            digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        except OSError:
            return b""
        self._known[path] = (signature, digest)
        return digest
