"""``cache``: the same question is paid for once. See ``policy.py`` for the way of a call."""

from proxy.policies.cache.policy import Cache

__all__ = ["Cache"]
