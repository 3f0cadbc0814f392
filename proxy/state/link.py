"""One replica's line to Redis: batches in order, over one connection, with a hard bound on every wait.

Everything that is due goes out together as one call of one Lua script, and while that is on its way the next batch
gathers. One batch at a time keeps the order of what a replica says, and makes a busy proxy cheap for Redis. Each batch
has a number, which Redis keeps: after a break the replica learns whether its last batch was done.

    connecting --hello in time--> up --error, or no answer in time--> connecting (after a pause that grows to 1 s)

`up` is False from the first sign of trouble: callers then decide at once by themselves, nobody waits for a reconnect.

Redis is judged by what it took, not by when this process found the time to look (see `patience`), and batch by batch:
what stands before a call in a burst is our own line as long as Redis answers promptly. Only what a slow batch took is
part of the time that the calls behind it may wait.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import orjson

from proxy.clock import Clock
from proxy.state.ops import Hello, Listener, Op
from proxy.state.patience import answered
from proxy.state.servers import server_of

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

BATCH = 128
"""Operations at most; a few ms for Redis, so that the line moves on and other replicas get their turn."""
PROMPT = 0.02
"""Seconds for a batch, up to which Redis is as well as can be."""
LEAST = 0.005
"""Seconds that a batch is given whatever its callers have waited before."""
GATHER = 0.005
POLL = 0.25
HELLO = 2.0
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
CONNECT_TIMEOUT = 1.0
PATIENCE = 0.5
"""Seconds a start waits for a Redis that does not answer; one that refuses is known at once."""


class Link:
    """See the module. timeout: seconds any caller may wait for Redis; what is above counts as gone."""

    def __init__(
        self, url: str, namespace: str, replica: str, listener: Listener, clock: Clock, timeout: float
    ) -> None:
        self.url = url
        self.namespace = "{" + namespace + "}"
        self.replica = replica
        self.timeout = timeout
        self.up = False
        self.offset = 0.0
        """Server milliseconds minus monotonic milliseconds, as of the last answer."""
        self._listener = listener
        self._monotonic = clock.monotonic
        self._queue: deque[Op] = deque()
        self._doubt: tuple[int, list[Op]] = (0, [])
        self._number = 0
        self._seen = 0
        self._members = 0
        self._next_hello = 0.0
        self._next_poll = 0.0
        self._event = asyncio.Event()
        self._gathering: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._server = server_of(url)
        self._flying: asyncio.Future[Any] | None = None
        self._given_up = ""
        self._client: Redis | None = None
        self._script: AsyncScript | None = None
        self._ready: asyncio.Future[None] | None = None
        self._closing = False

    def __repr__(self) -> str:
        return f"<Link {'up' if self.up else 'down'} batch {self._number} queued {len(self._queue)}>"

    def ask(self, message: list[Any], deliver: Callable[[Any], None]) -> None:
        """Sends at the next turn of the loop; Redis has `timeout` to answer, else it is None. Only while `up`."""
        self._queue.append(Op(message, deliver, None, self._monotonic()))
        self._event.set()

    def tell(self, message: list[Any], source: object = None) -> None:
        """Sends within a few milliseconds, together with whatever else comes; kept while Redis is gone.

        source: what the owner needs to say the same in another way after a break.
        """
        self._queue.append(Op(message, None, source))
        if self.up and self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER, self._gathered)

    async def start(self, patience: float = PATIENCE) -> None:
        """Returns when connected, or after `patience` seconds; keeps trying in the background."""
        if self._task is not None:
            return
        loop = asyncio.get_running_loop()
        self._server.join(self.give_up)
        await self._open()  # the import is ours, not a slow server's: it does not count
        self._ready = loop.create_future()
        self._task = loop.create_task(self._run(), name="state-link")
        await asyncio.wait({self._ready}, timeout=patience)

    def give_up(self, reason: str) -> None:
        """Somebody else in this process has waited for this Redis in vain: nobody waits for it a second time."""
        if not self.up:
            return
        if self._flying is not None:
            self._given_up = reason
            self._flying.cancel()
        else:
            self._fall([], reason)

    async def close(self) -> None:
        """Sends what is queued, once, and disconnects."""
        self._server.leave(self.give_up)
        if self._task is None:
            return
        self._closing = True
        self._event.set()
        await asyncio.wait({self._task}, timeout=10 * self.timeout)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if self._gathering is not None:
            self._gathering.cancel()
        await self._disconnect()

    def _gathered(self) -> None:
        self._gathering = None
        self._event.set()

    async def _run(self) -> None:
        failures = 0
        while not self._closing:
            if not self.up:
                if await self._connect():
                    failures = 0
                    continue
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                failures += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        while not self._closing:
                            self._event.clear()
                            await self._event.wait()
                continue
            if not self._queue:
                self._event.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._event.wait()
            if self.up:
                self._by_the_way()
                await self._send(self._take())
        while self.up and self._queue:
            await self._send(self._take())
        if self.up:
            await self._send([Op(["bye"])])

    def _by_the_way(self) -> None:
        now = self._monotonic()
        if now >= self._next_hello:
            self._next_hello = now + HELLO
            self._queue.append(Op(["hello", 0], self._beaten))
        if now >= self._next_poll:
            self._next_poll = now + POLL
            self._queue.extend(self._listener.poll())

    def _take(self) -> list[Op]:
        queue = self._queue
        return [queue.popleft() for _ in range(min(BATCH, len(queue)))]

    def _beaten(self, answer: Any) -> None:
        if answer is not None:
            self._listener.beat(Hello(*answer))

    async def _connect(self) -> bool:
        hello = ["hello", self._number]
        try:
            if self._client is None:
                await self._open()
            first = await self._call([hello], CONNECT_TIMEOUT, counted=False)  # loads the script: no measure of speed
            again = await self._call([hello], self.timeout, counted=False)
        except Exception as error:
            await self._disconnect()
            self._listener.disconnected(_name(error))
            self._answer_start()
            return False
        number, doubtful = self._doubt
        undone = [] if Hello(*first[0]).last >= number else doubtful
        self._doubt = (0, [])
        lost = list(self._queue)
        self._queue.clear()
        self._queue.extend(self._listener.connected(Hello(*again[0]), undone, lost))
        while self._queue:  # nobody is let in before the books agree
            if not await self._send(self._take()):
                self._answer_start()
                return False
        self.up = True
        self._listener.ready()
        self._answer_start()
        return True

    def _answer_start(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    async def _open(self) -> None:
        try:
            from redis.asyncio import Redis  # noqa: PLC0415 - 60 ms, only for those who share
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415
        except ImportError as error:
            raise RuntimeError("state: Redis needs a package more: pip install 'llm-sidecar[redis]'") from error

        self._client = Redis.from_url(
            self.url,
            socket_timeout=None,  # every wait is bounded here; a second timer would be one turn of the loop more
            socket_connect_timeout=CONNECT_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=True,
        )
        self._script = self._client.register_script(script_text())

    async def _disconnect(self) -> None:
        client, self._client, self._script = self._client, None, None
        if client is not None:
            # A TLS goodbye to a server that hangs must not hold up the next attempt.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await client.aclose(close_connection_pool=True)

    async def _call(self, messages: list[Any], timeout: float, *, counted: bool = True) -> list[Any]:
        """One batch. Raises what redis-py raises, or TimeoutError; the connection is then of no more use."""
        script = self._script
        if script is None:
            raise ConnectionError("not connected")
        if counted:
            self._number += 1
        arguments: list[str | int | bytes] = [
            self.replica,
            self._number if counted else 0,
            self._seen,
            orjson.dumps(messages),
        ]
        server, answers, notes, members = await self._answer(script(keys=[self.namespace], args=arguments), timeout)
        self.offset = server - self._monotonic() * 1000
        if members != self._members:
            self._members = members
            self._next_hello = 0.0  # somebody came or left: everybody's place is another one
            self._listener.met(members)
        if notes:
            self._seen = int(notes[-1][0])
            self._listener.noted([note for note in notes if note[5] != self.replica.encode()])
        return list(answers)

    async def _answer(self, asking: Awaitable[Any], timeout: float) -> Any:
        """Raises TimeoutError also when somebody else has found that Redis does not answer."""
        began = monotonic()
        call = self._flying = asyncio.ensure_future(asking)
        try:
            took = await answered(call, timeout)
        except TimeoutError as error:
            self._server.silent(began, str(error), self.give_up)
            raise
        finally:
            self._flying = None
            reason, self._given_up = self._given_up, ""
            if not call.done():
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
        if reason and call.cancelled():
            raise TimeoutError(reason)
        answer = call.result()
        self._server.answered()
        if took > PROMPT:
            now = self._monotonic()
            for op in self._queue:
                if op.deliver is not None:
                    op.waited += min(took, now - op.asked)
        return answer

    async def _send(self, ops: list[Op]) -> bool:
        left = self.timeout - max((op.waited for op in ops), default=0.0)
        try:
            answers = await self._call([op.message for op in ops], max(LEAST, left))
        except asyncio.CancelledError:
            self._fall(ops, "stopped")
            raise
        except Exception as error:
            self._fall(ops, _name(error))
            await self._disconnect()
            return False
        for op, answer in zip(ops, answers, strict=True):
            if op.deliver is not None:
                op.deliver(answer)
        return True

    def _fall(self, ops: list[Op], reason: str) -> None:
        """From here on everybody decides alone. What was not asked for an answer is kept for the return."""
        self.up = False
        self._doubt = (self._number, [op for op in ops if op.deliver is None])
        waiting = [op for op in (*ops, *self._queue) if op.deliver is not None]
        self._queue = deque(op for op in self._queue if op.deliver is None)
        self._listener.disconnected(reason)
        for op in waiting:
            if op.deliver is not None:
                op.deliver(None)


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def script_text() -> str:
    """The Lua files in the order of their names: one script."""
    folder = Path(__file__).parent / "lua"
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.lua")))
