"""Several processes on one port: ``server.workers: N``.

    supervisor      holds the port (bound, not listening) and the admin port; starts, watches and replaces workers
    worker          one `App` on the same port (SO_REUSEPORT); its admin pages stand on a private unix socket
    whole           the admin port: health and readiness of the whole, workers' pages merged (``merge``)

The kernel spreads connections, not calls, over the workers. Nothing is shared in memory: with ``state: memory`` every
limit is divided by N, with Redis limits hold exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.config import Loaded

__all__ = ["supervise"]


def supervise(loaded: Loaded, args: Any, greet: Callable[[Any], None]) -> int:
    """Run ``server.workers`` processes until a signal ends them. Returns the exit code: 0, or 2 if they cannot start.

    args: ``config`` (the file) and ``overrides``, as `serve` has them. greet: called once when all are ready, with an
    object that has ``where``, ``admin_url`` and ``config``.
    """
    import uvloop  # noqa: PLC0415 - after the configuration is known to be good

    from proxy.app import StartError  # noqa: PLC0415
    from proxy.cli import say  # noqa: PLC0415
    from proxy.workers.supervisor import Supervisor  # noqa: PLC0415

    async def main() -> int:
        return await Supervisor(loaded, args.config, tuple(args.overrides)).run(greet)

    try:
        return uvloop.run(main())
    except StartError as error:
        say(str(error))
        return 2
