"""How long a server took, told apart from how late this process looked.

A busy loop reads an answer late and runs a timer late, and neither says anything about the server. So time is counted
tick by tick, a tick that comes late counts as one tick, and when the time is up the loop still gets the turns that it
needs to read what has arrived by then. On a loop that is not busy this is a timeout like any other.
"""

import asyncio
from typing import Any, Final

TICK: Final = 0.005
TURNS: Final = 6
"""From a socket that can be read to a call that is done: the stream, its reader, the command, the call, and some."""


async def answered(call: asyncio.Future[Any], seconds: float) -> float:
    """Waits for a call that sends with its first step. Returns the seconds its server took; raises TimeoutError."""
    clock = asyncio.get_running_loop().time
    for _ in range(2):  # the call's first step, and the loop's turn that writes
        await asyncio.sleep(0)
    took = 0.0
    before = clock()
    while not call.done():
        if took >= seconds:
            for _ in range(TURNS):
                await asyncio.sleep(0)
                if call.done():
                    return took
            raise TimeoutError(f"no answer within {seconds * 1000:.0f} ms")
        await asyncio.wait({call}, timeout=min(TICK, seconds - took))
        now = clock()
        passed, before = now - before, now
        took += passed if passed < 2 * TICK else TICK
    return took
