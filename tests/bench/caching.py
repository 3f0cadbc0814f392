"""CPU of the cache's own work on a call that misses, in microseconds: asked, joined by nobody, answered, stored.

    python tests/bench/caching.py [--calls 20000] [--rounds 9]

A chain with a cache and the same chain without one, gone down and up as the flow does, in turn; without sockets,
upstream or other policies. Every call has a text and an answer of its own, which are parsed in either chain, as in any
chain that has a reason to read them. Around the cache stands a policy that judges bodies alone, so that the chain also
looks whether it has seen the body (``proxy.seen``). ``--parts``: what single steps take, fifty calls in a row.
"""

from __future__ import annotations

import argparse
import gc
import struct
import time
from typing import Any, ClassVar

import orjson
import uvloop
from compare import call
from world import ANSWER, PROMPT

from proxy.accounting.charge import Bill
from proxy.accounting.usage import Usage
from proxy.below import Below
from proxy.chain import Chain, Step
from proxy.clock import SystemClock
from proxy.document import Document
from proxy.exchange import Answer, Attempt, Exchange, Request, Target
from proxy.flow import Flow
from proxy.head import Head
from proxy.policies.cache import Cache
from proxy.policy import Policy
from proxy.quick_hash import quick_hash
from proxy.testing import exchange_builder, policy_builder, services_builder

BODY = call("bench", PROMPT).encode()
BEFORE, AFTER = BODY.split(b"000000000", 1)
SAID = ANSWER.encode()
TOGETHER = 32
USAGE = Usage(input=150, output=160)


class Judge(Policy):
    """Has nothing to say of any body."""

    name: ClassVar[str] = "judge"
    body_alone: ClassVar[bool] = True

    def on_request(self, exchange: Exchange) -> None:
        return


class Least(Policy):
    """Names a body, looks, judges the answer by its one reason, copies it and keeps it."""

    name: ClassVar[str] = "least"

    def __init__(self, options: Any, services: Any, *, label: str | None = None, observe: bool = False) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self.kept: dict[bytes, bytes] = {}

    def on_request(self, exchange: Exchange) -> None:
        tree = exchange.tree
        name = quick_hash(orjson.dumps(tree, None, orjson.OPT_SORT_KEYS))
        assert name not in self.kept  # every call is another
        exchange.local[self] = name

    def on_response(self, exchange: Exchange, answer: Answer) -> None:
        body, dialect = answer.body, exchange.dialect
        if answer.status == 200 and body is not None and dialect is not None:
            name = exchange.local.pop(self)
            if body.finish(dialect).reasons == ["stop"]:
                self.kept[name] = _front(time.monotonic(), time.time()) + body.encode()


_front = struct.Struct(">dd").pack


class Calls:
    """Makes calls and their answers."""

    def __init__(self) -> None:
        self._model = exchange_builder(orjson.loads(BODY))
        self._number = 0
        request = self._model.request
        head = object.__new__(Head)
        head.sent_up, head.framed, head.ours = {}, None, False
        self._head = head
        self._like = (
            request.method, request.target, request.path, request.raw_path, request.query, request.headers,
            request.raw_headers, request.peer,
        )  # fmt: skip

    def exchange(self) -> Exchange:
        """One that has been matched and whose body others have read."""
        self._number += 1
        request = Request(*self._like)
        request.head = self._head
        raw = b"%b%09d%b" % (BEFORE, self._number, AFTER)
        request.raw_body = raw
        body = request.body = Document(raw)
        exchange = Exchange("req-0123456789", request, 1.0, 1.0)
        exchange.dialect, exchange.target = self._model.dialect, Target("bench")
        body.strict()
        assert not exchange.streaming
        return exchange

    def answer(self, exchange: Exchange) -> Answer:
        """What the provider says, read and counted."""
        attempt = Attempt(1, 1, exchange.target, "bench", 0.0)
        bill = attempt.bill = Bill()
        bill.paid, bill.counts = True, (150, 160, 0, 0, 0, 0)
        attempt.usage = exchange.usage = USAGE
        exchange.served_by = attempt
        document = Document(b"%b " % SAID)
        assert exchange.dialect is not None
        document.finish(exchange.dialect)
        return Answer(200, [], origin="upstream", body=document)


class Way:
    """A chain as the flow goes through it."""

    def __init__(self, calls: Calls, *policies: Policy) -> None:
        self.calls = calls
        self.chain = Chain("measured", [Step(policy, closed=True) for policy in policies])

    def down(self) -> Flow:
        chain, exchange = self.chain, self.calls.exchange()
        flow = Flow(None, exchange)  # type: ignore[arg-type]
        chain.down(exchange)
        if chain.split is not None:
            said = chain.fly(exchange, Below(flow, chain))
            assert said is None
            assert chain.below is not None
            chain = chain.through  # type: ignore[assignment]
            exchange.entered = chain.end
        flow.chain = chain
        return flow

    def up(self, flow: Flow) -> None:
        exchange, chain = flow.exchange, flow.chain
        answer = self.calls.answer(exchange)
        assert chain is not None
        if chain.answers:
            chain.up(exchange, answer)


def measure(way: Way, calls: int) -> float:
    """Microseconds a call: ``TOGETHER`` go down, then up."""
    began = time.thread_time()
    for _ in range(calls // TOGETHER):
        for flow in [way.down() for _ in range(TOGETHER)]:
            way.up(flow)
    return (time.thread_time() - began) / (calls // TOGETHER * TOGETHER) * 1e6


async def run(args: Any) -> None:
    services = services_builder(SystemClock())
    judge = policy_builder(Judge, services=services)
    cache = policy_builder(Cache, {"ttl": "1h", "stale_if_error": "10m"}, services=services)
    least = policy_builder(Least, services=services)
    await cache.start()
    calls = Calls()
    ways = {"none": Way(calls, judge), "cache": Way(calls, judge, cache), "least": Way(calls, judge, least)}
    best = dict.fromkeys(ways, float("inf"))
    gc.collect()
    for _ in range(args.rounds):
        for name, way in ways.items():
            best[name] = min(best[name], measure(way, args.calls))
            least.kept.clear()
    assert cache.stats()["stored"] == args.rounds * (args.calls // TOGETHER) * TOGETHER
    print(
        f"{best['cache'] - best['none']:6.2f} us a miss with its store ({best['none']:.2f} the calls without a cache)"
    )
    print(f"{best['least'] - best['none']:6.2f} us the least that a cache can do")
    await cache.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
