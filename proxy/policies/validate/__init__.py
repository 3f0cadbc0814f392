"""Shape and bounds of the JSON APIs: wrong requests end here with the field at fault, before they cost anything."""

from proxy.policies.validate.policy import Validate

__all__ = ["Validate"]
