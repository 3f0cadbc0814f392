"""CPU of account + budget + journal alone, in microseconds a call: their hooks called as the flow calls them.

    python tests/bench/accounting.py [--calls 4800]

32 calls at a time, without sockets; the ledger's writer is not running. The same loop without the hooks is subtracted.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
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


class Key:
    """A provider key as an attempt holds it."""

    id = "k1"

    def reveal(self) -> str:
        return "secret"


async def _idle(writer: Writer) -> None:
    await writer._stop.wait()


async def run(folder: Path, calls: int) -> tuple[float, float]:
    """Microseconds a call without and with the hooks, best of twelve."""
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
    model = exchange_builder(BODY)
    assert model.body is not None
    model.body.strict()
    answer = Answer(200, [], origin="upstream")

    async def one(hooks: bool) -> None:
        exchange = Exchange("req-0123456789", model.request, 1.0, 1.0)
        exchange.dialect = model.dialect
        attempt = Attempt(1, 1, Target("bench"), "bench", 0.0)
        attempt.key = Key()
        exchange.attempts.append(attempt)
        assert not exchange.streaming  # the flow and the access log read model and stream of every call
        if hooks:
            account.on_request(exchange)
            said = budget.on_attempt(exchange, attempt)
            if said is not None:  # the first one: nothing is known of the model yet
                await called(said)
            assert exchange.before_send is not None
            exchange.before_send(exchange, attempt)
        attempt.sent = True
        attempt.usage = Usage(input=150, output=160)
        attempt.outcome = exchange.outcome = "answered"
        exchange.answer = answer
        exchange.served_by = attempt
        if hooks:
            budget.on_attempt_end(exchange, attempt)
            account.on_response(exchange, answer)
            account.on_settle(exchange)
            budget.on_done(exchange)

    async def lane(hooks: bool) -> None:
        for _ in range(calls // 32):
            await one(hooks)

    async def measure(hooks: bool) -> float:
        before = time.thread_time()
        await asyncio.gather(*(lane(hooks) for _ in range(32)))
        return (time.thread_time() - before) / (calls // 32 * 32) * 1e6

    pairs = [(await measure(False), await measure(True)) for _ in range(12)]
    await budget.stop()
    await account.stop()
    return min(bare for bare, _ in pairs), min(full for _, full in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4_800)
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as folder:
        bare, full = uvloop.run(run(Path(folder), calls))
    print(f"{full - bare:.2f} us a call ({bare:.2f} without the hooks, {full:.2f} with them)")


if __name__ == "__main__":
    main()
