"""What a recognizer reports, and the order in which reports win over each other."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

BARE = 1
"""A bare shape: nothing but the pattern speaks for it."""
CONTEXT = 2
"""A word before it, a JSON key, a column head or a label says what it is."""
PREFIX = 3
"""A prefix that only this kind of value carries (`ghp_`, `-----BEGIN`)."""
CHECKSUM = 4
"""A check digit, a hash or a structure that random text does not have."""

RANK_NAMES = {BARE: "bare", CONTEXT: "context", PREFIX: "prefix", CHECKSUM: "checksum"}

ENTITY_TYPES = (
    "EMAIL",
    "PHONE",
    "CREDIT_CARD",
    "IBAN",
    "US_SSN",
    "IP_ADDRESS",
    "MAC_ADDRESS",
    "CRYPTO",
    "PASSPORT",
    "DRIVER_LICENSE",
    "NATIONAL_ID",
    "TAX_ID",
    "BANK_ACCOUNT",
    "MEDICAL_ID",
    "DATE_OF_BIRTH",
    "DATE",
    "USERNAME",
    "PASSWORD",
    "SECRET",
    "JWT",
    "PRIVATE_KEY",
    "PERSON",
    "ADDRESS",
)
"""Every built-in entity type."""

NER_TYPES = ("PERSON", "LOCATION", "ORGANIZATION")
"""The types that a model from the `[ner]` extra adds."""

OFF_BY_DEFAULT = frozenset({"DATE"})
"""Types that `entities: all` leaves out; they have to be named."""


class Found(NamedTuple):
    """One piece of personal data in a text: `text[start:end]`, offsets in code points."""

    start: int
    end: int
    type: str
    rank: int


def resolve(found: list[Found]) -> list[Found]:
    """Drop overlaps: the better rank wins, then the longer span, then the earlier one. Sorted by start."""
    if len(found) < 2:
        return found
    found.sort()
    reach = -1
    for one in found:
        if one.start < reach:
            break
        reach = one.end
    else:
        return found
    # Each cluster of overlapping spans is settled on its own.
    kept: list[Found] = []
    cluster: list[Found] = []
    reach = -1
    for one in found:
        if one.start >= reach and cluster:
            kept.extend(_settle(cluster))
            cluster = []
        cluster.append(one)
        reach = max(reach, one.end)
    kept.extend(_settle(cluster))
    return kept


def _settle(cluster: list[Found]) -> list[Found]:
    if len(cluster) == 1:
        return cluster
    cluster.sort(key=lambda f: (-f.rank, f.start - f.end, f.start))
    kept: list[Found] = []
    starts: list[int] = []
    losers: list[Found] = []
    for one in cluster:
        at = bisect_left(starts, one.start)
        if (at and kept[at - 1].end > one.start) or (at < len(kept) and starts[at] < one.end):
            losers.append(one)
        else:
            kept.insert(at, one)
            starts.insert(at, one.start)
    # What does not fit beside the winners is cut down to its uncovered head and tail, so that nothing shows.
    for one in losers:
        if one.rank == BARE:
            continue
        behind = bisect_left(starts, one.end)
        first = bisect_left(starts, one.start)
        if first and kept[first - 1].end > one.start:
            first -= 1
        if one.end - kept[behind - 1].end > 3:
            kept.insert(behind, one._replace(start=kept[behind - 1].end))
            starts.insert(behind, kept[behind].start)
        if starts[first] - one.start > 3:
            kept.insert(first, one._replace(end=starts[first]))
            starts.insert(first, one.start)
    return kept
