"""Every policy of a configuration is built once, for nothing: what only its constructor can find is found so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config.model import Config

__all__ = ["mistakes"]


def mistakes(config: Config, *, partly: bool = False) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The path of each entry that cannot be built, and why. partly: something else is wrong with the configuration, so
    only what a policy says of itself counts."""
    from proxy.build import ChainError, build_chain  # noqa: PLC0415 - a configuration that is good needs none of it
    from proxy.clock import SystemClock  # noqa: PLC0415
    from proxy.services import Services  # noqa: PLC0415
    from proxy.wiring import offer_services  # noqa: PLC0415

    services = Services(SystemClock(), config, dry=True)
    offer_services(services)
    services.offer("upstreams", lambda _: {})
    for name, entries in config.chains.items():
        for entry in entries:
            try:
                build_chain(name, (entry,), services)
            except ChainError as error:
                yield entry.path, str(error.__cause__)
            except Exception as error:
                if not partly:
                    yield entry.path, str(error)
