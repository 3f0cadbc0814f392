"""CPU of select_key and rate_limit alone, in microseconds a call: their hooks called as the chain calls them.

    python tests/bench/limits.py [--calls 20000] [--rounds 7] [--only keys|rates]

In memory mode, without sockets. Keys: choice, reservation, settlement and what is learned, for every strategy and for
pools of 1, 6 and 50 keys. Rates: reservation, headers and settlement by rule set and number of principals, in random
order, so that caches are as cold as in a busy gateway. The same loop without the hooks is subtracted. ``ring`` is
choose and end without the policy around them. Estimates of tokens are worked out once a call for all policies together,
so they are no part of this; no more is what makes an exchange and reads its body, which leaves these in the processor's
caches: with many callers both loops look at both.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from proxy.accounting.usage import Usage
from proxy.clock import SystemClock
from proxy.config.model import Config
from proxy.exchange import Answer, Attempt, Exchange, Principal, Target
from proxy.policies.rate_limit import RateLimit
from proxy.policies.select_key import SelectKey
from proxy.state import MemoryState
from proxy.testing import exchange_builder, policy_builder, services_builder
from proxy.upstream.keys import rings_for

HEADERS = [
    (b"Server", b"nginx/1.22.1"),
    (b"Content-Type", b"application/json"),
    (b"openai-processing-ms", b"412"),
    (b"x-request-id", b"req_0123456789"),
    (b"cf-ray", b"8c1a2b3c4d5e6f70-FRA"),
    (b"alt-svc", b'h3=":443"; ma=86400'),
]
FIGURES = [
    (b"x-ratelimit-limit-requests", b"1000000000"),
    (b"x-ratelimit-limit-tokens", b"1000000000"),
    (b"x-ratelimit-remaining-requests", b"1000000000"),
    (b"x-ratelimit-remaining-tokens", b"1000000000"),
    (b"x-ratelimit-reset-requests", b"6ms"),
    (b"x-ratelimit-reset-tokens", b"30ms"),
]
PLENTY = 1_000_000_000
USAGE = Usage(input=150, output=160)

One = Callable[[int], None]


def cost(one: One, nothing: One, calls: int, rounds: int) -> float:
    """Microseconds that ``one`` takes more than ``nothing``, both in turn, the best of the rounds."""
    best = {one: float("inf"), nothing: float("inf")}
    gc.collect()
    for _ in range(rounds):
        for what in (nothing, one):
            began = time.thread_time()
            for number in range(calls):
                what(number)
            best[what] = min(best[what], (time.thread_time() - began) / calls * 1e6)
    return best[one] - best[nothing]


# --- keys ------------------------------------------------------------------------------------------

POOLS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "no limits": (["task", "priority", "least_loaded"], {}),
    "rpm + tpm": (["task", "priority", "least_loaded"], {"max_rpm": PLENTY, "max_tpm": PLENTY}),
    "rpm + tpm + concurrent": (
        ["task", "priority", "least_loaded"],
        {"max_rpm": PLENTY, "max_tpm": PLENTY, "max_concurrent": 1_000_000},
    ),
    "provider's figures": (["priority"], {"max_rpm": PLENTY, "max_tpm": PLENTY}),
    "another key cools": (["priority"], {}),
    "task": (["task"], {"task_types": ["text"]}),
    "priority": (["priority"], {}),
    "round_robin": (["round_robin"], {}),
    "weighted": (["weighted"], {}),
    "least_loaded": (["least_loaded"], {}),
    "cheapest": (["cheapest"], {"cost_per_token": 0.001}),
    "fastest": (["fastest"], {}),
    "sticky": (["sticky"], {}),
    "sticky, many": (["sticky"], {}),
    "least_loaded, cheapest": (["least_loaded", "cheapest"], {"cost_per_token": 0.001, "max_rpm": PLENTY}),
    "weighted, fastest": (["weighted", "fastest"], {}),
    "least_loaded, sticky": (["least_loaded", "sticky"], {}),
    "all": (
        ["task", "priority", "cheapest", "least_loaded", "weighted", "fastest", "round_robin", "sticky"],
        {"max_rpm": PLENTY, "max_tpm": PLENTY},
    ),
}


def keys(count: int, name: str) -> Iterator[tuple[One, One]]:
    """The policy's hooks, then the ring alone; each with the same without them."""
    strategy, options = POOLS[name]
    config = Config.model_validate(
        {
            "keys": {
                "pool": {
                    "strategy": strategy,
                    "keys": [{"id": f"key-{n}", "secret": f"sk-{n}", **options} for n in range(count)],
                }
            },
            "upstreams": {"openai": {"api": "openai", "base_url": "http://127.0.0.1:9/v1", "keys": "pool"}},
        }
    )
    clock = SystemClock()
    services = services_builder(clock, config)
    state = MemoryState(clock)
    services.offer("state", lambda _: state)
    services.offer("keys", rings_for)
    policy = policy_builder(SelectKey, services=services)
    headers = HEADERS + FIGURES if name == "provider's figures" else HEADERS
    if name == "another key cools":
        state.cool("key:elsewhere", 3600.0, "429")
    answer = Answer(200, headers, origin="upstream")
    many = name == "sticky, many"
    exchanges = [_exchange(number) for number in range(5000 if many else 1)]
    target = Target("openai")
    limits = "max_tpm" in options

    def in_hand(exchange: Exchange) -> Exchange:
        """As whoever made the exchange, looked at its request and parsed its body leaves it."""
        request, tree = exchange.request, exchange.tree
        assert request.raw_body is not None
        assert tree is not None
        request.raw_body.find(b"\0")
        for one in (request.path, exchange.principal.id, exchange.principal.method, exchange.model_asked, *tree):
            hash(one)
        exchange.tags.get("route")
        exchange.local.get(policy)
        exchange.excluded_keys.isdisjoint(())
        return exchange

    def attempt_of(exchange: Exchange) -> Attempt:
        attempt = Attempt(1, 1, target, "openai", 1.0)
        attempt.sent = True
        attempt.status = 200
        attempt.outcome = "answered"
        attempt.response_headers = headers
        attempt.first_byte_at = 1.25
        attempt.usage = USAGE if limits else None
        return attempt

    def hooks(number: int) -> None:
        exchange = in_hand(exchanges[number % 5000]) if many else exchanges[0]
        attempt = attempt_of(exchange)
        policy.on_request(exchange)
        policy.on_attempt(exchange, attempt)
        policy.on_attempt_end(exchange, attempt)
        policy.on_response(exchange, answer)

    def no_hooks(number: int) -> None:
        exchange = in_hand(exchanges[number % 5000]) if many else exchanges[0]
        attempt_of(exchange)

    yield hooks, no_hooks
    ring = services.get("keys").get("pool")
    assert ring is not None
    task = "text" if "task_types" in options else None
    asked = [f"principal:{number}" for number in range(5000)]

    def alone(number: int) -> None:
        lease = ring.try_choose(task, "gpt-4o-mini", 410, asked[number % 5000 if many else 0])
        ring.end(
            lease, sent=1, outcome="answered", status=200, tokens=310 if limits else None, headers=headers,
            first_byte=0.25,
        )  # fmt: skip

    yield alone, lambda _: None


