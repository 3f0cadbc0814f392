"""What is counted of every call: cheap to add to, put together only when somebody reads it.

A call adds to one cell, found by one look-up of (route, chain, upstream, model, status, outcome). The instruments of
the OpenTelemetry SDK cost 10 us an addition (measured), and a call would need six; so the counting is our own (0.7 us),
and readers get ``Family`` values that ``proxy.telemetry.prometheus`` writes as text.

Values of labels that callers choose are bounded: a model is counted by name once it has answered, 200 of them, any
other is ``other``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from proxy.exchange import Exchange

__all__ = ["Family", "Histogram", "Metrics", "Sample"]

MOST_MODELS: Final = 200
MOST_CELLS: Final = 5_000
OTHER: Final = "other"
NONE: Final = "-"

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histograms' buckets: from a cache hit to a long reasoning stream."""

Kind = Literal["counter", "gauge", "histogram"]
Labels = Mapping[str, str]


class Histogram(NamedTuple):
    """counts: one for each bound of ``SECONDS`` and one beyond them, not summed up."""

    counts: Sequence[int]
    total: float


class Sample(NamedTuple):
    """One series of a family."""

    labels: Labels
    value: float | Histogram


class Family(NamedTuple):
    """One metric. unit stands in the name, as Prometheus wants it."""

    name: str
    kind: Kind
    help: str
    samples: Sequence[Sample]


class Cell:
    """Sums of the calls that have all labels in common. Seconds, tokens, nano-dollars."""

    __slots__ = (
        "cached", "calls", "cost", "duration", "durations", "first", "firsts", "input", "output", "reasoning",
        "retries", "saved", "unpriced",
    )  # fmt: skip

    def __init__(self) -> None:
        self.calls = self.retries = self.unpriced = 0
        self.duration = self.first = 0.0
        self.durations = [0] * (len(SECONDS) + 1)
        self.firsts = [0] * (len(SECONDS) + 1)
        self.input = self.output = self.cached = self.reasoning = 0
        self.cost = self.saved = 0


Key = tuple[str, str, str, str, int, str]


