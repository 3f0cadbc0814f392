"""What an operator sees of a key."""

from typing import Any

from proxy.clock import Clock
from proxy.state import NEVER
from proxy.upstream.keys.health import Health, enabled
from proxy.upstream.keys.key import Key


def describe(key: Key, health: Health, clock: Clock) -> dict[str, Any]:
    """A key's limits, use and state; durations in seconds, rpm and tpm over the last 60 s, never the secret."""
    life = key.life
    state = health.state
    now = clock.monotonic()
    word, why, left = "ready", "", 0.0
    cooling = state.cooling(key.name)
    full = [limit for limit, amount in key.claims(1) if state.peek(((limit, amount),)) > 0]
    models = {model: state.cooling(f"{key.name}|{model}") for model in life.cooled_models}
    models = {model: seconds for model, seconds in models.items() if seconds > 0}
    if not enabled(key):
        word, why = "disabled", "disabled by hand" if life.switched is False else "disabled in the configuration"
    elif cooling > 0:
        word, why, left = "cooling", state.why(key.name), cooling
    elif life.suspect:
        word, why = "suspect", "was refused; one call will probe it"
    elif full:
        word, why = "full", f"at its own limit ({full[0].name.rpartition(':')[2]})"
        left = state.peek(key.claims(1))
    elif models:
        word, why = "ready", f"cooling for {', '.join(sorted(models))}"
    rpm = state.usage(key.rpm).used if key.rpm is not None else life.recent.at(now).all
    tpm = state.usage(key.tpm).used if key.tpm is not None else life.recent.at(now).some
    return {
        "id": key.id,
        "upstream": key.upstream,
        "tier": key.tier,
        "priority": key.priority,
        "enabled": enabled(key),
        "state": word,
        "why": why,
        "returns_in": None if left == NEVER else round(left, 3),
        "cooling_models": {model: round(seconds, 3) for model, seconds in models.items()},
        "requests": life.requests,
        "success_rate": life.successes / life.requests if life.requests else None,
        "latency": life.latency,
        "rpm": rpm,
        "max_rpm": key.max_rpm,
        "tpm": tpm,
        "max_tpm": key.max_tpm,
        "in_flight": life.in_flight,
        "max_concurrent": key.max_concurrent,
        "task_types": sorted(key.task_types),
        "tasks": dict(life.tasks),
        "shared": state.shared,
        "last_used": None if life.last_used_at is None else clock.now() - (now - life.last_used_at),
    }
