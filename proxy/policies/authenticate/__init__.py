"""Who calls: no questions asked, virtual keys, the client's own key, or a signed token."""

from proxy.policies.authenticate.policy import Authenticate

__all__ = ["Authenticate"]
