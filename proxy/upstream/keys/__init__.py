"""Provider keys: pools, the choice of one, limits and health."""

from proxy.upstream.keys.key import Key, Life
from proxy.upstream.keys.lease import KeyLease, NoKey
from proxy.upstream.keys.ring import KeyRing
from proxy.upstream.keys.rings import KeyRings, rings_for
from proxy.upstream.keys.strategies import STRATEGIES

__all__ = ["STRATEGIES", "Key", "KeyLease", "KeyRing", "KeyRings", "Life", "NoKey", "rings_for"]
