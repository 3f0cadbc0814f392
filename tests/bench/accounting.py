"""CPU of account + budget + journal alone, in microseconds a call: their hooks called as the flow calls them.

    python tests/bench/accounting.py [--calls 4800] [--hooks]

32 calls at a time, without sockets; the ledger's writer is not running. The same loop without the hooks is subtracted.
``--hooks``: each hook apart, fifty calls in a row; their sum is less than the whole, which also frees what they made.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from proxy.accounting.books import Books
from proxy.accounting.usage import Usage
from proxy.accounting.writer import Writer
from proxy.clock import SystemClock
from proxy.config.model import Config
from proxy.exchange import Answer, Attempt, Exchange, Target
from proxy.policies.account import Account
from proxy.policies.budget import Budget
from proxy.policy import called
from proxy.state import MemoryState
from proxy.testing import exchange_builder, policy_builder, services_builder

BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 600}], "temperature": 0.2}
IN_A_ROW = 50
ROUNDS = 600


class Key:
    """A provider key as an attempt holds it."""

    id = "k1"

    def reveal(self) -> str:
        return "secret"


class Calls:
    """Makes calls, and ends their attempts as the flow does."""

    def __init__(self) -> None:
        self._model = exchange_builder(BODY)
        assert self._model.body is not None
        self._model.body.strict()
        self._answer = Answer(200, [], origin="upstream")

    def begin(self) -> tuple[Exchange, Attempt]:
        exchange = Exchange("req-0123456789", self._model.request, 1.0, 1.0)
        exchange.dialect = self._model.dialect
        attempt = Attempt(1, 1, Target("bench"), "bench", 0.0)
        attempt.key = Key()
        exchange.attempts.append(attempt)
        assert not exchange.streaming  # the flow and the access log read model and stream of every call
        return exchange, attempt

    def end(self, exchange: Exchange, attempt: Attempt) -> Answer:
        attempt.sent = True
        attempt.usage = Usage(input=150, output=160)
        attempt.outcome = exchange.outcome = "answered"
        exchange.answer = self._answer
        exchange.served_by = attempt
        return self._answer


async def _idle(writer: Writer) -> None:
    await writer._stop.wait()


async def started(folder: Path) -> tuple[Account, Budget]:
    """Both policies over a journal in ``folder``."""
    Writer._run = _idle  # type: ignore[method-assign]
    books, clock = Books(Config(data=folder)), SystemClock()
    services = services_builder(clock)
    state = MemoryState(clock)
    services.offer("accounting", lambda _: books)
    services.offer("state", lambda _: state)
    account = policy_builder(Account, services=services)
    budget = policy_builder(Budget, {"usd": 1_000_000, "per": "project", "warn_at": [0.5, 0.8]}, services=services)
    await account.start()
    await books.warmed()
    await budget.start()
    return account, budget


async def whole(account: Account, budget: Budget, count: int) -> tuple[float, float]:
    """Microseconds a call without and with the hooks, best of twelve."""
    calls = Calls()

    async def one(hooks: bool) -> None:
        exchange, attempt = calls.begin()
        if hooks:
            account.on_request(exchange)
            said = budget.on_attempt(exchange, attempt)
            if said is not None:  # the first one: nothing is known of the model yet
                await called(said)
            assert exchange.before_send is not None
            exchange.before_send(exchange, attempt)
        answer = calls.end(exchange, attempt)
        if hooks:
            budget.on_attempt_end(exchange, attempt)
            account.on_response(exchange, answer)
            account.on_settle(exchange)
            budget.on_done(exchange)

    async def lane(hooks: bool) -> None:
        for _ in range(count // 32):
            await one(hooks)

    async def measure(hooks: bool) -> float:
        before = time.thread_time()
        await asyncio.gather(*(lane(hooks) for _ in range(32)))
        return (time.thread_time() - before) / (count // 32 * 32) * 1e6

    pairs = [(await measure(False), await measure(True)) for _ in range(12)]
    return min(bare for bare, _ in pairs), min(full for _, full in pairs)


def apart(account: Account, budget: Budget) -> dict[str, float]:
    """Microseconds of each hook, best of many. Something has to be known of the model."""
    calls = Calls()

    def begin(exchange: Exchange, attempt: Attempt) -> None:
        assert exchange.before_send is not None
        exchange.before_send(exchange, attempt)

    hooks: dict[str, Callable[[Exchange, Attempt], object]] = {
        "account.on_request": lambda exchange, _: account.on_request(exchange),
        "estimate of the input": lambda exchange, _: exchange.input_estimate(),
        "budget.on_attempt": budget.on_attempt,
        "account, before_send": begin,
        "(the attempt)": calls.end,
        "budget.on_attempt_end": budget.on_attempt_end,
        "account.on_response": lambda exchange, _: account.on_response(exchange, exchange.answer),
        "account.on_settle": lambda exchange, _: account.on_settle(exchange),
        "budget.on_done": lambda exchange, _: budget.on_done(exchange),
    }
    best = dict.fromkeys(hooks, float("inf"))
    for _ in range(ROUNDS):
        made = [calls.begin() for _ in range(IN_A_ROW)]
        for name, hook in hooks.items():
            before = time.perf_counter_ns()
            for exchange, attempt in made:
                hook(exchange, attempt)
            best[name] = min(best[name], (time.perf_counter_ns() - before) / IN_A_ROW / 1_000)
    del best["(the attempt)"]
    return best


async def run(folder: Path, count: int, hooks: bool) -> None:
    """Measure and print."""
    account, budget = await started(folder)
    bare, full = await whole(account, budget, count)
    print(f"{full - bare:.2f} us a call ({bare:.2f} without the hooks, {full:.2f} with them)")
    if hooks:
        for name, took in apart(account, budget).items():
            print(f"{took:6.2f}  {name}")
    await budget.stop()
    await account.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4_800)
    parser.add_argument("--hooks", action="store_true", help="each hook apart, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(run(Path(folder), options.calls, options.hooks))


if __name__ == "__main__":
    main()
