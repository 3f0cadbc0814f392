"""Which answers are stored, and what of them: decided when a flight has landed.

Stored is what is whole and good: 200, JSON that its dialect calls complete, not cut short by a limit or a filter, from
the very target that was asked. Never an error, never a broken stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.stream.sse import Parser

if TYPE_CHECKING:
    from proxy.accounting.usage import Usage
    from proxy.dialects.base import Dialect
    from proxy.exchange import Target
    from proxy.flight import Flight

__all__ = ["body_of"]

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


def body_of(flight: Flight, dialect: Dialect, target: Target, *, tool_calls: bool) -> bytes | None:
    """The JSON of the whole answer to store; None when this answer is not stored."""
    answer, exchange = flight.answer, flight.exchange
    if answer is None or answer.status != 200 or exchange.outcome != "answered":
        return None
    served = exchange.served_by
    if served is not None and served.target != target:
        return None
    if answer.source is not None:
        return _collected(flight, dialect, tool_calls=tool_calls) if answer.events else None
    document = answer.body
    if document is None:
        return None
    tree = document.lenient()
    return document.encode() if _good(dialect, tree, tool_calls=tool_calls) else None


def _collected(flight: Flight, dialect: Dialect, *, tool_calls: bool) -> bytes | None:
    """The whole answer that a stream amounts to."""
    data = flight.fan.whole
    if data is None:
        return None
    parser = Parser()
    tree: Any = dialect.collect([*parser.feed(data), *parser.end()])
    if not _good(dialect, tree, tool_calls=tool_calls):
        return None
    usage = flight.exchange.usage
    if usage is not None and not usage.estimated and tree.get("usage") is None and dialect.name in _OPENAI:
        # The provider was asked for it and the event was hidden from the client that had not asked.
        tree["usage"] = _openai_usage(usage)
    return orjson.dumps(tree)


def _good(dialect: Dialect, tree: Any, *, tool_calls: bool) -> bool:
    if type(tree) is not dict or tree.get("error"):
        return False
    finish = dialect.finish(tree)
    if not finish.complete or not _CUT.isdisjoint(finish.reasons):
        return False
    return tool_calls or _CALLS.isdisjoint(finish.reasons)


_OPENAI: Final = frozenset({"openai_chat", "openai_completions"})


def _openai_usage(usage: Usage) -> dict[str, Any]:
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
