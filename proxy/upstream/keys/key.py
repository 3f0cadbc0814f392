"""One provider key: what is configured of it, and what is known of its life."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal

from proxy.recent import Recent
from proxy.state import Claims, MemoryState, Slots, Window
from proxy.state.joint import Joint
from proxy.upstream.keys.ratelimit_headers import NOWHERE, Places

if TYPE_CHECKING:
    from proxy.config.keys import Key as KeyConfig
    from proxy.config.keys import KeyPool
    from proxy.upstream.keys.peers import Seat

Tier = Literal["free", "paid"]
QuotaWindow = str | float
"""hour, day, week or month of the calendar (UTC), or seconds."""

MOST_TASKS: Final = 50
"""Distinct tasks counted for a key; the client chooses their names."""


class Life:
    """What changes about a key while the process runs. Kept over reloads, found by the key's id.

    latency: moving average of seconds to the first byte, None when nothing recent is known.
    load: the used share of its tightest window, share: the same with its calls in flight; pace: its latency, 0 when
    unknown: what strategies compare. recent: calls and tokens of the last minute, if not all limits count them.
    figures: where in its answers the provider's own figures stand. silent_size, silent_until: answers of so many
    headers have none, until then.
    suspect: it was refused (401, 403); it has to prove itself with one call before it is used freely again.
    strikes, refusals: 429s and 401/403s in a row. switched: enabled or disabled by hand, None: as configured.
    """

    __slots__ = (
        "cooled_models", "corrected_at", "figures", "in_flight", "last_used", "last_used_at", "latency", "latency_at",
        "load", "pace", "probing", "recent", "refusals", "requests", "share", "silent_size", "silent_until", "strikes",
        "successes", "suspect", "switched", "tasks",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests = 0
        self.successes = 0
        self.in_flight = 0
        self.latency: float | None = None
        self.latency_at = 0.0
        self.last_used = 0
        self.last_used_at: float | None = None
        self.load = 0.0
        self.share = 0.0
        self.pace = 0.0
        self.corrected_at = -1.0
        self.figures: Places = NOWHERE
        self.silent_size = -1
        self.silent_until = 0.0
        self.strikes = 0
        self.refusals = 0
        self.suspect = False
        self.probing = False
        self.switched: bool | None = None
        self.cooled_models: dict[str, float] = {}
        self.tasks: dict[str, int] = {}
        self.recent = Recent(60)


class Key:
    """A key as configured, with the limits it brings. Its secret is read each time, since a mounted one may change."""

    __slots__ = (
        "cost_per_token", "enabled", "fixed", "header", "id", "joint", "life", "limited", "max_concurrent",
        "max_rpm", "max_tpm", "name", "off", "part_of_rpm", "part_of_slots", "part_of_tpm", "prefix",
        "priority", "quota_window", "rpm", "seats", "secret", "seed", "slots", "task_types", "tier",
        "tpm", "upstream", "weight",
    )  # fmt: skip

    def __init__(
        self,
        id: str,  # noqa: A002
        secret: str | Callable[[], str],
        *,
        upstream: str | None = None,
        max_rpm: int | None = None,
        max_tpm: int | None = None,
        max_concurrent: int | None = None,
        priority: int = 0,
        weight: float = 1.0,
        task_types: Iterable[str] = (),
        tier: Tier = "paid",
        enabled: bool = True,
        cost_per_token: float | None = None,
        header: str | None = None,
        prefix: str = "",
        quota_window: QuotaWindow = "day",
    ) -> None:
        """upstream: the endpoint this key is for, None: the target's own. header: what carries it, None: as there."""
        self.id = id
        self.secret = secret
        self.upstream = upstream
        self.max_rpm = max_rpm
        self.max_tpm = max_tpm
        self.max_concurrent = max_concurrent
        self.priority = priority
        self.weight = weight
        self.task_types = frozenset(task_types)
        self.tier = tier
        self.enabled = enabled
        self.cost_per_token = cost_per_token
        self.header = header
        self.prefix = prefix
        self.quota_window: QuotaWindow = quota_window
        self.name = f"key:{id}"
        self.off = f"key:{id}:switch"
        self.seed = hash_of(id)
        self.rpm = Window(f"key:{id}:rpm", max_rpm) if max_rpm else None
        self.tpm = Window(f"key:{id}:tpm", max_tpm) if max_tpm else None
        self.slots = Slots(f"key:{id}:slots", max_concurrent) if max_concurrent else None
        self.part_of_rpm = 1 / max_rpm if max_rpm else 0.0
        self.part_of_slots = 1 / max_concurrent if max_concurrent else 0.0
        self.part_of_tpm = 1 / max_tpm if max_tpm else 0.0
        self.limited = bool(max_rpm or max_tpm or max_concurrent)
        self.seats: tuple[Seat, ...] = ()
        """Where it stands among the peers that have to know when something about it changes."""
        self.fixed: Claims = tuple((limit, 1) for limit in (self.rpm, self.slots) if limit is not None)
        self.joint: Joint | None = None
        """Its limits in the hand of a ring that need not ask anybody else for them."""
        self.life = Life()

    @classmethod
    def from_config(cls, config: KeyConfig, pool: KeyPool | None = None) -> Key:
        """The key of a configuration entry; what it leaves open its pool says."""
        auth = config.auth
        return cls(
            config.id,
            config.secret.get_secret_value,
            upstream=config.upstream,
            max_rpm=config.max_rpm,
            max_tpm=config.max_tpm,
            max_concurrent=config.max_concurrent,
            priority=config.priority,
            weight=config.weight,
            task_types=config.task_types,
            tier=config.tier,
            enabled=config.enabled,
            cost_per_token=config.cost_per_token,
            header=auth.header if auth is not None else config.header,
            prefix=auth.prefix if auth is not None else "",
            quota_window=config.quota_window or (pool.quota_window if pool is not None else "day"),
        )

    def __repr__(self) -> str:
        return f"<Key {self.id}>"

    def reveal(self) -> str:
        """The secret itself, for the wire only."""
        secret = self.secret
        return secret if isinstance(secret, str) else secret()

    def hold_limits(self, state: MemoryState) -> None:
        """From now on this key has its limits in hand, as long as it lives."""
        if self.limited:
            self.joint = Joint(
                state,
                rates=() if self.rpm is None else (self.rpm,),
                slots=() if self.slots is None else (self.slots,),
                weighed=() if self.tpm is None else (self.tpm,),
            )

    @property
    def limits(self) -> tuple[Window | Slots, ...]:
        """Those that it has."""
        return tuple(limit for limit in (self.rpm, self.slots, self.tpm) if limit is not None)

    def claims(self, tokens: int) -> Claims:
        """What a call of so many tokens takes of this key's limits: (rpm, slots, tpm), those that it has."""
        return (*self.fixed, (self.tpm, tokens)) if self.tpm is not None else self.fixed

    def usage(self, sent: int, tokens: int) -> tuple[int, ...]:
        """What a call has used, in the order of `claims`."""
        if self.slots is None:
            if self.tpm is None:
                return (sent,)
            return (sent, tokens) if self.rpm is not None else (tokens,)
        actual = (0,) if self.rpm is None else (sent, 0)
        return actual if self.tpm is None else (*actual, tokens)


def hash_of(text: str) -> int:
    """64 bits of a text, the same in every process (Python's own hash is not)."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
