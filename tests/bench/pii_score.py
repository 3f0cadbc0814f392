"""``make bench-pii``: quality on labelled texts, and speed on texts of several kinds.

    python tests/bench/pii_score.py [FILES...]        default: ../shared/pii/*.jsonl, or $PII_DATA

Each line of a file is {"text", "entities": [{"start", "end", "type"}]}, offsets in code points. Types are folded into
families (JWT, PRIVATE_KEY and PASSWORD count as SECRET). A prediction that touches only labels of other types is
neutral. Overlap: shares a character with a label of its family, one to one. Strict: same span and family.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed too

from proxy.policies.pii.detector import Detector
from proxy.policies.pii.scan import WorkExceededError
from proxy.policies.pii.vault import Vault

MEASURED = [
    "EMAIL",
    "PHONE",
    "CREDIT_CARD",
    "IBAN",
    "US_SSN",
    "IP_ADDRESS",
    "CRYPTO",
    "PASSPORT",
    "MEDICAL_ID",
    "DATE_OF_BIRTH",
    "SECRET",
]
REPORTED = ["PERSON", "ADDRESS", "MAC_ADDRESS", "NATIONAL_ID", "TAX_ID", "DRIVER_LICENSE", "BANK_ACCOUNT", "USERNAME"]
FAMILY = {"JWT": "SECRET", "PRIVATE_KEY": "SECRET", "PASSWORD": "SECRET"}
Span = tuple[int, int, str]


def rows_of(paths: list[Path]) -> list[tuple[str, list[Span]]]:
    rows = []
    for path in paths:
        for line in path.read_text("utf-8").splitlines():
            if line.strip():
                row = json.loads(line)
                spans = [(e["start"], e["end"], FAMILY.get(e["type"], e["type"])) for e in row["entities"]]
                rows.append((row["text"], spans))
    return rows


def pair(gold: list[Span], found: list[Span], fits: Callable[[Span, Span], bool]) -> tuple[set[int], set[int]]:
    """Indices of matched labels and predictions, largest overlap first."""
    pairs = sorted(
        (
            (min(g[1], p[1]) - max(g[0], p[0]), -i, -j)
            for i, g in enumerate(gold)
            for j, p in enumerate(found)
            if fits(g, p)
        ),
        reverse=True,
    )
    hit: set[int] = set()
    used: set[int] = set()
    for _, i, j in pairs:
        if -i not in hit and -j not in used:
            hit.add(-i)
            used.add(-j)
    return hit, used


def touches(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def f1(counts: list[int]) -> tuple[float, float, float]:
    hit, false, missed = counts
    precision = hit / (hit + false) if hit + false else 0.0
    recall = hit / (hit + missed) if hit + missed else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def quality(rows: list[tuple[str, list[Span]]], detector: Detector, types: list[str]) -> None:
    loose: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    strict: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    clean = alarmed = 0
    for text, labels in rows:
        gold = [g for g in labels if g[2] in types]
        other = [g for g in labels if g[2] not in types]
        all_found = {(f.start, f.end, FAMILY.get(f.type, f.type)) for f in detector.detect(text)}
        found = [
            p for p in sorted(all_found)
            if p[2] in types and (any(touches(g, p) for g in gold) or not any(touches(g, p) for g in other))
        ]  # fmt: skip
        if not labels:
            clean += 1
            alarmed += bool(found)
        for counts, fits in (
            (loose, lambda g, p: g[2] == p[2] and touches(g, p)),
            (strict, lambda g, p: g == p),
        ):
            hit, used = pair(gold, found, fits)
            for i, g in enumerate(gold):
                counts[g[2]][0 if i in hit else 2] += 1
            for j, p in enumerate(found):
                if j not in used and not (counts is loose and any(fits(g, p) for g in gold)):
                    counts[p[2]][1] += 1
    print(f"{'type':<16}{'labels':>7} | {'P':>6}{'R':>7}{'F1':>7} | strict {'P':>6}{'R':>7}{'F1':>7}")
    for name in [t for t in types if sum(loose[t])] + ["MICRO"]:
        a = [sum(c) for c in zip(*loose.values(), strict=True)] if name == "MICRO" else loose[name]
        b = [sum(c) for c in zip(*strict.values(), strict=True)] if name == "MICRO" else strict[name]
        x, y = f1(a), f1(b)
        print(
            f"{name:<16}{a[0] + a[2]:>7} | {x[0]:6.3f}{x[1]:7.3f}{x[2]:7.3f} |        {y[0]:6.3f}{y[1]:7.3f}{y[2]:7.3f}"
        )
    print(f"clean texts {clean}, with a false alarm {alarmed} ({alarmed / max(1, clean):.1%})\n")


def best_of(times: int, work: Callable[[], None]) -> float:
    best = 1e9
    for _ in range(times):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def speed(rows: list[tuple[str, list[Span]]], detector: Detector) -> None:
    rng = random.Random(7)
    words = [w for text, labels in rows if not labels and text.count(". ") > 4 for w in text.split()] or ["word"]
    texts = [text for text, _ in rows]

    def prose(size: int) -> str:
        return " ".join(rng.choice(words) for _ in range(size // 5))[:size]

    def mixed(share: float) -> str:
        out = ""
        while len(out) < 4096:
            out += (rng.choice(texts) if rng.random() < share else prose(rng.randint(100, 400))) + "\n"
        return out[:4096]

    kinds = {
        "clean prose": [prose(4096) for _ in range(200)],
        "mixed prompts": [mixed(0.35) for _ in range(200)],
        "entities only": [mixed(1.0) for _ in range(100)],
    }
    for name, some in kinds.items():
        size = sum(len(t.encode()) for t in some)
        seconds = best_of(5, lambda some=some: [detector.detect(t) for t in some] and None)  # type: ignore[misc]
        print(f"{name:<16}{size / seconds / 1e6:8.1f} MB/s  {seconds / len(some) * 1e6:7.0f} us a 4 kB text")
    for name, unit, size in (
        ("PEM headers", "-----BEGIN RSA PRIVATE KEY-----\n", 100_000),
        ("digits", "1234567890", 100_000),
        ("digits, spaces", "12 34 56 78 90 ", 100_000),
        ("@", "a@", 100_000),
        ("brackets", "[", 100_000),
        ("one letter", "a", 1_000_000),
        ("groups of four", "4111 1111 ", 100_000),
        ("dob", "dob ", 100_000),
        ("password", "password: ", 100_000),
        ("titles", "Mr. A ", 100_000),
        ("+1", "+1 ", 100_000),
        ("IBAN DE", "IBAN DE89 3704 0044 ", 100_000),
        ("sk-", "sk-", 100_000),
        ("eyJ", "eyJhbGciOi.", 100_000),
        ("api_key", "api_key=abcdef", 100_000),
        ("zeros", "0000 ", 100_000),
        ("mails", "a@b.co ", 100_000),
    ):
        text = unit * (size // len(unit))

        def hostile(text: str = text) -> None:
            try:
                detector.detect(text)
            except WorkExceededError:
                return

        print(f"hostile: {name:<16}{best_of(3, hostile) * 1e3:8.1f} ms")
    vault = Vault()
    vault.placeholder("EMAIL", "ann@x.io")
    restorer = vault.restorer()
    pieces = [" the", " quick", " <EM", "AIL_1>", ",", " and", " so", " it", " goes", "."] * 1000
    seconds = best_of(5, lambda: [restorer.feed(p) for p in pieces] and None)
    print(f"restore: {seconds / len(pieces) * 1e6:8.2f} us a stream piece")


def main() -> int:
    given = [Path(a) for a in sys.argv[1:]]
    folder = Path(os.environ.get("PII_DATA", Path(__file__).resolve().parents[3] / "shared" / "pii"))
    paths = given or sorted(folder.glob("*.jsonl"))
    if not paths:
        print(f"no data in {folder}; name files or set PII_DATA", file=sys.stderr)
        return 2
    rows = rows_of(paths)
    detector = Detector()
    quality(rows, detector, MEASURED)
    quality(rows, detector, REPORTED)
    speed(rows, detector)
    return 0


if __name__ == "__main__":
    sys.exit(main())
