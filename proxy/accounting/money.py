"""Money as integers: one unit is a nano-dollar (10**-9 USD), so sums are exact and independent of their order.

A price stands as nano-dollars for a million units (``USD per million tokens`` times 10**9), a call is summed in that
scale without rounding and rounded once, half up, to whole nano-dollars. Nothing is rounded again later.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

__all__ = ["NANO", "PER_MILLION", "nano_from_usd", "round_millionths", "usd", "usd_bytes", "usd_text"]

NANO = 1_000_000_000
PER_MILLION = 1_000_000


def nano_from_usd(amount: Decimal | float | str) -> int:
    """Whole nano-dollars of ``amount`` USD, half up. A float counts as the digits it prints.

    Raises ``ValueError`` for what is no finite, non-negative number.
    """
    if isinstance(amount, bool):
        raise ValueError(f"{amount!r} is no amount of USD")
    try:
        value = Decimal(str(amount))
    except InvalidOperation:
        raise ValueError(f"{amount!r} is no amount of USD") from None
    if not value.is_finite() or value < 0:
        raise ValueError(f"{amount!r} is no amount of USD: it must be finite and not below zero")
    return int((value * NANO).to_integral_value(ROUND_HALF_UP))


def round_millionths(total: int) -> int:
    """Millionths of a nano-dollar as whole nano-dollars, half up (``total`` is not negative)."""
    return (total + PER_MILLION // 2) // PER_MILLION


def usd(nano: int) -> float:
    """USD for JSON and CSV: exact to the nano-dollar up to some four million dollars."""
    return nano / NANO


def usd_text(nano: int, *, places: int = 9) -> str:
    """USD as a plain decimal without exponent and without zeros at the end: ``0.0012``.

    A sum that is not zero but too small for ``places`` is shown as ``<0.0001``, never as zero.
    """
    if places == 9 and 0 <= nano < 1 << 53:  # a double holds it exactly
        return f"{nano / NANO:.9f}".rstrip("0").rstrip(".")
    step = 10 ** (9 - places)
    if nano and abs(nano) < step:
        return f"<{usd_text(step)}"
    sign = "-" if nano < 0 else ""
    whole, rest = divmod((abs(nano) + step // 2) // step, 10**places)
    digits = f"{rest:0{places}d}".rstrip("0") if places else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def usd_bytes(nano: int) -> bytes:
    """``usd_text`` of a call's cost (not negative), for a header of every answer."""
    if nano == 0:  # a hit
        return b"0"
    if 0 < nano < NANO:
        return (b"0.%09d" % nano).rstrip(b"0")
    return usd_text(nano).encode()
