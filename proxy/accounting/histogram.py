"""Costs in logarithmic buckets, so that percentiles over a month need a few hundred numbers and not a million rows.

Eight buckets for each doubling: a bucket is at most 12.5 % wide, its middle within 6.3 % of any cost in it. Integers
only: the bucket of a cost is its bit length and the three bits below its highest one.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["bucket_of", "middle_of", "percentile"]


def bucket_of(nano: int) -> int:
    """The bucket of a cost in nano-dollars; 1 for a call that cost nothing. 0 is kept for "not counted"."""
    if nano <= 0:
        return 1
    length = nano.bit_length()
    fraction = (nano >> (length - 4)) & 7 if length >= 4 else (nano << (4 - length)) & 7
    return length * 8 + fraction


def middle_of(bucket: int) -> int:
    """The cost in the middle of a bucket, in nano-dollars."""
    if bucket <= 1:
        return 0
    length, fraction = divmod(bucket, 8)
    if length <= 4:
        return (8 + fraction) >> (4 - length)
    step = 1 << (length - 4)
    return (8 + fraction) * step + (step - 1) // 2


def percentile(counts: Iterable[tuple[int, int]], share: float) -> int:
    """The cost below or at which ``share`` (0..1) of the calls lie; ``counts``: (bucket, calls), any order.

    The nearest-rank rule: the smallest bucket that brings the running count to ``share`` of all. 0 when there is none.
    """
    ordered = sorted(counts)
    total = sum(calls for _, calls in ordered)
    if not total:
        return 0
    rank = max(1, -(-int(share * total * 1_000_000) // 1_000_000))
    running = 0
    for bucket, calls in ordered:
        running += calls
        if running >= rank:
            return middle_of(bucket)
    return middle_of(ordered[-1][0])
