"""The policy ``validate``: refuses a request that no provider would accept, or that asks for more than is allowed.

Only fields that are understood are looked at; unknown fields, part types and APIs pass, and null counts as absent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from proxy.dialects import resolve
from proxy.errors import ProxyError
from proxy.policies.validate import checks, rules
from proxy.policies.validate.checks import MAX_NAME, Json
from proxy.policies.validate.limits import Limits
from proxy.policy import Policy

if TYPE_CHECKING:
    from proxy.exchange import Answer, Exchange


class Validate(Policy):
    """Checks shape and bounds of every request that a dialect understands."""

    name: ClassVar[str] = "validate"
    Options = Limits
    body_alone: ClassVar[bool] = True
    options: Limits

    def on_request(self, exchange: Exchange) -> Answer | None:
        try:
            self._check(exchange)
        except ProxyError as error:
            if not self.observe:
                raise
            exchange.note(self.label, f"would refuse: {error.message}")
        else:
            exchange.seen_through(self)
        return None

    def _check(self, exchange: Exchange) -> None:
        tree = exchange.tree
        if tree is None:
            self._without_body(exchange)
            return
        dialect = exchange.dialect
        name = dialect.name if dialect is not None else ""
        limits = self.options
        if rules.has_rules(name):
            model = tree.get("model")
            if type(model) is not str or not 0 < len(model) <= MAX_NAME:
                self._wrong_model(exchange, tree, name)
        chars = rules.check(name, tree, limits)
        most = limits.max_input_chars
        if most is not None and chars > most:
            raise ProxyError("invalid_value", f"The texts have {chars} characters; at most {most} are allowed.")
        # Counting tokens, under the same dialect, takes no bound.
        needs_bound = name == "anthropic_messages" and exchange.request.path.endswith("/messages")
        if needs_bound and tree.get("max_tokens") is None:
            checks.missing("max_tokens", "an integer")

    @staticmethod
    def _without_body(exchange: Exchange) -> None:
        """A JSON API called without JSON: nothing, or a form that nobody could inspect."""
        request = exchange.request
        dialect = resolve(request.method, request.path, "openai")
        if dialect is not None and rules.has_rules(dialect.name):
            raise ProxyError("invalid_json", "The body must be a JSON object, sent as application/json.")

    def _wrong_model(self, exchange: Exchange, tree: dict[str, Json], dialect: str) -> None:
        model = tree.get("model")
        if model is not None:
            checks.wrong("model", f"a string of 1 to {MAX_NAME} characters", model)
        # Azure has the model in the path, a route may set it, and a stored prompt brings its own.
        if exchange.model_asked or exchange.target.model or (dialect == "openai_responses" and tree.get("prompt")):
            return
        checks.missing("model", "the name of a model")
