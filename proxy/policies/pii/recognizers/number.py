"""Runs of digits with separators, offered to the types that are numbers.

One run such as `2024-01-05 555-123-4567 4111 1111 1111 1111` may hold several numbers, so the pattern takes the whole
run. Most are one number; the others are taken apart (`parts`). A judge sees one cut and says whether it is its.

A plain number is a candidate only if it may be a card's, or is dialled with 00: see `plain_number`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxy.policies.pii.recognizers.base import Examine, Recognizer
from proxy.policies.pii.recognizers.digits import (
    BETWEEN,
    DATE,
    LONGEST,
    MOST,
    SEPARATOR,
    Judge,
    Number,
    cut,
    form_of,
    is_none,
)
from proxy.policies.pii.recognizers.luhn import luhn
from proxy.policies.pii.recognizers.parts import is_worth_it, take_apart
from proxy.policies.pii.scan import Scan

_CARD: Final = rb"[2-6][0-9]{11}|8[12][0-9]{14}|9792[0-9]{12}|1800[0-9]{11}|0604[0-9]{8}"
"""How a card's number begins that is written without separators: see `credit_card.issuer`."""

Named = Callable[[Scan, int, int], bool]


def number(
    types: frozenset[str],
    judges: tuple[tuple[Judge, range], ...],
    named: Named | None,
    cards: Callable[[Scan, int], bool] | None,
    address: Examine | None,
) -> Recognizer:
    """The recognizer for all enabled number types; `judges` in the order in which they may claim a number, each with
    the counts of digits that it has to do with.

    `named`: whether words or a column's head name a run as a phone, for which any grouping goes; None if PHONE is off.
    `cards`: whether words or a column's head speak of a card; None if CREDIT_CARD is off.
    `address`: judges a dotted quad that stands among other numbers; None if IP_ADDRESS is off.
    """
    by_size = [tuple(judge for judge, sizes in judges if size in sizes) for size in range(MOST + 1)]

    def ask(scan: Scan, one: Number) -> bool:
        scan.work += 200
        if len(one.digits) > MOST:
            return False
        for judge in by_size[len(one.digits)]:  # noqa: SIM110 - a generator costs as much as a judge
            if judge(scan, one):
                return True
        return False

    def offer(scan: Scan, run: int, start: int, end: int) -> bool:
        scan.spend(200)
        return ask(scan, cut(scan, run, start, end))

    def examine(scan: Scan, start: int, end: int) -> int:
        text = scan.data[start:end]
        if end - start <= LONGEST:
            if text.isdigit() and text[:2] != b"00":
                # Without separators nothing but a card's number, or one that words name: see `plain_number`.
                if luhn(text):
                    ask(scan, Number(start, start, end, text, (end - start,), b""))
                return end
            form = form_of(text)
            scan.work += 40 + 10 * len(form.marks)
            if form.odd and is_none(text):
                return end
            if form.open:
                return examine(scan, start + 1, end)
            if form.quad and all(int(octet) < 256 for octet in text.split(b".")):
                return end  # an address: where those are wanted, they are candidates of their own
            date = DATE.match(text) if form.dated else None
            if date is not None and len(text) - date.end() < 7:
                return end
            if date is None:
                one = Number(start, start, end, text.translate(None, BETWEEN), form.shape, form.marks)
                if ask(scan, one):
                    return end
            if not form.parts:
                return end
            said = named is not None and named(scan, start, end)
            scan.work += 100
            if not said and not is_worth_it(text, form, lambda: cards is not None and cards(scan, start)):
                return end
        elif b" " in text or b"/" in text or b"\xa0" in text:
            said = named is not None and named(scan, start, end)
        else:
            return end
        take_apart(scan, start, text, named=said, offer=offer, address=address)
        return end

    more = rb"(?:" + SEPARATOR + rb"{0,3}[0-9])"
    gap = SEPARATOR + rb"{1,3}[0-9]"
    # Seven digits with a separator between, wherever it stands; or what may be a card, or dialled, without.
    starts = [rb"[0-9]{%d}" % n + gap + more + rb"{%d}" % (6 - n) for n in range(1, 7)]
    starts += [rb"[0-9]{7,}" + gap, rb"00[0-9]{8}"]
    if "CREDIT_CARD" in types:
        starts.append(_CARD)
    tail = more + rb"*\b"
    pattern = rb"(?:[+(]{1,2}[0-9]" + more + rb"{6}|\b(?:" + b"|".join(starts) + rb"))" + tail
    selector = rb"(?:[+(]{1,2}|\b)[0-9]" + more + rb"{6}"
    return Recognizer("number", types, pattern, b"0123456789+(", examine, selector, pure=True)
