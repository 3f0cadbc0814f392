"""What is done with each thing found: mask, redact, hash, fake, block, flag."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from proxy.policies.pii.fake import fake
from proxy.policies.pii.found import Found
from proxy.policies.pii.vault import Vault

Action = Literal["mask", "redact", "hash", "fake", "block", "flag"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True, slots=True)
class Actions:
    """The action for each type. `default` for types that `by_type` does not name; `key` for hash and fake."""

    default: Action = "mask"
    by_type: Mapping[str, Action] = field(default_factory=dict)
    key: bytes = b""

    def of(self, kind: str) -> Action:
        """The action for a type."""
        return self.by_type.get(kind, self.default)

    @property
    def used(self) -> frozenset[Action]:
        """All actions that can occur."""
        return frozenset((self.default, *self.by_type.values()))

    def blocked(self, found: list[Found]) -> list[Found]:
        """Those of `found` for which the call must be refused."""
        return [one for one in found if self.of(one.type) == "block"]

    def apply(self, text: str, found: list[Found], vault: Vault) -> str:
        """The text with each found piece replaced as its action says; the same object if nothing is replaced."""
        parts: list[str] = []
        at = 0
        for one in found:
            action = self.of(one.type)
            if action in ("flag", "block"):
                continue
            value = text[one.start : one.end]
            parts.append(text[at : one.start])
            parts.append(self.replacement(action, one.type, value, vault))
            at = one.end
        if not parts:
            return text
        parts.append(text[at:])
        return "".join(parts)

    def replacement(self, action: Action, kind: str, value: str, vault: Vault) -> str:
        """What stands in for one value."""
        if action == "mask":
            return vault.placeholder(kind, value)
        if action == "hash":
            return f"[{kind}:{self.digest(kind, value)}]"
        if action == "fake":
            return fake(kind, value, self.key)
        return f"[{kind}]"

    def digest(self, kind: str, value: str) -> str:
        """HMAC-SHA-256 over type and value, 64 bits in hexadecimal: equal values, equal hashes."""
        message = kind.encode() + b"\0" + value.encode("utf-8", "surrogatepass")
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:16]
