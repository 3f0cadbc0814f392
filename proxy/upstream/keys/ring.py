"""A pool of keys at run time: which one serves a call, what it may still take, and how it fares.

    choose   tiers of the static strategies, the best key of a tier by the others, whose limits fit
    end      settle what was reserved, learn from the answer: cooldowns, refusals, the provider's own figures, latency

What takes a key out and brings it back stands in `health`. Latency and error rates order keys, they never take one out.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from proxy.clock import Clock, SystemClock
from proxy.state import NEVER, Claims, Grant, MemoryState, State
from proxy.state.joint import Joint
from proxy.upstream.keys.health import Health, enabled
from proxy.upstream.keys.key import MOST_TASKS, Key, Life
from proxy.upstream.keys.lease import KeyLease, NoKey
from proxy.upstream.keys.peers import Peers
from proxy.upstream.keys.report import describe
from proxy.upstream.keys.strategies import Price
from proxy.upstream.keys.tiers import FORGET_LATENCY, LOOK_EVERY, PoolTiers, Tiers
from proxy.upstream.keys.waiting import Waiting

if TYPE_CHECKING:
    from proxy.exchange import AttemptOutcome, FailureClass

MOST_ALTERNATIVES: Final = 8
"""Keys that one round trip to Redis may choose from."""
SMOOTHING: Final = 0.2
"""Weight of the newest value in the moving average of latency."""


class KeyRing:
    """See the module. lives: what is known of the keys by id; hand over those of the ring before, on a reload.

    direct: the state is this process' own, so that `try_choose` decides without waiting for anybody.
    """

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
        self.tiers = PoolTiers(self.keys, strategies, state, price)
        self.health = Health(state, self.clock)
        self.direct = state if isinstance(state, MemoryState) else None
        self._cooldowns: Mapping[str, object] = self.direct.cooldowns if self.direct is not None else {}
        if self.direct is not None:
            for key in self.keys:
                key.hold_limits(self.direct)
        # Turns go on where the ring before a reload stood: a key used first by the new one must not stay the oldest.
        self._turn = max([key.life.last_used for key in self.keys], default=0)
        self._guarded = any(not key.enabled or key.life.suspect or key.life.switched is False for key in self.keys)
        self._switches_read = -NEVER
        self.limits_tokens = any(key.tpm is not None for key in self.keys)
        self._waiting = Waiting(self.clock)
        self._turns = self._waiting.turns
        self.wait = self._waiting.wait
        """Until it is worth asking again: a key may have come free, or so many seconds have passed."""

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
        if self.direct is not None:
            return self.try_choose(task, model, tokens, sticky, excluded, only, pinned)
        state = self.state
        now = self._now()
        if state.shared and now - self._switches_read > LOOK_EVERY:
            self._read_switches()
        if now >= self.tiers.look_at:
            self.tiers.look(now)
        guarded = self._guarded or not state.calm
        alternatives: list[Claims] = []
        offered: list[tuple[Key, Peers]] = []
        spare: tuple[Key, Peers] | None = None
        nearest = NEVER
        why = "no key is for this call"
        for peers in self.tiers.pinned if pinned and sticky is not None else self.tiers.of(task, model):
            for key in peers.ordered(sticky, now):
                if key.id in excluded or (only is not None and key.id != only):
                    continue
                wait = self.health.out(key, model) if guarded else 0.0
                if wait > 0:
                    nearest, why = min(nearest, wait), "every key is out"
                elif key.limited:
                    alternatives.append(key.claims(tokens))
                    offered.append((key, peers))
                else:
                    spare = (key, peers)  # it has no limits, so none behind it is needed
                    break
            if spare is not None:
                break
        if alternatives:
            if len(alternatives) > MOST_ALTERNATIVES:
                alternatives, offered = self._likely(alternatives, offered)
            answer = await state.reserve(alternatives)
            if isinstance(answer, Grant):
                key, peers = offered[answer.index]
                if state.calm or self.health.out(key, model) <= 0:
                    return self._lease(peers, key, None, answer, tokens, task, model, answer.stamp)
                state.free(answer)  # somebody else met its limit while we asked
                return NoKey(0.05, "every key is out")
            nearest, why = min(nearest, answer.wait), _full(answer.wait, tokens)
        if spare is not None:
            key, peers = spare
            return self._lease(peers, key, None, None, tokens, task, model, self._now())
        return NoKey(nearest, why)

    def try_choose(
        self,
        task: str | None,
        model: str | None,
        tokens: int,
        sticky: str | None = None,
        excluded: Container[str] = (),
        only: str | None = None,
        pinned: bool = False,
    ) -> KeyLease | NoKey:
        """`choose` without a coroutine, where the ring is `direct`."""
        monotonic = self._now  # a function that an attribute holds is called quicker by a name
        now = monotonic()
        tiers = self.tiers
        if now >= tiers.look_at:
            tiers.look(now)
        found = tiers.all or tiers.of(task, model)
        if excluded or only is not None or pinned:
            return self._search(found, now, task, model, tokens, sticky, excluded, only, pinned)
        peers = found[0]
        key = peers.only or peers.best(sticky, now)
        if (self._guarded or self._cooldowns) and self._is_out(peers, key, model, now):
            return self._search(found, now, task, model, tokens, sticky)
        joint = key.joint
        if joint is not None and not joint.take(tokens, now):
            return self._search(found, now, task, model, tokens, sticky)
        return self._lease(peers, key, joint, None, tokens, task, model, now)

    def _search(
        self,
        found: Tiers,
        now: float,
        task: str | None,
        model: str | None,
        tokens: int,
        sticky: str | None,
        excluded: Container[str] = (),
        only: str | None = None,
        pinned: bool = False,
    ) -> KeyLease | NoKey:
        """The first key of all, best first, that may be used and whose limits fit."""
        guarded = self._guarded or self._cooldowns
        full: list[Key] = []
        nearest = NEVER
        why = "no key is for this call"
        for peers in self.tiers.pinned if pinned and sticky is not None else found:
            for key in peers.ordered(sticky, now):
                if key.id in excluded or (only is not None and key.id != only):
                    continue
                wait = self.health.out(key, model) if guarded else 0.0
                if wait > 0:
                    nearest, why = min(nearest, wait), "every key is out"
                    continue
                joint = key.joint
                if joint is not None and not joint.take(tokens, now):
                    full.append(key)
                    continue
                return self._lease(peers, key, joint, None, tokens, task, model, now)
        for key in full:
            wait = self.state.peek(key.claims(tokens))
            nearest, why = min(nearest, wait), _full(wait, tokens)
        return NoKey(nearest, why)

    def _is_out(self, peers: Peers, key: Key, model: str | None, now: float) -> bool:
        """Whether the best key cannot be used; if no model can use it, its peers go first until it is back."""
        left = self.health.out(key, None)
        if left > 0:
            peers.rest(key, now + left)
            return True
        return model is not None and self.health.out(key, model) > 0

    def _likely(
        self, alternatives: list[Claims], offered: list[tuple[Key, Peers]]
    ) -> tuple[list[Claims], list[tuple[Key, Peers]]]:
        """Those that fit by the local picture come first, the order of the strategies within."""
        ranked = sorted(range(len(alternatives)), key=lambda place: self.state.peek(alternatives[place]) > 0)
        kept = ranked[:MOST_ALTERNATIVES]
        return [alternatives[place] for place in kept], [offered[place] for place in kept]

    def _lease(
        self, peers: Peers, key: Key, joint: Joint | None, grant: Grant | None, tokens: int, task: str | None,
        model: str | None, now: float,
    ) -> KeyLease:  # fmt: skip
        life = key.life
        self._turn = life.last_used = self._turn + 1
        life.in_flight += 1
        if life.suspect:
            life.probing = True
        seats = key.seats
        if seats:
            if key.limited and self.tiers.loads:
                # What this call takes counts at once; the shared figures are read again after LOOK_EVERY.
                of_rpm, of_tpm = key.part_of_rpm, tokens * key.part_of_tpm
                life.load += of_rpm if of_rpm > of_tpm else of_tpm
                life.share = life.load
                if key.slots is not None:
                    busy = life.in_flight * key.part_of_slots
                    life.share = busy if busy > life.load else life.load
            for seat in seats:
                if seat.weighs and seat.peers is peers:
                    peers.pay(seat)
                seat.stale.add(seat)
        if self._turns:
            self._waiting.wake()
        lease = KeyLease()
        lease.ring = self
        lease.key = key
        lease.joint = joint
        lease.grant = grant
        lease.tokens = tokens
        lease.task = task
        lease.model = model
        lease.stamp = now
        lease.open = True
        return lease

    def back_in(self, ids: Container[str], model: str | None) -> float:
        """Seconds until the first of these keys, which a call has used up, may serve another call; NEVER if unknown."""
        waits = (self.health.out(key, model) for key in self.keys if key.id in ids)
        return min((wait for wait in waits if wait > 0), default=NEVER)

    # --- after an attempt ----------------------------------------------------------------------

    def end(
        self,
        lease: KeyLease,
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
        used = (lease.tokens if tokens is None else tokens) if sent else 0
        monotonic = self._now
        now = monotonic()
        joint = lease.joint
        if joint is not None:
            joint.settle(sent, lease.tokens, used, lease.stamp, now)
            lease.joint = None  # whoever still knows the lease keeps no limits in hand
        elif lease.grant is not None:
            self.state.settle(lease.grant, key.usage(sent, used))
        if life.probing:
            life.probing = False
            self.tiers.wake()
        if sent:
            life.requests += 1
            life.last_used_at = now
            if outcome == "answered" or outcome == "stopped":  # noqa: PLR1714 - on the way of every call
                life.successes += 1
            if key.rpm is None or key.tpm is None:
                life.recent.add(now, 1, used)
            if first_byte is not None:
                old = life.latency
                if old is not None and now - life.latency_at < FORGET_LATENCY:
                    first_byte = old + SMOOTHING * (first_byte - old)
                life.latency = life.pace = first_byte
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
        if headers is not None and (len(headers) != life.silent_size or now >= life.silent_until):
            self.health.correct(key, headers, now)
        if self.tiers.ends:
            if key.slots is not None:
                busy = life.in_flight * key.part_of_slots
                life.share = busy if busy > life.load else life.load
            for seat in key.seats:
                seat.stale.add(seat)
        if self._turns:
            self._waiting.wake()

    # --- by hand, and to look at ---------------------------------------------------------------

    def switch(self, key_id: str, *, on: bool) -> bool:
        """Enables or disables a key at once, on every replica; enabling also ends its cooldowns. False: no such key."""
        key = self.by_id.get(key_id)
        if key is None:
            return False
        self.health.switch(key, on=on)
        self._guard()
        self._waiting.wake_all()
        return True

    def _read_switches(self) -> None:
        """What was switched by hand on another replica."""
        self._switches_read = self._now()
        for key in self.keys:
            note = self.state.read(key.off)
            if note is not None:
                # Another replica may have a secret for it where this one has none.
                key.life.switched = note == b"on" and bool(key.reveal())
        self._guard()

    def _guard(self) -> None:
        self._guarded = any(key.life.suspect or not enabled(key) for key in self.keys)
        self.tiers.wake()

    def snapshot(self) -> list[dict[str, Any]]:
        """One object a key, for `GET /api/v1/keys`; durations in seconds, never a secret."""
        return [{"pool": self.pool, **describe(key, self.health, self.clock)} for key in self.keys]


def _full(wait: float, tokens: int) -> str:
    if wait == NEVER:
        return f"the call needs {tokens} tokens, more than any key may take in a minute (max_tpm)"
    return "every key is at its limit"
