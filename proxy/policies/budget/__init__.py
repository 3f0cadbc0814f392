"""``budget``: no more than so much money, tokens or calls in a window."""

from proxy.policies.budget.options import BudgetOptions
from proxy.policies.budget.policy import Budget

__all__ = ["Budget", "BudgetOptions"]
