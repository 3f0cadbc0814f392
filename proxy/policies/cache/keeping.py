"""Which answers are stored, and what of them: decided when a flight has landed.

Stored is what is whole and good: 200, JSON that its dialect calls complete, not cut short by a limit or a filter, from
the very target that was asked. Never an error, never a broken stream.

A stream is stored as the events that came: most are asked for as streams again, and adding an answer up costs as much
as sending it. Who asks for the same answer whole gets it added up, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proxy.policies.cache.entry import Entry
from proxy.stream.sse import Parser

if TYPE_CHECKING:
    from proxy.accounting.usage import Usage
    from proxy.dialects.base import Dialect, Finish
    from proxy.document import Document
    from proxy.exchange import Target
    from proxy.flight import Flight

__all__ = ["added_up", "entry_of", "openai_usage", "with_usage"]

_CUT: Final = frozenset(
    {
        "length",
        "max_tokens",
        "max_output_tokens",
        "model_length",
        "model_context_window_exceeded",
        "content_filter",
        "incomplete",
        "pause_turn",
        "refusal",
        "error",
        "cancelled",
        "abort",
    }
)
"""Finish reasons of answers that were cut short or suppressed: asking again may give more."""
_CALLS: Final = frozenset({"tool_calls", "function_call", "tool_use"})
_CUT_OR_CALLS: Final = _CUT | _CALLS


def entry_of(
    flight: Flight, dialect: Dialect, target: Target, now: float, ttl: float, *, tool_calls: bool
) -> Entry | None:
    """What to store of a flight's answer; None when it is not stored."""
    answer, exchange = flight.answer, flight.exchange
    if answer is None or answer.status != 200 or exchange.outcome != "answered":
        return None
    served = exchange.served_by
    if served is not None and served.target is not target and served.target != target:
        return None
    body = answer.body
    if answer.source is None and (body is None or not _good_body(dialect, body, tool_calls=tool_calls)):
        return None
    usage = exchange.usage
    entry = Entry(
        b"" if body is None else body.encode(),
        now,
        ttl,
        None if usage is None else usage.pack(),
        estimated=usage is not None and usage.estimated,
    )
    if answer.source is not None and not (answer.events and _fill(entry, flight, dialect, tool_calls=tool_calls)):
        return None
    return entry


def _fill(entry: Entry, flight: Flight, dialect: Dialect, *, tool_calls: bool) -> bool:
    """Put a stream into the entry; False when it is not good enough."""
    pipe, request = flight.flow.pipe, flight.exchange.request.body
    data = None if flight.fan is None else flight.fan.whole
    if data is None or pipe is None or pipe.error_event is not None or pipe.finish_reason is None or request is None:
        return False
    tree = request.strict()
    if pipe.finish_reason in _CUT or (pipe.finish_reason in _CALLS and not tool_calls):
        return False
    entry.body, entry.events, entry.with_usage = data, True, dialect.asks_usage(tree)
    # Of several choices the pipe knows the last one's end only.
    return dialect.bound(tree).choices == 1 or added_up(entry, dialect, tool_calls=tool_calls) is not None


def added_up(entry: Entry, dialect: Dialect, *, tool_calls: bool = True) -> dict[str, Any] | None:
    """The whole answer that stored events amount to; None when they do not."""
    parser = Parser()
    tree: Any = dialect.collect([*parser.feed(entry.body), *parser.end()])
    if not _good(dialect, tree, tool_calls=tool_calls):
        return None
    with_usage(tree, dialect, entry.usage)
    answer: dict[str, Any] = tree
    return answer


def with_usage(tree: dict[str, Any], dialect: Dialect, usage: Usage | None) -> None:
    """Say the usage in an answer that was added up, if it is known and not said: the provider was asked for it, and the
    event was hidden from the client that had not asked."""
    if usage is not None and not usage.estimated and tree.get("usage") is None and dialect.name in _OPENAI:
        tree["usage"] = openai_usage(usage)


def _good(dialect: Dialect, tree: Any, *, tool_calls: bool) -> bool:
    return type(tree) is dict and not tree.get("error") and _ended_well(dialect.finish(tree), tool_calls=tool_calls)


def _good_body(dialect: Dialect, body: Document, *, tool_calls: bool) -> bool:
    """The same of a document."""
    tree = body.lenient()
    if type(tree) is not dict or tree.get("error"):
        return False
    return _ended_well(body.finish(dialect), tool_calls=tool_calls)


def _ended_well(finish: Finish, *, tool_calls: bool) -> bool:
    return finish.complete and (_CUT if tool_calls else _CUT_OR_CALLS).isdisjoint(finish.reasons)


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
