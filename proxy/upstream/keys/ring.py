"""A pool of keys at run time: which one serves a call, what it may still take, and how it fares.

    choose   tiers of the static strategies, the order of the others within a tier, the first key whose limits fit
    end      settle what was reserved, learn from the answer: cooldowns, refusals, the provider's own figures, latency

What takes a key out and brings it back stands in `health`. Latency and error rates order keys, they never take one out.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from proxy.clock import Clock, SystemClock
from proxy.state import NEVER, Claims, Grant, MemoryState, Refusal, State
from proxy.upstream.keys.health import Health, enabled
from proxy.upstream.keys.key import MOST_TASKS, Key, Life, hash_of
from proxy.upstream.keys.report import describe
from proxy.upstream.keys.strategies import FORGET_LATENCY, Order, Price, split, stickiness, tiers

if TYPE_CHECKING:
    from proxy.exchange import AttemptOutcome, FailureClass

MOST_ALTERNATIVES: Final = 8
"""Keys that one round trip to Redis may choose from."""
LOAD_EVERY: Final = 0.25
"""Seconds for which a key's load is counted on instead of asked for."""
SMOOTHING: Final = 0.2
"""Weight of the newest value in the moving average of latency."""
MOST_TIERS: Final = 1000


class NoKey:
    """No key can serve the call now. False in a condition.

    retry_after: seconds until one may, `NEVER` when waiting will not help. why: for the caller, without secrets.
    """

    __slots__ = ("retry_after", "why")

    def __init__(self, retry_after: float, why: str) -> None:
        self.retry_after = retry_after
        self.why = why

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"NoKey({self.why}, {self.retry_after:g}s)"


class KeyLease:
    """A key taken for one attempt. Ends exactly once, by `KeyRing.end`; a second time does nothing."""

    __slots__ = ("grant", "key", "model", "open", "task", "tokens")

    def __init__(self, key: Key, grant: Grant | None, tokens: int, task: str | None, model: str | None) -> None:
        self.key = key
        self.grant = grant
        self.tokens = tokens
        self.task = task
        self.model = model
        self.open = True

    def __repr__(self) -> str:
        return f"<KeyLease {self.key.id} {self.tokens} tokens{'' if self.open else ' ended'}>"


