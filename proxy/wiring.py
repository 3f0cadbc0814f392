"""Which parts the core lends to policies, and how each is made when first asked for.

The only place that knows the parts' constructors; a policy asks ``services.get(name)``. Nothing is
imported before it is asked for, so a chain without keys, limits or costs carries none of their weight.
"""

# ruff: noqa: PLC0415 - importing late is what this module is for

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.accounting.books import Books
    from proxy.config.model import Config
    from proxy.services import Services
    from proxy.state import State
    from proxy.upstream.breakers import Breakers
    from proxy.upstream.health import Health
    from proxy.upstream.keys.rings import KeyRings
    from proxy.upstream.keys.strategies import Price

log = logging.getLogger("llm_sidecar.state")


def offer_services(services: Services) -> None:
    """Offer every part that is built in."""
    services.offer("state", _state)
    services.offer("keys", _keys)
    services.offer("breakers", _breakers)
    services.offer("health", _health)
    services.offer("accounting", _accounting)


def hand_over(services: Services, before: Services) -> None:
    """Let what must outlive a reload live on: counters, circuits, what is known of each key and upstream.

    The books find their store, and the cache its entries, again by their place (``Store.enter``, ``stores.acquire``).
    """
    made = before.made()
    if before.config.state == services.config.state and before.workers == services.workers:
        for name in ("state", "breakers"):
            if name in made:
                services.adopt(name, made[name])

    def keys(fresh: Services) -> KeyRings:
        from proxy.upstream.keys.rings import rings_for

        rings: KeyRings | None = made.get("keys")
        known = {key.id for pool in fresh.config.keys.values() for key in pool.keys}
        lives = {} if rings is None else {name: life for name, life in rings.lives.items() if name in known}
        return rings_for(fresh, lives, _token_price(fresh.config))

    def health(fresh: Services) -> Health:
        checks = _health(fresh)
        known: Health | None = made.get("health")
        if known is not None:
            checks.take_over(known)
        return checks

    services.offer("keys", keys)
    services.offer("health", health)


def _state(services: Services) -> State:
    """Shared counters: memory, or Redis. With ``dry`` always fresh memory, so that nothing live is counted."""
    from proxy.state import Share, open_state

    share = Share(services.worker, services.workers) if services.workers > 1 else None
    url = "memory" if services.dry else services.config.state
    if services.workers > 1 and url == "memory":
        log.warning("state: memory with %d workers: every limit is divided by %d", services.workers, services.workers)

    def alarm(code: str, text: str) -> None:
        log.warning(text, extra={"code": code})

    return open_state(url, services.clock, share=share, alarm=alarm)


def _keys(services: Services) -> KeyRings:
    """The key pools, with their limits in ``state``."""
    from proxy.upstream.keys.rings import rings_for

    return rings_for(services, price=_token_price(services.config))


def _token_price(config: Config) -> Price | None:
    """What a token costs with each key; None where no pool asks for the cheapest one."""
    pools = [pool for pool in config.keys.values() if "cheapest" in pool.strategy]
    if all(key.cost_per_token is not None or key.tier == "free" for pool in pools for key in pool.keys):
        return None  # what they cost does not depend on the model
    from proxy.accounting.books import price_book
    from proxy.accounting.rates import Unpriced

    urls = {up.keys: str(up.base_url or "") for up in config.upstreams.values() if up.keys is not None}
    url_of = {
        key.id: str(config.upstreams[key.upstream].base_url or "") if key.upstream else urls.get(name, "")
        for name, pool in config.keys.items()
        for key in pool.keys
    }
    book = price_book(config)
    book.warm()  # now, not when the first call asks

    def price(key: str, model: str | None) -> float | None:
        found = book.price(model or "", url_of[key], key)
        return None if isinstance(found, Unpriced) else (found.base.input + found.base.output) / 2e15

    return price


def _breakers(services: Services) -> Breakers:
    """Every circuit breaker of this process."""
    from proxy.upstream.breakers import Breakers

    return Breakers(services.clock, services.get("state"))


def _health(services: Services) -> Health:
    """Background checks of the upstreams; they run once the snapshot has started."""
    from proxy.upstream.health import Health, configured_credential, configured_models

    return Health(
        services.get("upstreams"),
        services.clock,
        breakers=services.made().get("breakers"),
        credential=configured_credential(services.config),
        models=configured_models(services.config),
    )


def _accounting(services: Services) -> Books:
    """Prices, journal and ledger."""
    from proxy.accounting.books import Books

    return Books(services.config, dry=services.dry)