class Metrics:
    """All counts of a process; they live through reloads."""

    def __init__(self) -> None:
        self._cells: dict[Key, Cell] = {}
        self._models: set[str] = set()
        self._cache: dict[str, int] = {}
        self._errors: dict[tuple[str, str], int] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self._findings: dict[tuple[str, str], int] = {}
        self.reloads = {"taken": 0, "refused": 0}

    def record(self, exchange: Exchange) -> None:
        """Count a call that has ended."""
        served = exchange.served_by
        if served is None and exchange.error is not None:
            served = exchange.failed_at
        answer = exchange.answer
        status = 0 if answer is None else answer.status
        model = exchange.model_known
        if model is None:
            model = NONE
        elif model not in self._models:
            model = self._admit(model, status)
        upstream = NONE if served is None else served.upstream
        key = (exchange.route_name, exchange.chain_name, upstream, model, status, exchange.outcome or NONE)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._make(key)
        cell.calls += 1
        began = exchange.started_at
        ended = exchange.ended_at
        if ended is not None:
            seconds = ended - began
            cell.duration += seconds
            cell.durations[bisect_left(SECONDS, seconds)] += 1
        if served is not None:
            first = served.first_byte_at
            if first is not None and first >= began:  # else it belongs to a flight that was joined late
                seconds = first - began
                cell.first += seconds
                cell.firsts[bisect_left(SECONDS, seconds)] += 1
        attempts = exchange.attempts
        if attempts:
            if len(attempts) > 1:
                cell.retries += len(attempts) - 1
            for attempt in attempts:
                if attempt.failure is not None:
                    pair = (attempt.upstream, attempt.failure)
                    self._failures[pair] = self._failures.get(pair, 0) + 1
        usage = exchange.usage
        # A miss of which a part was stored has both.
        if usage is not None and (exchange.saved_usage is None or exchange.cache_status == "miss"):
            cell.input += usage.input
            cell.output += usage.output
            cell.cached += usage.cached_input
            cell.reasoning += usage.reasoning
        if exchange.cost_nanos is not None:
            cell.cost += exchange.cost_nanos
        if exchange.unpriced:
            cell.unpriced += 1
        if exchange.saved_nanos is not None:
            cell.saved += exchange.saved_nanos
        cached = exchange.cache_status
        if cached is not None:
            self._cache[cached] = self._cache.get(cached, 0) + 1
        error = exchange.error
        if error is not None:
            named = (error.code, error.policy or NONE)
            self._errors[named] = self._errors.get(named, 0) + 1
        if exchange.findings is not None:
            for found, count in exchange.findings.items():
                self._findings[found] = self._findings.get(found, 0) + count

    def _admit(self, model: str, status: int) -> str:
        """A model becomes known by an answer, so that made-up names cannot use the places up."""
        if status not in (101, 200) or len(self._models) >= MOST_MODELS or len(model) > 120:
            return OTHER
        self._models.add(model)
        return model

    def _make(self, key: Key) -> Cell:
        if len(self._cells) >= MOST_CELLS:
            # Routes, chains and upstreams of many configurations: what is new is counted together.
            key = (OTHER, OTHER, OTHER, OTHER, key[4], key[5])
        return self._cells.setdefault(key, Cell())

    # --- reading ------------------------------------------------------------------------------------

    def families(self) -> list[Family]:
        """Everything that was counted, by name."""
        calls = [
            Sample(
                {"route": key[0], "chain": key[1], "upstream": key[2], "model": key[3], "status": str(key[4] or NONE)}
                | {"outcome": key[5]},
                cell.calls,
            )
            for key, cell in self._cells.items()
        ]
        by_target = _merged(((key[0], key[2], key[3]), cell) for key, cell in self._cells.items())
        targets = [({"route": k[0], "upstream": k[1], "model": k[2]}, cell) for k, cell in by_target.items()]
        tokens = [
            Sample({**labels, "kind": kind}, getattr(cell, kind))
            for labels, cell in targets
            for kind in ("input", "output", "cached", "reasoning")
            if getattr(cell, kind)
        ]
        return [
            Family("llm_sidecar_calls_total", "counter", "Calls that have ended.", calls),
            Family(
                "llm_sidecar_call_duration_seconds",
                "histogram",
                "From the head of a call to its last byte.",
                [Sample(labels, Histogram(cell.durations, cell.duration)) for labels, cell in targets],
            ),
            Family(
                "llm_sidecar_time_to_first_byte_seconds",
                "histogram",
                "From the head of a call to the first byte of the upstream's answer.",
                [Sample(labels, Histogram(cell.firsts, cell.first)) for labels, cell in targets if any(cell.firsts)],
            ),
            Family("llm_sidecar_tokens_total", "counter", "Tokens by kind; cached and reasoning are parts.", tokens),
            Family(
                "llm_sidecar_cost_usd_total",
                "counter",
                "What calls have cost in USD, as far as prices are known.",
                [Sample(labels, cell.cost / 1e9) for labels, cell in targets if cell.cost],
            ),
            Family(
                "llm_sidecar_unpriced_calls_total",
                "counter",
                "Calls to models without a known price: what they cost is not in llm_sidecar_cost_usd_total.",
                [Sample(labels, cell.unpriced) for labels, cell in targets if cell.unpriced],
            ),
            Family(
                "llm_sidecar_saved_usd_total",
                "counter",
                "What calls served from the cache would have cost in USD.",
                [Sample(labels, cell.saved / 1e9) for labels, cell in targets if cell.saved],
            ),
            Family(
                "llm_sidecar_retries_total",
                "counter",
                "Attempts after the first of a call: retries, other keys, fallbacks, hedges.",
                [Sample(labels, cell.retries) for labels, cell in targets if cell.retries],
            ),
            Family(
                "llm_sidecar_attempt_failures_total",
                "counter",
                "Attempts that failed, by class of failure.",
                [Sample({"upstream": up, "class": kind}, n) for (up, kind), n in self._failures.items()],
            ),
            Family(
                "llm_sidecar_errors_total",
                "counter",
                "Errors that this proxy made, by code and by the policy that refused.",
                [Sample({"code": code, "policy": policy}, n) for (code, policy), n in self._errors.items()],
            ),
            Family(
                "llm_sidecar_pii_total",
                "counter",
                "What pii found in requests, by type and action; opaque is content that cannot be read.",
                [Sample({"type": kind, "action": action}, n) for (kind, action), n in self._findings.items()],
            ),
            Family(
                "llm_sidecar_cache_total",
                "counter",
                "Calls by what the cache did for them.",
                [Sample({"status": status}, n) for status, n in self._cache.items()],
            ),
            Family(
                "llm_sidecar_reloads_total",
                "counter",
                "Reloads of the configuration.",
                [Sample({"result": result}, n) for result, n in self.reloads.items()],
            ),
        ]


def _merged(cells: Iterable[tuple[tuple[str, str, str], Cell]]) -> dict[tuple[str, str, str], Cell]:
    """Cells added up: a histogram for each status and outcome would be more series than anybody looks at."""
    found: dict[tuple[str, str, str], Cell] = {}
    for key, cell in cells:
        into = found.get(key)
        if into is None:
            into = found[key] = Cell()
        for name in (
            "calls",
            "retries",
            "duration",
            "first",
            "input",
            "output",
            "cached",
            "reasoning",
            "cost",
            "saved",
            "unpriced",
        ):
            setattr(into, name, getattr(into, name) + getattr(cell, name))
        into.durations = [a + b for a, b in zip(into.durations, cell.durations, strict=True)]
        into.firsts = [a + b for a, b in zip(into.firsts, cell.firsts, strict=True)]
    return found
