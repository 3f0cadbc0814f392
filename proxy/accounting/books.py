"""The accounting of one snapshot: its prices, and the store (journal, ledger, writer) that the process shares.

A reload builds new books beside the old ones; the store is found again by its place, so no call sees two journals. It
opens with the first books that start and closes with the last that stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.accounting.charge import Tariff
from proxy.accounting.gauge import Gauge
from proxy.accounting.journal import Journal
from proxy.accounting.ledger.base import Ledger, open_ledger
from proxy.accounting.prices import PriceBook
from proxy.accounting.rates import Unpriced
from proxy.accounting.writer import Writer

if TYPE_CHECKING:
    from proxy.config.model import Config

__all__ = ["Books", "DataError", "Store", "price_book"]

log = logging.getLogger("proxy.accounting")

Alarm = Callable[[str, str], None]


class DataError(OSError):
    """The journal cannot be kept where ``data`` says; one line that says what to do."""


class Store:
    """Journal, ledger and writer of one process. ``alarm(kind, text)``: journal_full, journal_ok, ledger_down, ..."""

    _open: dict[tuple[str, str], Store] = {}  # noqa: RUF012 - one for the process, on purpose

    def __init__(self, data: Path, url: str, *, fsync: bool, on_full: str, retention: Mapping[str, float]) -> None:
        root = data / "journal"
        self._place = (str(data), url)
        self._users = 0
        self._alarms: list[Alarm] = []
        self.gauges: dict[tuple[str, str], Gauge] = {}
        """What was learned of each model's estimates: outlives a reload."""
        self.journal = Journal(root, fsync=fsync, on_full=on_full, alarm=lambda s, t: self.tell(f"journal_{s}", t))
        self.ledger: Ledger = open_ledger(url, data)
        self.writer = Writer(
            self.journal,
            self.ledger,
            root=root,
            retention=retention,
            alarm=lambda state, text: self.tell(f"ledger_{state}", text),
        )

    @classmethod
    def enter(
        cls,
        data: Path,
        url: str = "",
        *,
        fsync: bool = False,
        on_full: str = "continue",
        retention: Mapping[str, float] | None = None,
    ) -> Store:
        """The process' store at this place, opened if need be (or ``DataError``). Each ``enter`` needs a ``leave``."""
        store = cls._open.get((str(data), url))
        if store is None:
            store = cls(data, url, fsync=fsync, on_full=on_full, retention=retention or {})
            try:
                store.journal.open()
            except OSError as error:
                raise DataError(
                    f"data {data}: the journal cannot be kept there ({error.strerror or error}: "
                    f"{error.filename or data}): name a folder that this process may make and write to"
                ) from error
            store.writer.start()
            cls._open[store._place] = store
        store._users += 1
        return store

    async def leave(self) -> None:
        """The last user closes: what is in memory goes to the journal, what can goes to the ledger."""
        self._users -= 1
        if self._users:
            return
        self._open.pop(self._place, None)
        await self.journal.close(release=False)
        if not await self.writer.close():
            log.warning("ledger: not everything is in it yet; the rest waits in the journal for the next start")
        if not self.writer.alive:  # nobody may claim the files while they are read, a store that opens now neither
            self.journal.directory.release()
        with contextlib.suppress(Exception):  # a database that is down cannot be closed better
            await self.ledger.close()

    def listen(self, alarm: Alarm) -> None:
        """Be told what goes wrong and what is well again."""
        self._alarms.append(alarm)

    def tell(self, kind: str, text: str) -> None:
        """Pass a fact on to whoever listens (alerts)."""
        for alarm in self._alarms:
            alarm(kind, text)

    def troubles(self) -> dict[str, str]:
        """What ``/readyz`` and metrics show: part -> what is wrong with it; empty when all is well."""
        found: dict[str, str] = {}
        if self.journal.state != "ok":
            found["journal"] = f"{self.journal.state}, {self.journal.held} records wait, {self.journal.lost} lost"
        if self.writer.state != "up":
            found["ledger"] = self.writer.error
        return found


class Books:
    """``services.get("accounting")``. Frozen but for its store, which is there between ``start`` and ``stop``."""

    def __init__(self, config: Config, *, dry: bool = False) -> None:
        """``dry``: prices only; nothing is written (``explain``, policy tests)."""
        self.prices = price_book(config, on_unpriced=_warn)
        self.tariff = Tariff(self.prices, {name: _base_url(upstream) for name, upstream in config.upstreams.items()})
        self.dry = dry
        self.store: Store | None = None
        self._data = config.data
        self._url = config.ledger or ""
        self._models = _models(config)
        self._users = 0
        self._warming: asyncio.Task[None] | None = None

    async def start(
        self, *, fsync: bool = False, on_full: str = "continue", retention: Mapping[str, float] | None = None
    ) -> None:
        """Open the store and load the price list in the background. Each ``start`` wants one ``stop``."""
        self._users += 1
        if self._users > 1 or self.dry:
            return
        self.store = Store.enter(self._data, self._url, fsync=fsync, on_full=on_full, retention=retention)
        self.tariff.gauges = self.store.gauges
        self._warming = asyncio.create_task(asyncio.to_thread(self.prices.warm, self._models), name="price-list")

    async def warmed(self) -> None:
        """Until the price list is loaded. Ask ``prices.ready`` first: loading on the loop would hold up every call."""
        if self._warming is not None:
            await asyncio.shield(self._warming)

    async def stop(self) -> None:
        """Leave the store."""
        self._users -= 1
        if self._users:
            return
        if self._warming is not None:
            await self._warming
            self._warming = None
        store, self.store = self.store, None
        if store is not None:
            await store.leave()


def price_book(config: Config, *, on_unpriced: Callable[[Unpriced], None] | None = None) -> PriceBook:
    """The prices of a configuration: its own over the bundled list."""
    return PriceBook(
        {model: _price(price) for model, price in config.prices.items()},
        key_prices=_key_prices(config),
        free_keys=[key.id for pool in config.keys.values() for key in pool.keys if key.tier == "free"],
        on_unpriced=on_unpriced,
    )


def _price(price: Any) -> dict[str, Any]:
    fields: dict[str, Any] = price.model_dump(exclude_unset=True, exclude_none=True)
    return fields


def _key_prices(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in (key for pool in config.keys.values() for key in pool.keys):
        if key.prices:
            found[key.id] = {model: _price(price) for model, price in key.prices.items()}
        elif key.cost_per_token is not None:
            found[key.id] = key.cost_per_token
    return found


def _base_url(upstream: Any) -> str:
    return str(getattr(upstream, "base_url", "") or "")


def _models(config: Config) -> list[tuple[str, str]]:
    """Models that the configuration names, to be looked up before a call needs them."""
    named = [route.model for route in config.routes if route.model] + [alias.model for alias in config.models.values()]
    return [(model, "") for model in dict.fromkeys(named)]


def _warn(unpriced: Unpriced) -> None:
    if not unpriced.name:
        return  # a call for no model (a list of models, a file): there is nothing to price
    log.warning(
        "no price for model %r: %s. Its calls and tokens count, their cost is unknown", unpriced.name, unpriced.reason
    )
