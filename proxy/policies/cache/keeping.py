"""Which answers are stored, and what of them: decided when they have come.

Stored is what is whole and good: 200, JSON that its dialect calls complete, not cut short by a limit or a filter, from
the very target that was asked. Never an error, never a broken stream.

A stream is stored as the events that came: most are asked for as streams again, and adding an answer up costs as much
as sending it. Who asks for the same answer whole gets it added up, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proxy.policies.cache.entry import Entry
from proxy.stream.sse import events_of

if TYPE_CHECKING:
    from proxy.accounting.usage import Usage
    from proxy.dialects.base import Dialect
    from proxy.document import Document
    from proxy.exchange import Answer, Exchange, Target
    from proxy.flight import Flight
    from proxy.policies.cache.call import Call

__all__ = ["added_up", "openai_usage", "stream_entry", "usage_of", "with_usage", "worth_keeping"]

_WHOLE: Final = frozenset(
    {
        "stop",
        "end_turn",
        "stop_sequence",
        "end_of_turn",
        "eos",
        "eos_token",
        "complete",
        "completed",
        "done",
        "tool_calls",
        "tool_call",
        "tool_use",
        "function_call",
    }
)
"""Finish reasons of answers that came to their own end. Any other means, or may mean, that the answer was cut short or
suppressed, and that asking again may give more: providers have many words for that, and invent new ones."""


def worth_keeping(exchange: Exchange, answer: Answer, body: Document, call: Call, *, tool_calls: bool) -> bool:
    """Whether a call's whole answer may be stored. exchange: of who asked the provider. body: the answer's. tool_calls:
    also when it calls tools."""
    if answer.status != 200 or answer.error is not None or not _by(exchange, call.target):
        return False
    finish = body.finish(call.dialect)
    if not finish.complete or not _ended_well(finish.reasons) or body.peek("error"):
        return False
    return tool_calls or not _calls_tools(body.lenient())


def _ended_well(reasons: list[str]) -> bool:
    return _WHOLE.issuperset(reasons) or _WHOLE.issuperset([reason.lower() for reason in reasons])


def _calls_tools(tree: Any) -> bool:
    """Whether a whole answer calls a tool, whatever it says of its end: one whose tool was chosen by the client ends
    with ``stop``."""
    for choice in _listed(tree, "choices"):
        message = choice.get("message")
        if type(message) is dict and (message.get("tool_calls") or message.get("function_call")):
            return True
    items = [*_listed(tree, "content"), *_listed(tree, "output")]
    return any(str(item.get("type")).endswith(("tool_use", "_call")) for item in items)


def _listed(tree: Any, name: str) -> list[dict[str, Any]]:
    """The objects in a list of the tree."""
    found = tree.get(name)
    return [one for one in found if type(one) is dict] if type(found) is list else []


def usage_of(exchange: Exchange) -> tuple[tuple[int, ...], bool] | None:
    """What an entry says of a call's usage: its counts, and whether they are estimates. None: nobody counted."""
    usage, served = exchange.usage, exchange.served_by
    if usage is None:
        return None
    bill = None if served is None else served.bill
    if bill is not None and bill.paid and served is not None and served.usage is usage:
        return bill.counts, usage.estimated  # packed already
    return usage.pack(), usage.estimated


def stream_entry(flight: Flight, call: Call, now: float, ttl: float, *, tool_calls: bool) -> Entry | None:
    """What to store of the stream that a flight brought for a call; None when it is not worth it."""
    dialect = call.dialect
    answer, exchange, pipe, request = flight.answer, flight.exchange, flight.flow.pipe, flight.exchange.request.body
    if answer is None or answer.status != 200 or exchange.outcome != "answered" or not _by(exchange, call.target):
        return None
    data = None if flight.fan is None else flight.fan.whole
    if not answer.events or data is None or pipe is None or request is None:
        return None
    finish = pipe.finish_reason
    if pipe.error_event is not None or finish is None or not _ended_well([finish]):
        return None
    if dialect.needs_final and not pipe.final:
        return None
    tree = request.strict()
    counts, estimated = usage_of(exchange) or (None, False)
    entry = Entry(data, now, ttl, counts, estimated=estimated, told=pipe.hidden_usage)
    entry.events, entry.with_usage = True, dialect.asks_usage(tree)
    # Of several choices the pipe knows the last one's end only, and of tool calls what the finish says.
    if dialect.bound(tree).choices != 1 or not tool_calls:
        whole = added_up(entry, dialect)
        if whole is None or (not tool_calls and _calls_tools(whole)):
            return None
    return entry


def _by(exchange: Exchange, target: Target) -> bool:
    """Whether it was that very target that answered."""
    served = exchange.served_by
    return served is None or served.target is target or served.target == target


def added_up(entry: Entry, dialect: Dialect) -> dict[str, Any] | None:
    """The whole answer that stored events amount to; None when they do not."""
    tree: Any = dialect.collect(events_of(entry.body))
    if type(tree) is not dict or tree.get("error"):
        return None
    finish = dialect.finish(tree)
    if not finish.complete or not _ended_well(finish.reasons):
        return None
    with_usage(tree, dialect, entry.usage, entry.told)
    answer: dict[str, Any] = tree
    return answer


def with_usage(tree: dict[str, Any], dialect: Dialect, usage: Usage | None, told: Any) -> None:
    """Say the usage in an answer that was added up, if it is known and not said: the provider was asked for it, and the
    event was hidden from the client that had not asked. told: what stands in that event, if it is there."""
    if tree.get("usage") or dialect.name not in _OPENAI:
        return
    if told is not None:
        tree["usage"] = told
    elif usage is not None and not usage.estimated:
        tree["usage"] = openai_usage(usage)


_OPENAI: Final = frozenset({"openai_chat", "openai_completions"})


def openai_usage(usage: Usage) -> dict[str, Any]:
    """Counts in the shape of OpenAI's chat completions."""
    out: dict[str, Any] = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
    }
    if usage.cached_input or usage.audio_input:
        out["prompt_tokens_details"] = {"cached_tokens": usage.cached_input, "audio_tokens": usage.audio_input}
    if usage.reasoning or usage.audio_output:
        out["completion_tokens_details"] = {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.audio_output,
        }
    return out
