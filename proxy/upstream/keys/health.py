"""What takes a key out, and what brings it back.

| reason | until |
|---|---|
| 429 | its Retry-After (the later deadline wins), else 1 s doubling to 60 s; for the model, and for the whole key \
when a second model meets it |
| 401, 403 | a minute, doubling to an hour; then one call probes it |
| 402, quota spent | Retry-After, else the end of the key's quota window |
| the provider's own figures | its reset; kept in the key's windows, or as a cooldown when the key has none |
| disabled | enabled again |

All of it lives in `state`, so that replicas share it; what a replica counts for itself is in the key's `Life`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from proxy.clock import Clock
from proxy.state import NEVER, State
from proxy.upstream.keys import ratelimit_headers
from proxy.upstream.keys.key import Key

FIRST_STRIKE: Final = 1.0
MOST_STRIKE: Final = 60.0
FIRST_REFUSAL: Final = 60.0
MOST_REFUSAL: Final = 3600.0
CORRECT_EVERY: Final = 0.1
"""Seconds between two looks at figures that are far from zero."""
SILENT_FOR: Final = 1.0
"""Seconds for which answers with as many headers as one without figures are taken to have none either."""
SWITCHED_FOR: Final = 365 * 86400.0


def enabled(key: Key) -> bool:
    """As configured, unless switched by hand."""
    return key.enabled if key.life.switched is None else key.life.switched


class Health:
    """See the module. Seconds throughout."""

    def __init__(self, state: State, clock: Clock) -> None:
        self.state = state
        self.clock = clock

    def out(self, key: Key, model: str | None) -> float:
        """Seconds until the key may be used again apart from its own limits: 0 now, `NEVER` while it is disabled."""
        life = key.life
        if not enabled(key):
            return NEVER
        state = self.state
        left = state.cooling(key.name)
        if model is not None:
            left = max(left, state.cooling(f"{key.name}|{model}"))
        if left <= 0 and life.suspect and life.probing:
            return 1.0  # its one trial is on its way
        return left

    def failed(
        self,
        key: Key,
        model: str | None,
        failure: str,
        status: int | None,
        retry_after: float | None,
    ) -> None:
        """A failure that says something about the key; all others change nothing."""
        life = key.life
        if failure == "rate_limited":
            life.strikes += 1
            if retry_after is None:
                retry_after = min(MOST_STRIKE, FIRST_STRIKE * 2 ** min(life.strikes - 1, 10))
            self._limited(key, model, retry_after)
        elif failure == "auth":
            life.refusals += 1
            seconds = min(MOST_REFUSAL, FIRST_REFUSAL * 2 ** min(life.refusals - 1, 10))
            life.suspect = True
            self.state.cool(key.name, max(seconds, retry_after or 0.0), f"refused by the provider ({status or 'auth'})")
        elif failure == "quota":
            seconds = retry_after if retry_after is not None else self._quota_ends(key)
            self.state.cool(key.name, max(1.0, seconds), "quota is spent")

    def _limited(self, key: Key, model: str | None, seconds: float) -> None:
        if seconds <= 0:
            return
        why = "rate limited by the provider (429)"
        if model is None:
            self.state.cool(key.name, seconds, why)
            return
        now = self.clock.monotonic()
        cooled = key.life.cooled_models
        for name in [name for name, until in cooled.items() if until <= now]:
            del cooled[name]
        cooled[model] = max(cooled.get(model, 0.0), now + seconds)
        # Most providers limit each model apart; a second model that meets the limit shows one that does not.
        self.state.cool(key.name if len(cooled) > 1 else f"{key.name}|{model}", seconds, why)

    def _quota_ends(self, key: Key) -> float:
        """Seconds to the end of the running hour, day, week or month, UTC; or as many as the key says."""
        window = key.quota_window
        if not isinstance(window, str):
            return window
        now = datetime.fromtimestamp(self.clock.now(), UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if window == "hour":
            end = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        elif window == "week":
            end = midnight + timedelta(days=7 - now.weekday())
        elif window == "month":
            end = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
        else:
            end = midnight + timedelta(days=1)
        return (end - now).total_seconds()

    def correct(self, key: Key, headers: Sequence[tuple[bytes, bytes]], now: float) -> None:
        """The provider has seen more of a key than we have: other users of the same account. now: monotonic."""
        life = key.life
        if now - life.corrected_at < CORRECT_EVERY and ratelimit_headers.plenty(headers, life.figures):
            return
        places = life.figures = ratelimit_headers.remainders(headers, life.figures)
        if not places[1]:
            # Most providers never say a word of it, and looking at a dozen names is more than the rest of a call's end.
            life.silent_size, life.silent_until = len(headers), now + SILENT_FOR
            return
        life.silent_size = -1
        life.corrected_at = now
        told = ratelimit_headers.parse(headers, self.clock.now())
        if told is None:
            return
        for room, window in zip(told, (key.rpm, key.tpm), strict=True):
            if room.remaining is None:
                continue
            reset = 60.0 if room.reset is None else min(60.0, room.reset)
            if window is not None:
                more = self.state.usage(window).remaining - room.remaining
                if more > 0:
                    self.state.book(window, int(more), age=60.0 - reset)
            elif room.remaining == 0 and reset > 0:
                self.state.cool(key.name, reset, "the provider says that nothing is left")

    def switch(self, key: Key, *, on: bool) -> None:
        """Enables or disables a key on every replica; enabling also ends its cooldowns."""
        life = key.life
        life.switched = on
        self.state.post(key.off, b"on" if on else b"off", SWITCHED_FOR)
        if on:
            life.suspect = life.probing = False
            life.strikes = life.refusals = 0
            self.state.warm(key.name)
            for model in life.cooled_models:
                self.state.warm(f"{key.name}|{model}")
            life.cooled_models.clear()
