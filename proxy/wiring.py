"""Which parts the core lends to policies, and how each is made when first asked for.

The only place that knows the parts' constructors; a policy asks ``services.get(name)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.services import Services


def offer_services(services: Services) -> None:
    """Offer every part that is built in. Nothing is imported before it is asked for."""
