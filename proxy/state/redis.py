"""State that replicas share, in Redis, with the local picture in front and the local share behind.

Up: `reserve` is decided by Redis, atomically and by its clock; everything else is done here at once and told in the
background. What Redis answers corrects the local picture (`MemoryState`), which serves all questions that need no
certainty. Down (no answer within 45 ms, or no connection): the local picture decides alone, each replica taking its
share of what was left when last heard of, and `Debt` keeps what to tell. Back: the books are made to agree first.
`reserve` waits for one round trip, and never longer than that time.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from proxy.clock import Clock
from proxy.state.debt import Debt, encode
from proxy.state.interface import Alarm
from proxy.state.limits import GRACE, Bucket, Claims, Counter, Grant, Limit, Refusal, Share, Usage, Window
from proxy.state.link import Link
from proxy.state.memory import MemoryState
from proxy.state.meters import BucketMeter, CounterMeter, WindowMeter
from proxy.state.ops import Hello, Listener, Op

TIMEOUT = 0.045
FLAPPING = 2.0
"""Seconds after an alarm in which a Redis that comes and goes raises no other; if it stays away, then it does."""
LOOKED_AT = 200


class RedisState(Listener):
    """See `State`. url: redis://, rediss:// or unix://. alarm(code, text): once when Redis goes, once when back."""

    shared = True

    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        alarm: Alarm | None = None,
        *,
        namespace: str = "llm-sidecar",
        timeout: float = TIMEOUT,
        share: Share | None = None,
    ) -> None:
        self.local = MemoryState(clock)
        self.local.share = Share(share.index, share.count, strict=False) if share else Share(strict=False)
        self.replicas = self.local.share.count
        self.link = Link(url, namespace, uuid.uuid4().hex[:12], self, self.local.clock, timeout)
        self._away = self.local.share
        self._monotonic = self.local.clock.monotonic
        self._alarm: Alarm = alarm or (lambda _code, _text: None)
        self._alarmed = -FLAPPING
        self._warned = False
        self._born: bytes | None = None
        self._debt = Debt()
        self._limits: dict[str, Limit] = {}
        self._watched: dict[str, Limit] = {}
        self._looking: Iterator[str] = iter(())
        self._down = True
        self.clock = self.local.clock

    def __repr__(self) -> str:
        return f"<RedisState {self.link!r} replicas {self.replicas} debt {len(self._debt)} {self.local!r}>"

    @property
    def up(self) -> bool:
        """Whether Redis decides just now."""
        return self.link.up

    # Limits

    async def reserve(self, alternatives: Sequence[Claims]) -> Grant | Refusal:
        if self.link.up:
            answer: asyncio.Future[Grant | Refusal | None] = asyncio.get_running_loop().create_future()

            def deliver(reply: Any) -> None:
                result = None if reply is None else self._decided(alternatives, reply)
                if not answer.done():
                    answer.set_result(result)
                elif isinstance(result, Grant):
                    self.free(result)  # whoever asked has left

            wire = [[encode(limit, amount) for limit, amount in claims] for claims in alternatives]
            self.link.ask(["reserve", wire], deliver)
            try:
                result = await answer
            except asyncio.CancelledError:
                if answer.done() and not answer.cancelled():
                    late = answer.result()
                    if isinstance(late, Grant):
                        self.free(late)
                raise
            if result is not None:
                return result
        grant = self.local.try_reserve(alternatives)
        if isinstance(grant, Grant):
            for claim in grant.claims:
                self._remember(claim[0])
                self._debt.taken(claim, grant.stamp)
        return grant

    def _decided(self, alternatives: Sequence[Claims], reply: Sequence[Any]) -> Grant | Refusal:
        index, wait, alternative, refused, figures = reply
        now = self._monotonic()
        looked = alternatives if index < 0 else alternatives[: index + 1]
        grant = self.local.take(alternatives[index], index, now) if index >= 0 else None
        position = 0
        for claims in looked:
            for limit, _ in claims:
                self._learn(limit, figures[position], figures[position + 1], now)
                position += 2
        if grant is not None:
            grant.remote = int(now * 1000 + self.link.offset)
            return grant
        limit = alternatives[alternative][refused][0]
        usage = self.local.usage(limit)
        return Refusal(limit, wait / 1000 if wait >= 0 else float("inf"), usage.used, usage.held)

    def _learn(self, limit: Limit, first: int, second: int, now: float) -> None:
        """Figures of all replicas, from Redis: window sum | ms until full | spent and held by others."""
        if not first and not second and limit.name not in self.local.meters:
            return  # nothing of it exists, here or there
        self._remember(limit)
        meter = self.local.meter(limit)
        if isinstance(meter, WindowMeter) and isinstance(limit, Window):
            meter.drop(now)
            meter.learn(max(0.0, first - meter.total), now + limit.span + limit.cell)
        elif isinstance(meter, BucketMeter):
            meter.full_at = now + first / 1000
        elif isinstance(meter, CounterMeter):
            meter.others = float(second)
            if meter.cells is None:
                meter.spent = float(first)
            else:
                meter.drop(now)
                meter.others += max(0.0, first - meter.spent)
            meter.others_until = now + 15.0
            if isinstance(limit, Counter):
                meter.touch(limit, now)

    def peek(self, claims: Claims) -> float:
        return self.local.peek(claims)

    def settle(self, grant: Grant, actual: Sequence[float], sent_at: float | None = None) -> None:
        if not grant.open:
            return
        self.local.settle(grant, actual, sent_at)
        parts: list[list[Any]] = []
        at = grant.remote or int(grant.stamp * 1000 + self.link.offset)
        late = sent_at is not None and sent_at > grant.stamp + GRACE
        counts_from = int((sent_at or 0) * 1000 + self.link.offset) if late else 0
        for (limit, amount), real in zip(grant.claims, actual, strict=True):
            if real != amount or not limit.prepaid or late:
                parts.append([encode(limit, amount), int(real), at, counts_from])
        if parts:
            self._tell(["settle", parts], (grant, tuple(actual)))

    def free(self, grant: Grant) -> None:
        self.settle(grant, [0] * len(grant.claims))

    def book(self, limit: Limit, amount: float, age: float = 0.0) -> None:
        self.local.book(limit, amount, age)
        self._remember(limit)
        self._tell(["book", encode(limit, amount), int(age * 1000)], (limit, amount, self._monotonic() - age))

    def seed(self, limit: Limit, used: float) -> None:
        self.local.seed(limit, used)
        self._remember(limit)
        self._tell(["seed", encode(limit, used)])

    def spent(self, limit: Limit) -> float:
        return self.local.spent(limit)

    def usage(self, limit: Limit) -> Usage:
        return self.local.usage(limit)

    def watch(self, limits: Sequence[Limit]) -> None:
        self._watched = {limit.name: limit for limit in limits}

    def tend(self, table: dict[Any, Any], key: Any) -> None:
        self.local.tend(table, key)

    # Cooldowns and notes

    @property
    def calm(self) -> bool:
        return not self.local.cooldowns

    def cool(self, name: str, seconds: float, why: str = "") -> None:
        if self.local.cooling(name) < seconds:
            self.local.cool(name, seconds, why)
            self._tell(["note", name, "c", why, int(seconds * 1000)])

    def cooling(self, name: str) -> float:
        return self.local.cooling(name)

    def why(self, name: str) -> str:
        return self.local.why(name)

    def warm(self, name: str) -> None:
        if name in self.local.cooldowns:
            self.local.warm(name)
            self._tell(["note", name, "c", "", 0])

    def post(self, name: str, value: bytes, ttl: float) -> None:
        self.local.post(name, value, ttl)
        self._tell(["note", name, "p", value.decode("latin-1"), int(ttl * 1000) if value else 0])

    def read(self, name: str) -> bytes | None:
        return self.local.read(name)

    def notes(self, prefix: str) -> dict[str, bytes]:
        return self.local.notes(prefix)

    def noted(self, notes: Sequence[Sequence[Any]]) -> None:
        for _, raw_name, kind, value, left, _ in notes:
            name, seconds = raw_name.decode(), left / 1000
            if kind == b"c":
                self.local.cool(name, seconds, value.decode())
            elif kind == b"p":
                self.local.post(name, value.decode().encode("latin-1"), seconds)
            elif kind == b"C":
                self.local.warm(name)
            else:
                self.local.post(name, b"", 0.0)

    # Leases and maps

    async def lease(self, name: str, ttl: float) -> bool:
        if not self.local.try_lease(name, ttl):
            return False
        answer = await self._ask(["lease", name, int(ttl * 1000)], lambda late: self._unlease(name, late))
        if answer == 0:
            self.local.release(name)
            return False
        return True

    def _unlease(self, name: str, late: Any) -> None:
        if late == 0:
            self.local.release(name)  # somebody else's, not ours to end
        else:
            self.release(name)

    def release(self, name: str) -> None:
        self.local.release(name)
        self._tell(["release", name])

    def put(self, space: str, key: str, value: bytes, ttl: float, bound: int) -> None:
        self.local.put(space, key, value, ttl, bound)
        self._tell(["put", space, key, value.decode("latin-1"), int(ttl * 1000), bound])

    async def get(self, space: str, key: str) -> bytes | None:
        known = self.local.known(space, key)
        if known is not None:
            return known
        answer = await self._ask(["get", space, key], lambda _: None)
        if not answer:
            return None
        value: bytes = answer[0].decode().encode("latin-1")
        return value

    def drop(self, space: str, key: str) -> None:
        self.local.drop(space, key)
        self._tell(["drop", space, key])

    async def _ask(self, message: list[Any], undo: Callable[[Any], object]) -> Any:
        """The answer, None when Redis gives none. undo: told an answer whose asker has left."""
        if not self.link.up:
            return None
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def deliver(reply: Any) -> None:
            if not answer.done():
                answer.set_result(reply)
            else:
                undo(reply)

        self.link.ask(message, deliver)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():
                undo(answer.result())
            raise

    def _remember(self, limit: Limit) -> None:
        if not isinstance(limit, Bucket):
            self._limits[limit.name] = limit

    def _tell(self, message: list[Any], source: Any = None) -> None:
        if self._down:
            self._owe(Op(message, None, source))
        else:
            self.link.tell(message, source)

    # Life

    async def start(self) -> None:
        await self.local.start()
        await self.link.start()

    async def close(self) -> None:
        await self.link.close()
        await self.local.close()

    def disconnected(self, reason: str) -> None:
        if not self._down:
            self._down = True
            self.local.leave()
            self.local.share = self._away
        self._tidy()
        now = time.monotonic()
        if not self._warned and now - self._alarmed >= FLAPPING:
            self._warned = True
            self._alarmed = now
            self._alarm("state_unavailable", f"Redis is slow or gone ({reason}): limits are kept by local shares")

    def ready(self) -> None:
        self._down = False
        self.local.share = Share(strict=False)
        for op in self._owing(self._monotonic()):  # what came while the first batch was being said
            self.link.tell(op.message, op.source)
        if self._warned:
            self._warned = False
            self._alarm("state_restored", "Redis is back: what happened meanwhile has been merged")

    def beat(self, hello: Hello) -> None:
        self._who_shares(hello)
        self._tidy()

    def met(self, replicas: int) -> None:
        self.replicas = max(1, replicas)  # Redis may be gone before it tells our place among them
        self._away = Share(min(self._away.index, self.replicas - 1), self.replicas, strict=False)

    def poll(self) -> Sequence[Op]:
        """What the others have taken. A share may have to begin at any moment, and is only as good as these figures."""
        names = list(islice(self._looking, LOOKED_AT))
        if len(names) < LOOKED_AT:  # all were looked at: begin again, with those that are new
            self._looking = iter(dict.fromkeys([*self._watched, *self._limits]))
            names = names or list(islice(self._looking, LOOKED_AT))
        found = [limit for name in names if (limit := self._limits.get(name) or self._watched.get(name)) is not None]
        return [self._look(found)] if found else []

    def _tidy(self) -> None:
        """Forgets the limits whose meters were swept."""
        meters = self.local.meters
        for name in [name for name in self._limits if name not in meters]:
            del self._limits[name]

    def _look(self, limits: list[Limit]) -> Op:
        def deliver(figures: Any) -> None:
            now = self._monotonic()
            for index, limit in enumerate(limits if figures is not None else ()):
                self._learn(limit, figures[2 * index], figures[2 * index + 1], now)

        return Op(["look", [encode(limit, 0) for limit in limits]], deliver)

    def _who_shares(self, hello: Hello) -> None:
        self.replicas = max(1, hello.replicas)
        self._away = Share(hello.place, self.replicas, strict=False)

    def connected(self, hello: Hello, doubtful: Sequence[Op], lost: Sequence[Op]) -> Sequence[Op]:
        self._who_shares(hello)
        for op in (*doubtful, *lost):
            self._owe(op)
        forgot = self._born is not None and self._born != hello.born
        self._born = hello.born
        now = self._monotonic()
        ops = [Op(message) for message in self._restored(now)] if forgot else []
        return ops + self._owing(now, windows=not forgot)

    def _owing(self, now: float, *, windows: bool = True) -> list[Op]:
        """The debt, and what every counter of ours holds: stated as it is, so that a lost answer leaves no trace."""
        ops = [Op(message, None, source) for message, source in self._debt.messages(now, windows=windows)]
        for name, limit in self._limits.items():
            meter = self.local.meters.get(name)
            if isinstance(meter, CounterMeter):
                ops.append(Op(["held", encode(limit, meter.held)]))
        return ops

    def _owe(self, op: Op) -> None:
        """What was to be told, put into the debt."""
        source: Any = op.source
        if source is None:
            if op.message[0] in ("note", "put", "drop", "release", "seed"):
                self._debt.said.append(op.message)
        elif isinstance(source[0], Grant):
            grant, actual = source
            for claim, real in zip(grant.claims, actual, strict=True):
                self._debt.settled(claim, real, grant.stamp)
        else:
            self._debt.add(*source)

    def _restored(self, now: float) -> list[list[Any]]:
        """Redis came back empty: what this replica knows. Each replica books its own windows, and raises the rest."""
        told: list[list[Any]] = []
        local = self.local
        for name, limit in self._limits.items():
            meter = local.meters.get(name)
            if isinstance(meter, WindowMeter) and isinstance(limit, Window):
                meter.drop(now)
                for end, amount in meter.cells.items():
                    age = now - (end - limit.cell / 2 - limit.grace)
                    told.append(["book", encode(limit, amount), int(age * 1000)])
            elif isinstance(meter, CounterMeter) and isinstance(limit, Counter):
                told.append(["seed", encode(limit, meter.spent - self._debt.spent(limit))])
        for bucket in local.meters.values():
            if isinstance(bucket, BucketMeter) and bucket.idle_in(now) > 0:
                told.append(["seed", encode(bucket.limit, bucket.usage(bucket.limit, now).used)])
        for name, (until, why) in local.cooldowns.items():
            if until > now:
                told.append(["note", name, "c", why, int((until - now) * 1000)])
        for name, (until, value) in local.board.items():
            if until > now:
                told.append(["note", name, "p", value.decode("latin-1"), int((until - now) * 1000)])
        for space, entries in local.maps.items():
            for key, (until, value) in entries.items():
                if until > now:
                    told.append(["put", space, key, value.decode("latin-1"), int((until - now) * 1000), len(entries)])
        return told
