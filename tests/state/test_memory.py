"""State of one process: exact limits, nothing kept for those who went home."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.clock import FakeClock
from proxy.state import NEVER, Bucket, Counter, Grant, MemoryState, Refusal, Share, Slots, Window


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def state(clock: FakeClock) -> MemoryState:
    return MemoryState(clock)


def take(state, *claims):
    return state.try_reserve((claims,))


def test_the_whole_limit_is_usable_at_once_and_again_after_the_span(state, clock):
    rpm = Window("rpm", 60)
    assert all(take(state, (rpm, 1)) for _ in range(60))
    refused = take(state, (rpm, 1))
    assert not refused and refused.wait == 61.0
    clock.advance(60.9)
    assert not take(state, (rpm, 1))
    clock.advance(0.1)
    assert all(take(state, (rpm, 1)) for _ in range(60))


def test_cells_drop_one_by_one(state, clock):
    rpm = Window("rpm", 3)
    for _ in range(3):
        assert take(state, (rpm, 1))
        clock.advance(10)
    assert take(state, (rpm, 2)).wait == 41.0
    clock.advance(31)
    assert take(state, (rpm, 1))
    assert not take(state, (rpm, 1))


def test_several_limits_are_taken_together_or_not_at_all(state):
    rpm, tpm, slots, bucket = Window("r", 10), Window("t", 100), Slots("s", 2), Bucket("b", 1, 10)
    assert take(state, (rpm, 1), (slots, 1), (bucket, 5), (tpm, 100))
    before = [state.usage(limit).remaining for limit in (rpm, slots, bucket)]
    refused = take(state, (rpm, 1), (slots, 1), (bucket, 5), (tpm, 1))
    assert not refused and refused.limit is tpm
    assert [state.usage(limit).remaining for limit in (rpm, slots, bucket)] == before


def test_a_refusal_names_the_longest_wait_of_the_nearest_alternative(state):
    slow, quick = Window("slow", 1), Bucket("quick", 1, 1)
    assert take(state, (slow, 1), (quick, 1))
    refused = state.try_reserve((((slow, 1), (quick, 1)), ((quick, 1),)))
    assert refused.limit is quick and refused.wait == pytest.approx(1.0)


@pytest.mark.parametrize("limit", [Window("w", 5), Bucket("b", 1, 5), Counter("c", 5, 60), Slots("s", 5)])
def test_more_than_the_limit_never_fits(state, limit):
    assert take(state, (limit, 6)).wait == NEVER
    assert state.peek(((limit, 6),)) == NEVER


def test_settling_replaces_the_estimate_in_the_cell_it_was_booked_in(state, clock):
    tpm = Window("tpm", 1000)
    grant = take(state, (tpm, 900))
    clock.advance(10)
    state.settle(grant, (200,))
    assert state.usage(tpm).used == 200
    clock.advance(51)
    assert state.usage(tpm).used == 0


def test_a_call_that_left_late_counts_from_then(state, clock):
    rpm = Window("rpm", 1)
    grant = take(state, (rpm, 1))
    clock.advance(5)
    state.settle(grant, (1,), sent_at=clock.monotonic())
    clock.advance(57)
    assert not take(state, (rpm, 1))
    clock.advance(4)
    assert take(state, (rpm, 1))


def test_a_settlement_long_after_the_window_changes_nothing(state, clock):
    tpm = Window("tpm", 1000)
    grant = take(state, (tpm, 900))
    clock.advance(100)
    state.settle(grant, (100,))
    assert state.usage(tpm).used == 0


def test_a_grant_is_given_back_once(state):
    slots = Slots("s", 1)
    grant = take(state, (slots, 1))
    state.free(grant)
    state.free(grant)
    assert state.usage(slots).held == 0
    assert repr(grant) == "Grant(s+1, settled)"


def test_a_bucket_refills_and_owes_what_was_underestimated(state, clock):
    bucket = Bucket("b", rate=10, burst=100)
    grant = take(state, (bucket, 100))
    assert take(state, (bucket, 1)).wait == pytest.approx(0.1)
    state.settle(grant, (150,))
    assert take(state, (bucket, 1)).wait == pytest.approx(5.1)
    clock.advance(15)
    assert take(state, (bucket, 100))


def test_a_counter_keeps_spent_and_reserved_apart(state, clock):
    usd = Counter("usd", 100, ttl=3600)
    one, two = take(state, (usd, 60)), take(state, (usd, 40))
    refused = take(state, (usd, 10))
    assert (refused.used, refused.held, refused.wait) == (0, 100, 1.0)
    state.settle(one, (95,))
    state.free(two)
    refused = take(state, (usd, 10))
    assert (refused.used, refused.held) == (95, 0)
    assert refused.wait == pytest.approx(3600)
    clock.advance(3600)
    assert take(state, (usd, 100))


def test_a_rolling_counter_forgets_in_steps(state, clock):
    usd = Counter("usd", 100, ttl=0, span=3600)
    state.settle(take(state, (usd, 50)), (50,))
    clock.advance(1800)
    state.settle(take(state, (usd, 50)), (50,))
    assert 1800 < take(state, (usd, 10)).wait <= 1860
    clock.advance(1861)
    assert take(state, (usd, 50))


def test_more_than_a_workers_share_of_a_counter_is_refused_also_as_the_first(clock):
    half = MemoryState(clock, Share(0, 2))
    refusal = half.try_reserve((((Counter("c", 10, 60.0), 6),),))
    assert isinstance(refusal, Refusal)
    assert refusal.wait == 60.0


def test_a_counter_can_be_restored_from_a_ledger(state):
    usd = Counter("usd", 100, ttl=3600)
    state.seed(usd, 70)
    state.seed(usd, 30)
    assert state.usage(usd).used == 70


def test_a_correction_counts_as_if_it_had_happened_then(state, clock):
    rpm = Window("rpm", 10)
    assert take(state, (rpm, 1))
    state.book(rpm, 9, age=50)
    assert 10 < take(state, (rpm, 1)).wait <= 11.5
    clock.advance(11.5)
    assert take(state, (rpm, 9))


def test_workers_parts_add_up_to_the_limit(clock):
    rpm = Window("rpm", 10)
    parts = [MemoryState(clock, Share(index, 3)) for index in range(3)]
    taken = [sum(bool(take(part, (rpm, 1))) for _ in range(20)) for part in parts]
    assert taken == [4, 3, 3]
    slots = Slots("s", 2)
    assert [bool(take(part, (slots, 1))) for part in parts] == [True, True, False]


def test_the_later_cooldown_wins_and_ends(state, clock):
    state.cool("key", 10, "429")
    state.cool("key", 5, "x")
    assert (state.cooling("key"), state.why("key")) == (10.0, "429")
    state.cool("key", 20, "longer")
    clock.advance(15)
    assert (state.cooling("key"), state.why("key")) == (5.0, "longer")
    clock.advance(5)
    assert (state.cooling("key"), state.why("key")) == (0.0, "")
    state.cool("key", 5)
    state.warm("key")
    assert state.cooling("key") == 0


def test_notes_maps_and_leases_end_by_themselves(state, clock):
    state.post("a", b"1", 10)
    state.put("files", "f1", b"k", 10, bound=2)
    assert state.try_lease("probe", 10)
    assert not state.try_lease("probe", 10)
    assert (state.read("a"), state.known("files", "f1")) == (b"1", b"k")
    clock.advance(10)
    assert (state.read("a"), state.known("files", "f1"), state.notes("")) == (None, None, {})
    assert state.try_lease("probe", 10)


def test_a_map_keeps_the_newest(state):
    for number in range(5):
        state.put("files", str(number), b"k", 10, bound=3)
    assert [state.known("files", str(number)) for number in range(5)] == [None, None, b"k", b"k", b"k"]


def test_a_wall_clock_that_jumps_changes_nothing(state, clock):
    rpm = Window("rpm", 1)
    assert take(state, (rpm, 1))
    clock.jump(3600)
    assert not take(state, (rpm, 1))
    clock.jump(-7200)
    clock.advance(61)
    assert take(state, (rpm, 1))


async def test_idle_principals_cost_nothing(state, clock):
    await state.start()
    for number in range(20_000):
        assert take(state, (Bucket(f"p{number}", 10, 10), 5))
        state.cool(f"c{number}", 1)
    await clock.run(1.5)
    for _ in range(200):
        await asyncio.sleep(0)
    assert (len(state.meters), len(state.cooldowns), len(state.sweeper)) == (0, 0, 0)
    await state.close()


def test_growth_pays_for_its_own_cleaning(state, clock):
    for number in range(20_000):
        assert take(state, (Bucket(f"p{number}", 10, 10), 1))
        clock.advance(0.01)
    assert len(state.meters) < 100


COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 40), st.integers(0, 1)),
        st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 60)),
        st.tuples(st.just("free"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("pass"), st.floats(0, 30), st.just(0)),
        st.tuples(st.just("jump"), st.floats(-4000, 4000), st.just(0)),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(COMMANDS)
def test_no_window_is_ever_above_its_limit(commands):
    """Counted apart, at the far end: every call and its settled tokens, in every window of 60 s."""
    clock = FakeClock(monotonic=3.7)
    state = MemoryState(clock)
    rpm, tpm, slots = Window("rpm", 7), Window("tpm", 50), Slots("slots", 4)
    grants: list[Grant] = []
    booked: dict[int, tuple[float, int, int]] = {}
    for what, first, second in commands:
        if what == "take":
            grant = state.try_reserve((((rpm, 1), (tpm, first), (slots, second)),))
            if isinstance(grant, Grant):
                grants.append(grant)
                booked[id(grant)] = (clock.monotonic(), 1, first)
        elif what in ("settle", "free") and grants:
            grant = grants[int(first) % len(grants)]
            if grant.open:
                at, _, estimate = booked[id(grant)]
                actual = (1, min(int(second), estimate), 0) if what == "settle" else (0, 0, 0)
                state.settle(grant, actual)
                booked[id(grant)] = (at, actual[0], actual[1])
        elif what == "pass":
            clock.advance(first)
        elif what == "jump":
            clock.jump(first)
        held = sum(grant.claims[2][1] for grant in grants if grant.open)
        assert state.usage(slots).held == held <= 4
    moments = [at for at, _, _ in booked.values()]
    for start in moments:
        inside = [(calls, tokens) for at, calls, tokens in booked.values() if start <= at < start + 60]
        assert sum(calls for calls, _ in inside) <= 7
        assert sum(tokens for _, tokens in inside) <= 50
    for grant in grants:
        state.free(grant)
    clock.advance(200)
    state.sweep(1000)
    assert state.meters == {}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 20)), max_size=60))
def test_a_bucket_never_gives_more_than_burst_and_rate(calls):
    clock = FakeClock()
    state = MemoryState(clock)
    bucket = Bucket("b", rate=3.0, burst=20.0)
    began, given = clock.monotonic(), 0
    for pause, amount in calls:
        clock.advance(pause)
        wait = state.peek(((bucket, amount),))
        grant = state.try_reserve((((bucket, amount),),))
        assert bool(grant) == (wait == 0)
        if grant:
            given += amount
        assert given <= 20 + 3 * (clock.monotonic() - began) + 1e-6


def test_a_snapshots_state_is_its_workers_share_and_a_dry_run_touches_nothing_live():
    from proxy.config.model import Config
    from proxy.services import Services
    from proxy.state.redis import RedisState
    from proxy.wiring import offer_services

    def state(config, **options):
        services = Services(FakeClock(), config, **options)
        offer_services(services)
        return services.get("state")

    assert [state(Config(), workers=4, worker=worker).share.of(6) for worker in range(4)] == [2, 2, 1, 1]
    shared = Config.model_validate({"state": "redis://127.0.0.1:1/0"})
    assert isinstance(state(shared, dry=True), MemoryState)
    assert isinstance(state(shared), RedisState)
