"""What a call gets when it asks for a key: the key for one attempt, or why there is none."""

from typing import TYPE_CHECKING, Literal, final

from proxy.state import Grant
from proxy.state.joint import Joint
from proxy.upstream.keys.key import Key

if TYPE_CHECKING:
    from proxy.upstream.keys.ring import KeyRing


@final
class NoKey:
    """No key can serve the call now. False in a condition.

    retry_after: seconds until one may, `NEVER` when waiting will not help. why: for the caller, without secrets.
    """

    __slots__ = ("retry_after", "why")

    def __init__(self, retry_after: float, why: str) -> None:
        self.retry_after = retry_after
        self.why = why

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return f"NoKey({self.why}, {self.retry_after:g}s)"


@final
class KeyLease:
    """A key taken for one attempt. Ends exactly once, by `KeyRing.end`; a second time does nothing.

    joint or grant: where its limits were reserved; neither for a key without limits. stamp: when, monotonic seconds.

    The ring fills it in: a constructor of nine arguments would be a tenth of a microsecond more, for every call.
    """

    __slots__ = ("grant", "joint", "key", "model", "open", "ring", "stamp", "task", "tokens")

    ring: "KeyRing"
    key: Key
    joint: Joint | None
    grant: Grant | None
    tokens: int
    task: str | None
    model: str | None
    stamp: float
    open: bool

    def __repr__(self) -> str:
        return f"<KeyLease {self.key.id} {self.tokens} tokens{'' if self.open else ' ended'}>"
