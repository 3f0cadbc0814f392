"""From the configuration's `state:` line to a `State`."""

from proxy.clock import Clock
from proxy.state.interface import Alarm, State
from proxy.state.limits import Share
from proxy.state.memory import MemoryState


def open_state(
    url: str, clock: Clock | None = None, *, share: Share | None = None, alarm: Alarm | None = None
) -> State:
    """`memory`, or a redis://, rediss:// or unix:// address; `await start()` it before use.

    share: this process' part of every limit, kept as long as the others cannot be asked (memory: always).
    alarm(code, text): `state_unavailable` and `state_restored`, from the event loop. Raises ValueError on other words.
    """
    if url == "memory":
        return MemoryState(clock, share)
    if url.startswith(("redis://", "rediss://", "unix://")):
        from proxy.state.redis import RedisState  # noqa: PLC0415 - a memory-only proxy does not load it

        return RedisState(url, clock, alarm, share=share)
    word = url.partition("://")[0]
    raise ValueError(f"state: {word!r} is not known; allowed: memory, redis://, rediss://, unix://")