def _exchange(number: int) -> Exchange:
    exchange = exchange_builder(
        {"model": "gpt-4o-mini", "max_tokens": 256, "messages": [{"role": "user", "content": "x" * 600}]},
        principal=Principal(f"principal-{number}", method="keys"),
        tags={"task": "text"},
        clock=SystemClock(),
    )
    assert exchange.body is not None
    exchange.body.strict()
    exchange.input_estimate()
    return exchange


# --- rates -----------------------------------------------------------------------------------------

RULES: dict[str, dict[str, Any]] = {
    "rpm": {"rpm": PLENTY},
    "tpm": {"tpm": PLENTY},
    "rpm + tpm": {"rpm": PLENTY, "tpm": PLENTY},
    "rpm + concurrent": {"rpm": PLENTY, "max_concurrent": PLENTY},
    "rpm, per project and model": {"per": ["project", "model"], "rpm": PLENTY},
    "rpm + tpm, and rpm for all": {"rpm": PLENTY, "tpm": PLENTY, "limits": [{"per": ["all"], "rpm": PLENTY}]},
}


def rates(principals: int, rules: dict[str, Any]) -> tuple[One, One]:
    """The hooks of one policy, and the same without them."""
    clock = SystemClock()
    services = services_builder(clock)
    state = MemoryState(clock)
    services.offer("state", lambda _: state)
    policy = policy_builder(RateLimit, rules, services=services)
    exchange = _exchange(0)
    exchange.usage = USAGE
    exchange.attempts.append(Attempt(1, 1, Target("openai"), "openai", 1.0))
    people = [Principal(f"principal-{number}", project=f"project-{number}") for number in range(principals)]
    callers = [people[number % principals] for number in range(max(principals, 1000))]
    random.Random(7).shuffle(callers)
    several = len(callers)

    def hooks(number: int) -> None:
        exchange.principal = caller = callers[number % several]
        exchange.project = caller.project
        hash(caller.id)  # whoever authenticates has it in his hands
        answer = Answer(200, [*HEADERS], origin="upstream")
        policy.on_request(exchange)
        policy.on_response(exchange, answer)
        policy.on_done(exchange)

    def no_hooks(number: int) -> None:
        exchange.principal = caller = callers[number % several]
        exchange.project = caller.project
        hash(caller.id)
        Answer(200, [*HEADERS], origin="upstream")

    return hooks, no_hooks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("keys", "rates"))
    args = parser.parse_args()
    if args.only != "rates":
        print(f"{'select_key':32}{'1 key':>8}{'(ring)':>8}{'6 keys':>8}{'(ring)':>8}{'50 keys':>8}{'(ring)':>8}")
        for name in POOLS:
            row = [cost(*pair, args.calls, args.rounds) for count in (1, 6, 50) for pair in keys(count, name)]
            print(f"{name:32}" + "".join(f"{figure:8.2f}" for figure in row), flush=True)
    if args.only != "keys":
        print(f"{'rate_limit':32}{'1':>10}{'100':>10}{'10,000':>10}{'100,000':>10}   principals")
        for name, rules in RULES.items():
            figures = []
            for principals in (1, 100, 10_000, 100_000):
                calls = max(args.calls, principals)
                figures.append(cost(*rates(principals, rules), calls, args.rounds if principals < 100_000 else 2))
            print(f"{name:32}" + "".join(f"{figure:10.2f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
