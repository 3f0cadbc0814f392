"""``llm-sidecar pii scan --jsonl`` and ``llm-sidecar pii mask``: what the `pii` policy would find and send."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from proxy.policies.pii.actions import Actions
    from proxy.policies.pii.detector import Detector
    from proxy.policies.pii.options import PiiOptions

__all__ = ["add_parser", "mask", "run", "scan"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``pii`` with ``scan`` and ``mask`` to the command's sub-parsers; ``run`` takes what it parses."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "pii",
        help="find or mask personal data in texts",
        description='scan: one JSON line a text, {"text"} in, {"entities"} out. mask: text in, masked text out.',
    )
    parser.add_argument("what", choices=("scan", "mask"))
    parser.add_argument(
        "--file", action="append", default=[], dest="files", metavar="FILE", help="read this instead of standard input"
    )
    parser.add_argument("--jsonl", action="store_true", help="scan: one JSON object a line (the only format)")
    parser.add_argument("--config", "-c", default="", metavar="FILE", help="take the options of its first pii policy")
    parser.add_argument("--chain", default="", metavar="NAME", help="with --config: of the pii policy of this chain")
    parser.add_argument("--entities", default="all", metavar="TYPES", help="types separated by commas (default: all)")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="ENTRY", help="a value, a /pattern/ or documentation"
    )
    parser.add_argument(
        "--action", choices=("mask", "redact", "hash", "fake"), default="mask", help="mask: what to put (default: mask)"
    )
    parser.add_argument("--hash-key", default="", metavar="KEY", help="mask: key of hash and fake (default: random)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when every text was judged, 1 when some could not be, 2 for wrong arguments."""
    from proxy.config import ConfigError  # noqa: PLC0415
    from proxy.policies.pii.options import PiiOptions  # noqa: PLC0415 - other commands need no patterns
    from proxy.policies.pii.policy import actions_of, detector_of  # noqa: PLC0415

    try:
        options = (
            _configured(args.config, args.chain)
            if args.config
            else PiiOptions(
                entities="all" if args.entities == "all" else tuple(e for e in args.entities.split(",") if e),
                allow=tuple(args.allow),
                action=args.action,
                hash_key=args.hash_key or None,
            )
        )
        detector, actions = detector_of(options), actions_of(options)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except (ValueError, LookupError, OSError) as error:
        print(f"llm-sidecar pii: {error}", file=sys.stderr)
        return 2
    out = sys.stdout
    try:
        if args.what == "mask":
            masked, code = mask(_whole(args.files), detector, actions)
            out.write(masked)
            return code
        code = 0
        for line, good in scan(_lines(args.files), detector):
            out.write(line + "\n")
            code = code if good else 1
    except OSError as error:
        print(f"llm-sidecar pii: {error}", file=sys.stderr)
        return 2
    return code


def _configured(path: str, chain: str) -> PiiOptions:
    """The options of the first `pii` policy in a configuration. Raises ConfigError, LookupError."""
    from proxy.load import load_config  # noqa: PLC0415
    from proxy.policies.pii.options import PiiOptions  # noqa: PLC0415

    loaded, _ = load_config(path)
    for name, entries in loaded.config.chains.items():
        for entry in entries:
            if isinstance(entry.options, PiiOptions) and chain in ("", name):
                return entry.options
    raise LookupError(f"{path} has no pii policy" + (f" in a chain {chain!r}" if chain else ""))


def _lines(files: Iterable[str]) -> Iterator[bytes]:
    names = list(files)
    if not names:
        yield from sys.stdin.buffer
    for name in names:
        with Path(name).open("rb") as source:
            yield from source


def _whole(files: Iterable[str]) -> str:
    return b"".join(_lines(files)).decode("utf-8", "surrogateescape")


def scan(lines: Iterable[bytes], detector: Detector) -> Iterator[tuple[str, bool]]:
    """For each line ``{"text"}`` the line ``{"entities": [{"start", "end", "type", "rank"}]}`` and True.

    Offsets are code points. A line that is no such object, or a text that cannot be judged in linear work, gives
    ``{"entities": [], "error": ...}`` and False; an empty line has no entities. So lines in and out stay in step.
    """
    from proxy.policies.pii.found import RANK_NAMES  # noqa: PLC0415
    from proxy.policies.pii.scan import WorkExceededError  # noqa: PLC0415

    for number, line in enumerate(lines, 1):
        if not line.strip():
            yield '{"entities":[]}', True
            continue
        try:
            row = orjson.loads(line)
            text, key = row["text"], row.get("context")
            found = detector.detect(text, key if isinstance(key, str) else None)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            error = f"line {number} is not a JSON object with a text"
            print(f"llm-sidecar pii: {error}", file=sys.stderr)
            yield orjson.dumps({"entities": [], "error": error}).decode(), False
        except WorkExceededError as reason:
            print(f"llm-sidecar pii: line {number}: {reason}", file=sys.stderr)
            yield orjson.dumps({"entities": [], "error": str(reason)}).decode(), False
        else:
            rows = [{"start": f.start, "end": f.end, "type": f.type, "rank": RANK_NAMES[f.rank]} for f in found]
            yield orjson.dumps({"entities": rows}).decode(), True


def mask(text: str, detector: Detector, actions: Actions) -> tuple[str, int]:
    """The masked text and 0; ("", 1) if it cannot be judged in linear work: nothing unjudged is written."""
    from proxy.policies.pii.scan import WorkExceededError  # noqa: PLC0415
    from proxy.policies.pii.vault import Vault  # noqa: PLC0415

    try:
        found = detector.detect(text)
    except WorkExceededError as reason:
        print(f"llm-sidecar pii: {reason}", file=sys.stderr)
        return "", 1
    vault = Vault()
    vault.reserve(text, found, detector.types)
    return actions.apply(text, found, vault), 0
