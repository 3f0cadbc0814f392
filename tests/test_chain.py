"""A chain knows at load which policy has which phase, and runs them in the order that is said."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.chain import Chain, Step
from proxy.errors import ProxyError
from proxy.exchange import Answer, Attempt, Target
from proxy.policy import Fallback, Policy, Retry, Verdict, Veto
from proxy.testing import called, exchange_builder, policy_builder


def chain(*phases: dict[str, Any], closed: bool = False, when: Any = None) -> Chain:
    """A chain of policies made of phase functions."""
    steps = []
    for number, one in enumerate(phases):
        kind = type(f"P{number}", (Policy,), {"name": f"p{number}", **one})
        steps.append(Step(policy_builder(kind), closed, when))
    return Chain("made", steps)


async def _nothing(self: Any, *_: Any) -> None:
    return None


def test_a_chain_pays_only_for_the_phases_it_has():
    empty, asking = chain(), chain({"on_request": _nothing})
    flags = ["asks", "answers", "finishes", "settles", "attempts", "opens_streams"]
    assert [getattr(empty, flag) for flag in flags] == [False] * 6
    assert [getattr(asking, flag) for flag in flags] == [True] + [False] * 5
    assert chain({"on_done": _nothing}).finishes
    assert chain({"on_result": _nothing}).attempts
    assert chain({"late_commit": True}).late_commit


async def test_entered_counts_those_above_the_answer():
    async def answer(self: Any, exchange: Any) -> Answer:
        return Answer(200, [], origin="policy")

    made = chain({"on_request": _nothing}, {"on_request": answer}, {"on_request": _nothing})
    exchange = exchange_builder()
    assert await called(made.down(exchange)) is not None
    assert exchange.entered == 1
    exchange = exchange_builder()
    assert await called(chain({"on_request": _nothing}, {}).down(exchange)) is None
    assert exchange.entered == 2


@pytest.mark.parametrize("skipped", [0, 2], ids=["the first", "the third"])
async def test_policies_are_numbered_through_a_split(skipped):
    """An exchange that goes down both parts says of each policy what is true, and each part calls its own."""
    called_for: list[str] = []

    def note(self: Any, exchange: Any, *_: Any) -> None:
        called_for.append(self.name)

    every = dict.fromkeys(("on_request", "on_attempt", "on_attempt_end", "on_settle", "on_done"), note)
    steps = list(chain(every, {"splits": True}, every, every).all_steps)
    steps[skipped] = Step(steps[skipped].policy, False, lambda x: False)
    above = Chain("made", steps)
    below = above.below
    assert below is not None
    assert (above.first, above.end, below.first, below.end) == (0, 2, 2, 4)
    exchange = exchange_builder()
    attempt = Attempt(1, 1, Target("up"), "up", 0.0)
    await called(above.down(exchange))
    assert exchange.entered == 2
    await called(below.down(exchange))
    assert (exchange.entered, exchange.skipped) == (4, 1 << skipped)
    await called(below.begin_attempt(exchange, attempt))
    await called(below.end_attempt(exchange, attempt))
    for part in (below, above):
        await called(part.settle(exchange))
        await called(part.done(exchange))
    here = [number for number in (0, 2, 3) if number != skipped]
    times = {f"p{number}": called_for.count(f"p{number}") for number in here}
    assert times == {f"p{number}": 3 if number == 0 else 5 for number in here}
    assert f"p{skipped}" not in called_for


async def test_a_when_that_does_not_hold_skips_every_phase():
    done: list[str] = []

    async def note(self: Any, *_: Any) -> None:
        done.append("called")

    made = chain(
        dict.fromkeys(("on_request", "on_attempt", "on_attempt_end", "on_settle", "on_done"), note),
        when=lambda x: False,
    )
    exchange = exchange_builder()
    attempt = Attempt(1, 1, Target("up"), "up", 0.0)
    await called(made.down(exchange))
    await called(made.begin_attempt(exchange, attempt))
    await called(made.end_attempt(exchange, attempt))
    await called(made.settle(exchange))
    await called(made.done(exchange))
    assert done == []


@pytest.mark.parametrize("outer_first", [True, False])
async def test_a_retry_comes_before_a_fallback_wherever_it_stands(outer_first):
    async def retry(self: Any, *_: Any) -> Retry:
        return Retry(1.0)

    async def fall_back(self: Any, *_: Any) -> Fallback:
        return Fallback(Target("other"))

    order = [{"on_result": retry}, {"on_result": fall_back}]
    made = chain(*(order if outer_first else order[::-1]))
    said = await called(made.judge(exchange_builder(), Attempt(1, 1, Target("up"), "up", 0.0), Verdict("timeout")))
    assert said == Retry(1.0)


async def test_an_attempt_ends_once_innermost_first_for_those_that_returned():
    ended: list[int] = []

    def end(number: int) -> Any:
        async def phase(self: Any, *_: Any) -> None:
            ended.append(number)

        return phase

    async def veto(self: Any, *_: Any) -> Veto:
        return Veto("target", ProxyError("circuit_open", "x"))

    made = chain(
        {"on_attempt": _nothing, "on_attempt_end": end(0)},
        {"on_attempt": veto, "on_attempt_end": end(1)},
        {"on_attempt": _nothing, "on_attempt_end": end(2)},
    )
    exchange, attempt = exchange_builder(), Attempt(1, 1, Target("up"), "up", 0.0)
    said = await called(made.begin_attempt(exchange, attempt))
    assert isinstance(said, Veto)
    assert said.error.policy == "p1"
    await called(made.end_attempt(exchange, attempt))
    await called(made.end_attempt(exchange, attempt))
    assert ended == [1, 0]


def test_a_split_puts_what_stands_below_into_a_chain_of_its_own():
    made = chain({"on_request": _nothing}, {"splits": True}, {"on_attempt": _nothing})
    assert made.split is not None
    assert made.below is not None
    assert ([step.label for step in made.steps], [step.label for step in made.below.steps]) == (["p0", "p1"], ["p2"])
    assert not made.attempts
    assert made.below.attempts
    assert [policy.name for policy in made.policies] == ["p0", "p1", "p2"]


# --- a phase is a plain function, a coroutine function, or either as it needs ---------------------


def _phase(kind: str, act: Any) -> Any:
    """The same phase in three forms."""

    async def later(self: Any, *args: Any) -> Any:
        return act(*args)

    def plain(self: Any, *args: Any) -> Any:
        return act(*args)

    def either(self: Any, *args: Any) -> Any:
        return later(self, *args)

    return {"coroutine": later, "plain": plain, "plain that waits": either}[kind]


FORMS = ["coroutine", "plain", "plain that waits"]


@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("second", FORMS)
async def test_plain_and_waiting_phases_run_in_the_order_of_the_chain(first, second):
    said: list[str] = []

    def all_phases(kind: str, name: str) -> dict[str, Any]:
        def act(phase: str) -> Any:
            return _phase(kind, lambda *_: said.append(f"{name} {phase}"))

        phases = ("on_request", "on_attempt", "on_result", "on_attempt_end", "on_response", "on_settle", "on_done")
        return {phase: act(phase) for phase in phases}

    made = chain(all_phases(first, "a"), all_phases(second, "b"))
    exchange, attempt = exchange_builder(), Attempt(1, 1, Target("up"), "up", 0.0)
    answer = Answer(200, [], origin="upstream")
    assert await called(made.down(exchange)) is None
    assert await called(made.begin_attempt(exchange, attempt)) is None
    await called(made.judge(exchange, attempt, Verdict(None, 200)))
    await called(made.end_attempt(exchange, attempt))
    assert await called(made.up(exchange, answer)) is answer
    await called(made.settle(exchange))
    await called(made.done(exchange))
    down = [f"{name} {phase}" for phase in ("on_request", "on_attempt") for name in "ab"]
    phases = ("on_result", "on_attempt_end", "on_response", "on_settle", "on_done")
    assert said == down + [f"{name} {phase}" for phase in phases for name in "ba"]


@pytest.mark.parametrize("kind", FORMS)
async def test_what_a_phase_raises_is_handled_alike_in_every_form(kind):
    def breaks(*_: Any) -> None:
        raise ValueError("x")

    def refuses(*_: Any) -> None:
        raise ProxyError("policy_refused", "no")

    exchange, attempt = exchange_builder(), Attempt(1, 1, Target("up"), "up", 0.0)
    with pytest.raises(ProxyError, match="no") as refused:
        await called(chain({"on_request": _phase(kind, refuses)}).down(exchange))
    assert refused.value.policy == "p0"
    with pytest.raises(ProxyError) as failed:
        await called(chain({"on_request": _phase(kind, breaks)}, closed=True).down(exchange))
    assert failed.value.code == "policy_failed"
    open_one = chain({"on_request": _phase(kind, breaks), "on_attempt": _phase(kind, breaks)}, {"on_attempt": _nothing})
    assert await called(open_one.down(exchange)) is None
    assert await called(open_one.begin_attempt(exchange, attempt)) is None
    assert attempt.broken == 1
    said = await called(chain({"on_attempt": _phase(kind, refuses)}).begin_attempt(exchange, attempt))
    assert isinstance(said, Veto)
    assert said.error.policy == "p0"
    answer = Answer(200, [], origin="upstream")
    exchange.entered = 1
    up = await called(chain({"on_response": _phase(kind, refuses)}).up(exchange, answer))
    assert up.error is not None
    assert up.error.policy == "p0"


@pytest.mark.parametrize("kind", FORMS)
async def test_an_end_runs_for_the_others_when_one_breaks(kind):
    ended: list[int] = []

    def breaks(*_: Any) -> None:
        raise ValueError("x")

    made = chain(
        {"on_done": _phase(kind, lambda *_: ended.append(0))},
        {"on_done": _phase(kind, breaks)},
        {"on_done": _phase(kind, lambda *_: ended.append(2))},
    )
    exchange = exchange_builder()
    exchange.entered = 3
    await called(made.done(exchange))
    assert ended == [2, 0]


@pytest.mark.parametrize("kind", FORMS)
async def test_an_answer_given_at_once_ends_the_way_down(kind):
    answer = Answer(200, [], origin="policy")
    made = chain({"on_request": _phase(kind, lambda *_: answer)}, {"on_request": _nothing})
    exchange = exchange_builder()
    assert await called(made.down(exchange)) is answer
    assert exchange.entered == 0


async def test_each_policy_has_its_time_in_the_debug_timings_in_every_form():
    exchange = exchange_builder()
    exchange.timings = {}
    await called(chain(*({"on_request": _phase(kind, lambda *_: None)} for kind in FORMS)).down(exchange))
    assert list(exchange.timings) == ["p0", "p1", "p2"]
    assert all(seconds > 0 for seconds in exchange.timings.values())