class KeyRing:
    """See the module. lives: what is known of the keys by id; hand over those of the ring before, on a reload."""

    def __init__(
        self,
        pool: str,
        keys: Iterable[Key],
        strategies: Sequence[str],
        state: State,
        clock: Clock | None = None,
        *,
        price: Price | None = None,
        lives: dict[str, Life] | None = None,
    ) -> None:
        self.pool = pool
        self.keys = tuple(keys)
        self.by_id: Mapping[str, Key] = {key.id: key for key in self.keys}
        self.strategies = tuple(strategies)
        self.state = state
        self.clock: Clock = clock or SystemClock()
        self._now: Callable[[], float] = self.clock.monotonic
        if lives is not None:
            for key in self.keys:
                key.life = lives.setdefault(key.id, key.life)
        self._static, dynamic = split(strategies)
        self._price: Price = price or (lambda _model: None)
        self._by_model = "cheapest" in self._static
        self._order = Order(dynamic, self._load, self._price, self._now)
        self._spends = "weighted" in dynamic or "least_loaded" in dynamic
        self._tiers: dict[tuple[str | None, str | None], tuple[tuple[Key, ...], ...]] = {}
        self.health = Health(state, self.clock)
        self._direct = state.try_reserve if isinstance(state, MemoryState) else None
        self._turn = 0
        self._guarded = any(not key.enabled or key.life.suspect or key.life.switched is False for key in self.keys)
        self._switches_read = -NEVER
        self.limits_tokens = any(key.tpm is not None for key in self.keys)
        self.sticks = "sticky" in self.strategies
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<KeyRing {self.pool} {len(self.keys)} keys {'>'.join(self.strategies)}>"

    # --- choosing ------------------------------------------------------------------------------

    async def choose(
        self,
        *,
        task: str | None = None,
        model: str | None = None,
        tokens: int = 0,
        sticky: str | None = None,
        excluded: Container[str] = (),
        only: str | None = None,
        pinned: bool = False,
    ) -> KeyLease | NoKey:
        """The key for one attempt, with its limits reserved; or why there is none.

        tokens: estimate of input and output. sticky: id of the conversation or principal. excluded: ids of keys that
        are not to be used. only: the id of the one key that may be. pinned: whatever the strategies say, `sticky`
        alone decides. A cancelled call leaves nothing reserved.
        """
        state = self.state
        health = self.health
        direct = self._direct
        all_tiers = self._tiers.get((task, model if self._by_model else None))
        if all_tiers is None:
            all_tiers = self._make_tiers(task, model)
        if pinned and sticky is not None:
            stuck = hash_of(sticky)
            all_tiers = tuple((key,) for key in sorted(self.keys, key=lambda key: stickiness(stuck, key)))
        if state.shared and self._now() - self._switches_read > LOAD_EVERY:
            self._read_switches()
        guarded = self._guarded or not state.calm
        plain = not guarded and not excluded and only is None
        alternatives: list[Claims] = []
        offered: list[tuple[Key, Sequence[Key]]] = []
        nearest = NEVER
        why = "no key is for this call"
        for tier in all_tiers:
            usable: Sequence[Key] = tier
            if not plain:
                usable = []
                for key in tier:
                    if key.id in excluded or (only is not None and key.id != only):
                        continue
                    wait = health.out(key, model) if guarded else 0.0
                    if wait <= 0:
                        usable.append(key)
                    elif wait < nearest:
                        nearest = wait
                        why = "every key is out"
            if not usable:
                continue
            ordered = usable if len(usable) == 1 else self._order.sort(usable, task, model, sticky)
            for key in ordered:
                claims = key.claims(tokens)
                if not claims:
                    return self._take(key, None, tokens, task, model, usable)
                if state.shared:
                    alternatives.append(claims)
                    offered.append((key, usable))
                    continue
                # In one process the answer is there at once: no coroutine is needed to wait for it.
                grant = direct((claims,)) if direct is not None else await state.reserve((claims,))
                if isinstance(grant, Grant):
                    return self._take(key, grant, tokens, task, model, usable)
                nearest = min(nearest, grant.wait)
                why = _full(grant, tokens)
        if alternatives:
            if len(alternatives) > MOST_ALTERNATIVES:
                alternatives, offered = self._likely(alternatives, offered)
            answer = await state.reserve(alternatives)
            if isinstance(answer, Grant):
                key, usable = offered[answer.index]
                if state.calm or health.out(key, model) <= 0:
                    return self._take(key, answer, tokens, task, model, usable)
                state.free(answer)  # somebody else met its limit while we asked
                return NoKey(0.05, "every key is out")
            nearest = min(nearest, answer.wait)
            why = _full(answer, tokens)
        return NoKey(nearest, why)

    def _likely(
        self, alternatives: list[Claims], offered: list[tuple[Key, Sequence[Key]]]
    ) -> tuple[list[Claims], list[tuple[Key, Sequence[Key]]]]:
        """Those that fit by the local picture come first, the order of the strategies within."""
        ranked = sorted(range(len(alternatives)), key=lambda place: self.state.peek(alternatives[place]) > 0)
        kept = ranked[:MOST_ALTERNATIVES]
        return [alternatives[place] for place in kept], [offered[place] for place in kept]

    def _take(
        self, key: Key, grant: Grant | None, tokens: int, task: str | None, model: str | None, among: Sequence[Key]
    ) -> KeyLease:
        life = key.life
        self._turn = life.last_used = self._turn + 1
        life.in_flight += 1
        if life.suspect:
            life.probing = True
        if self._spends and len(among) > 1:
            self._order.taken(key, among)
            # What this call takes counts at once; the shared figures are read again after LOAD_EVERY.
            life.load += max(1 / key.max_rpm if key.max_rpm else 0.0, tokens / key.max_tpm if key.max_tpm else 0.0)
        if self._waiting:
            self._wake()
        return KeyLease(key, grant, tokens, task, model)

    def _make_tiers(self, task: str | None, model: str | None) -> tuple[tuple[Key, ...], ...]:
        if len(self._tiers) >= MOST_TIERS:
            self._tiers.clear()  # tasks and models are words of the clients
        made = tiers(self.keys, self._static, task, model, self._price)
        self._tiers[task, model if self._by_model else None] = made
        return made

    def _load(self, key: Key, now: float) -> float:
        """The used share of the tightest limit; asked for now and then, counted on in between."""
        life = key.life
        if now - life.load_at > LOAD_EVERY:
            life.load_at = now
            used = 0.0
            for window in (key.rpm, key.tpm):
                if window is not None:
                    used = max(used, self.state.usage(window).used / window.limit)
            life.load = used
        if key.max_concurrent:
            return max(life.load, life.in_flight / key.max_concurrent)
        return life.load

    def back_in(self, ids: Container[str], model: str | None) -> float:
        """Seconds until the first of these keys, which a call has used up, may serve another call; NEVER if unknown."""
        waits = (self.health.out(key, model) for key in self.keys if key.id in ids)
        return min((wait for wait in waits if wait > 0), default=NEVER)

    # --- waiting -------------------------------------------------------------------------------

    async def wait(self, seconds: float) -> None:
        """Until it is worth asking again: a key may have come free, or `seconds` have passed."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(woken)

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        timer = self.clock.call_later(seconds, wake)
        try:
            await woken
        except asyncio.CancelledError:
            if woken.done() and not woken.cancelled():
                self._wake()  # the turn it was given goes to the next
            raise
        finally:
            timer.cancel()
            if woken in self._waiting:
                self._waiting.remove(woken)

    def _wake(self) -> None:
        while self._waiting:
            woken = self._waiting.popleft()
            if not woken.done():
                woken.set_result(None)
                return

    # --- after an attempt ----------------------------------------------------------------------

    def end(
        self,
        lease: KeyLease,
        *,
        sent: int,
        outcome: "AttemptOutcome | None" = None,
        failure: "FailureClass | None" = None,
        status: int | None = None,
        tokens: int | None = None,
        retry_after: float | None = None,
        headers: Sequence[tuple[bytes, bytes]] | None = None,
        first_byte: float | None = None,
    ) -> None:
        """Settles and learns. sent: requests that may have reached the provider (0: everything is given back).

        tokens: used, None when unknown (the estimate stands). first_byte: seconds from the choice to the first byte.
        """
        if not lease.open:
            return
        lease.open = False
        key = lease.key
        life = key.life
        life.in_flight -= 1
        grant = lease.grant
        used = (lease.tokens if tokens is None else tokens) if sent else 0
        if grant is not None:
            self.state.settle(grant, key.usage(sent, used))
        if life.probing:
            life.probing = False
        if sent:
            now = self._now()
            life.requests += 1
            life.last_used_at = now
            if outcome == "answered" or outcome == "stopped":  # noqa: PLR1714 - on the way of every call
                life.successes += 1
            if key.rpm is None:
                life.calls.add(now, 1, 0)
            if key.tpm is None:
                life.tokens.add(now, used, 0)
            if first_byte is not None:
                old = life.latency
                if old is not None and now - life.latency_at < FORGET_LATENCY:
                    first_byte = old + SMOOTHING * (first_byte - old)
                life.latency = first_byte
                life.latency_at = now
            task = lease.task
            if task is not None:
                tasks = life.tasks
                if task in tasks:
                    tasks[task] += 1
                elif len(tasks) < MOST_TASKS:
                    tasks[task] = 1
        if failure is not None:
            self.health.failed(key, lease.model, failure, status, retry_after)
            self._guarded = self._guarded or life.suspect
        elif status is not None and status < 400 and (life.strikes or life.suspect or life.refusals):
            life.strikes = life.refusals = 0
            life.suspect = False
            self._guard()
        if headers is not None and status is not None:
            self.health.correct(key, headers)
        if self._waiting:
            self._wake()

    # --- by hand, and to look at ---------------------------------------------------------------

    def switch(self, key_id: str, *, on: bool) -> bool:
        """Enables or disables a key at once, on every replica; enabling also ends its cooldowns. False: no such key."""
        key = self.by_id.get(key_id)
        if key is None:
            return False
        self.health.switch(key, on=on)
        self._guard()
        while self._waiting:
            self._wake()
        return True

    def _read_switches(self) -> None:
        """What was switched by hand on another replica."""
        self._switches_read = self._now()
        for key in self.keys:
            note = self.state.read(key.off)
            if note is not None:
                key.life.switched = note == b"on"
        self._guard()

    def _guard(self) -> None:
        self._guarded = any(key.life.suspect or not enabled(key) for key in self.keys)

    def snapshot(self) -> list[dict[str, Any]]:
        """One object a key, for `GET /api/v1/keys`; durations in seconds, never a secret."""
        return [{"pool": self.pool, **describe(key, self.health, self.clock)} for key in self.keys]


def _full(refusal: Refusal, tokens: int) -> str:
    if refusal.wait == NEVER:
        return f"the call needs {tokens} tokens, more than any key may take in a minute (max_tpm)"
    return "every key is at its limit"
