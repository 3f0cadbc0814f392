"""CPU a call, as a ratio to nginx proxying the same call in the same run.

    python tests/bench/compare.py [--seconds 2] [--rounds 2] [--case 'json c=32'] [--chain empty|default]

Every round measures every target in turn, so that a drift of the machine hits all alike; the median round counts.
CPU is the scheduler's account of the whole process tree, so it depends little on what else runs; throughput and latency
do.
`relay` moves bytes between the same sockets on the same loop and looks at none: what Python pays before any HTTP.
Cases: json (0.7 KB in, 0.8 KB out), big (100 KB prompt), stream (100 events of 230 bytes), hit (the same call again and
again). In all but hit each call differs, so that a cache is asked and filled but never answers.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world import KEY, PROMPT, Target, World, cpu_us, rss_mb, world


def call(model: str, prompt: str, *, stream: bool = False) -> str:
    """A request body."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a careful travel agent. Answer briefly."},
            {"role": "user", "content": prompt},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
    }
    return json.dumps(body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {}))


@dataclass(frozen=True)
class Case:
    """One kind of call. aim: the ratio to nginx that the empty chain must not exceed."""

    connections: int
    body: str
    aim: float | None = None
    stream: bool = False
    same: bool = False


CASES = {
    "json c=1": Case(1, call("bench", PROMPT), 3.5),
    "json c=32": Case(32, call("bench", PROMPT), 3.5),
    "big c=8": Case(8, call("bench", PROMPT * 330), 5.0),
    "stream c=16": Case(16, call("bench-stream", PROMPT, stream=True), 1.2, stream=True),
    "hit c=32": Case(32, call("bench", PROMPT), None, same=True),
}


@dataclass(frozen=True)
class Row:
    """One measurement. us: of CPU a call. bad: answers that were not 2xx."""

    us: float
    rate: float
    p50: str
    p99: str
    rss: float
    bad: int
    ratio: float = 0.0


def measure(target: Target, case: Case, seconds: int, folder: Path) -> Row:
    """Drive one target with wrk."""
    script = folder / "case.lua"
    lines = [
        'wrk.method = "POST"',
        'wrk.headers["Content-Type"] = "application/json"',
        f'wrk.headers["Authorization"] = "Bearer {KEY}"',
    ]
    if case.stream:
        lines.append('wrk.headers["x-bench"] = "stream"')
    if case.same:
        lines.append(f"wrk.body = [==[{case.body}]==]")
    else:
        before, after = case.body.split("000000000", 1)
        lines += [
            f"local before, after = [==[{before}]==], [==[{after}]==]",
            "local n = os.time() % 1000 * 1000000",
            "function request()",
            "  n = n + 1",
            "  return wrk.format(nil, nil, nil, before .. string.format('%09d', n) .. after)",
            "end",
        ]
    script.write_text("\n".join(lines))
    used = cpu_us(target.pid)
    done = subprocess.run(
        [
            *("wrk", "-t1", f"-c{case.connections}", f"-d{seconds}s", "-s", str(script), "--latency"),
            f"{target.url}/v1/chat/completions",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    used = cpu_us(target.pid) - used
    said = done.stdout

    def find(pattern: str, default: str) -> str:
        found = re.search(pattern, said)
        return found[1] if found else default

    count = int(find(r"(\d+) requests in", "0"))
    bad = int(find(r"Non-2xx or 3xx responses: (\d+)", "0"))
    bad += sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", said)))
    return Row(
        used / max(count, 1),
        count / seconds,
        find(r"(?m)^\s+50%\s+(\S+)", "-"),
        find(r"(?m)^\s+99%\s+(\S+)", "-"),
        rss_mb(target.pid),
        bad,
    )


def compare(
    here: World, targets: list[Target], seconds: int, rounds: int, cases: list[str]
) -> dict[str, dict[str, Row]]:
    """Rows by case and target, nginx first."""
    assert here.nginx is not None
    table: dict[str, dict[str, Row]] = {}
    for name in cases:
        case = CASES[name]
        runs: dict[str, list[Row]] = {}
        for _ in range(rounds):
            for target in [here.nginx, *targets]:
                if target.name == "relay" and case.stream:
                    continue  # it leads to one upstream only
                runs.setdefault(target.name, []).append(measure(target, case, seconds, here.folder))
        base = statistics.median_low(row.us for row in runs["nginx"])
        table[name] = {}
        for who, rows in runs.items():
            middle = sorted(rows, key=lambda row: row.us)[(len(rows) - 1) // 2]
            table[name][who] = Row(
                middle.us, middle.rate, middle.p50, middle.p99, middle.rss,
                sum(row.bad for row in rows), middle.us / base,
            )  # fmt: skip
    return table


def show(table: dict[str, dict[str, Row]]) -> None:
    """Print it, with the aim where there is one."""
    print(
        f"{'case':13}{'target':10}{'CPU us/call':>12}{'x nginx':>9}{'aim':>6}{'calls/s':>9}{'p50':>10}{'p99':>10}"
        f"{'RSS MB':>8}{'not 2xx':>9}"
    )
    for name, rows in table.items():
        for who, row in rows.items():
            aim = CASES[name].aim if who == "empty" else 6.2 if (who, name) == ("default", "json c=32") else None
            print(
                f"{name:13}{who:10}{row.us:12.1f}{row.ratio:9.2f}{'' if aim is None else f'{aim:g}':>6}{row.rate:9.0f}"
                f"{row.p50:>10}{row.p99:>10}{row.rss:8.1f}{row.bad:9d}"
            )


# The default chain with limits that a benchmark does not reach and a principal for the budget.
DEFAULT: list[Any] = [
    "account",
    {"authenticate": {"method": "none"}},
    "validate",
    {"rate_limit": {"per": "principal", "rpm": 100_000_000, "on_limit": "wait", "max_wait": "5s"}},
    {"pii": {"entities": ["EMAIL", "PHONE", "CREDIT_CARD", "SECRET"], "action": "mask", "restore": True}},
    {"cache": {"ttl": "1h", "stale_if_error": "10m", "coalesce": True}},
    {"retry": {"attempts": 3, "backoff": {"initial": "250ms", "max": "8s"}, "max_retry_ratio": 0.2}},
    "select_key",
    {"circuit_breaker": {"fail_max": 5, "reset": "30s"}},
    {"budget": {"per": "project", "usd": 1_000_000, "window": "day", "warn_at": [0.5, 0.8]}},
]
CHAINS: dict[str, list[Any]] = {"empty": [], "default": DEFAULT}
PRICES = {"prices": {"bench": {"input": 0.15, "output": 0.6}, "bench-stream": {"input": 0.15, "output": 0.6}}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--chain", action="append", choices=list(CHAINS))
    parser.add_argument("--python", default="", help="another interpreter for the proxy")
    args = parser.parse_args()
    with world() as here:
        targets = [here.relay()]
        targets += [here.sidecar(n, CHAINS[n], extra=PRICES, run=args.python) for n in args.chain or list(CHAINS)]
        show(compare(here, targets, args.seconds, args.rounds, args.case or list(CASES)))


if __name__ == "__main__":
    main()
