"""Counters that policies share: limits, cooldowns, notes, small maps, leases; in memory or in Redis."""

from proxy.state.interface import Alarm, State
from proxy.state.limits import (
    NEVER,
    Bucket,
    Claim,
    Claims,
    Counter,
    Grant,
    Limit,
    Refusal,
    Share,
    Slots,
    Usage,
    Window,
)
from proxy.state.memory import MemoryState
from proxy.state.open import open_state

__all__ = [
    "NEVER",
    "Alarm",
    "Bucket",
    "Claim",
    "Claims",
    "Counter",
    "Grant",
    "Limit",
    "MemoryState",
    "Refusal",
    "Share",
    "Slots",
    "State",
    "Usage",
    "Window",
    "open_state",
]
