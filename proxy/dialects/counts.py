"""Token counts as providers write them, turned into one ``Usage``.

OpenAI (chat, completions, embeddings): ``prompt_tokens`` holds cached and audio tokens, ``completion_tokens`` holds
reasoning and audio. Responses API: the same as ``input_tokens`` and ``output_tokens``. Anthropic: ``input_tokens``
leaves out what was read from and written to the cache, so both are added to the total here.

APIs that are paid by the piece say so in other places: pictures are counted in ``data``, seconds of speech stand in
``usage`` (``{"type": "duration", "seconds": 12}``) or beside a verbose transcript (``duration``).

What cannot be a count of one call (no integer, below zero, above ``MOST_TOKENS``) is never taken for 0, which would
make the call free: if it is the input or the output, there is no usage, and the call is estimated. Of the parts it is
left out: the tokens stand in their total all the same.
"""

from __future__ import annotations

from typing import Any, Final

from proxy.accounting.usage import MOST_TOKENS, Usage

__all__ = ["anthropic_usage", "any_usage", "greater", "media_usage", "openai_usage", "service_of"]

_MOST: Final = MOST_TOKENS
_DIGITS: Final = 10
_SIDES: Final = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
_LONGEST: Final = 1e9  # seconds
_NONE: Final[dict[str, Any]] = {}
_SERVICES: Final = {"auto": "", "flex": "flex", "priority": "priority", "fast": "fast", "batch": "batch"}


def _whole(value: Any) -> int | None:
    """An integer of 0 to ``MOST_TOKENS``, also written with a point or as a string; else None."""
    if type(value) is int:
        return value if 0 <= value <= _MOST else None
    if type(value) is float:
        return int(value) if 0 <= value <= _MOST and value.is_integer() else None
    if type(value) is str and len(value) <= _DIGITS and value.isascii() and value.isdigit():
        return _whole(int(value))
    return None


def _count(value: Any) -> int:
    """A part of a count; 0 for what is none."""
    return value if type(value) is int and 0 <= value <= _MOST else _whole(value) or 0


def _details(counts: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        value = counts.get(key)
        if type(value) is dict:
            return value
    return _NONE


def service_of(said: Any) -> str:
    """The class of service that an answer says it had, by our names; empty where it says nothing (``auto`` is a wish).

    One that no price list knows (``scale``, ``on_demand``) has the plain price.
    """
    return _SERVICES.get(said, "standard") if type(said) is str and said else ""


def openai_usage(counts: Any, service: Any = None) -> Usage | None:
    """``usage`` of OpenAI's APIs and of those that follow them; None when it holds no counts.

    service: the ``service_tier`` beside it.
    """
    if type(counts) is not dict or not counts:
        return None
    given = counts.get("prompt_tokens")
    made = counts.get("completion_tokens")
    if given is None and made is None:
        given = counts.get("input_tokens")
        made = counts.get("output_tokens")
    total = counts.get("total_tokens")
    if type(given) is int and type(made) is int and 0 <= given <= _MOST and 0 <= made <= _MOST:
        # As nearly always. Some count reasoning beside the completion and in the total only; it is output, too.
        usage = Usage(input=given, output=made)
        if type(total) is int and given + made < total <= _MOST:
            usage.output = total - given
    else:
        found = _sides(counts, given, made, total)
        if found is None:
            return None
        usage = Usage(input=found[0], output=found[1])
    if service is not None:
        usage.service = service_of(service)
    inputs = _details(counts, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    if any(inputs.values()):
        usage.cached_input = _count(inputs.get("cached_tokens"))
        usage.cache_write = _count(inputs.get("cache_write_tokens")) or _count(inputs.get("cache_creation_tokens"))
        usage.audio_input = _count(inputs.get("audio_tokens"))
        usage.image_input = _count(inputs.get("image_tokens"))
    if not usage.cached_input and "prompt_cache_hit_tokens" in counts:
        usage.cached_input = _count(counts["prompt_cache_hit_tokens"])
    outputs = _details(counts, "completion_tokens_details", "output_tokens_details", "output_token_details")
    if any(outputs.values()):
        usage.reasoning = _count(outputs.get("reasoning_tokens"))
        usage.audio_output = _count(outputs.get("audio_tokens"))
        usage.image_output = _count(outputs.get("image_tokens"))
    return usage


def _sides(counts: dict[str, Any], given: Any, made: Any, total: Any) -> tuple[int, int] | None:
    """Input and output where they are not two plain integers; None when one of them is there and is no count.

    One that is left out is nothing (embeddings have no output). One that is null is what the total leaves for it, and
    a total alone is charged as input at least.
    """
    asked, put_out, whole = _whole(given), _whole(made), _whole(total)
    if (given is not None and asked is None) or (made is not None and put_out is None):
        return None
    if asked is None and put_out is None:
        return None if whole is None else (whole, 0)
    null = None in (asked, put_out) and any(counts.get(name, 0) is None for name in _SIDES)
    if asked is not None and put_out is None and not null:
        return asked, 0
    if whole is None:
        return None if null else (asked or 0, put_out or 0)
    if asked is None:
        return max(0, whole - (put_out or 0)), put_out or 0
    return asked, max(put_out or 0, whole - asked)


def anthropic_usage(counts: Any, *, part: bool = False) -> Usage | None:
    """``usage`` of the messages API; ``input`` is all input, cache reads and writes included.

    part: of an event of a stream, which may tell one of the two alone and write null for the other.
    """
    if type(counts) is not dict or not counts:
        return None
    given, made = counts.get("input_tokens"), counts.get("output_tokens")
    if given is None and made is None:
        return None
    asked, put_out = _whole(given), _whole(made)
    if (asked is None and (given is not None or (not part and "input_tokens" in counts))) or (
        put_out is None and (made is not None or (not part and "output_tokens" in counts))
    ):
        return None
    read = _count(counts.get("cache_read_input_tokens"))
    written = _count(counts.get("cache_creation_input_tokens"))
    by_age = _details(counts, "cache_creation")
    if not written:
        written = sum(_count(value) for value in by_age.values())
    details = _details(counts, "output_tokens_details")
    return Usage(
        input=(asked or 0) + read + written,
        cached_input=read,
        cache_write=written,
        cache_write_1h=min(written, _count(by_age.get("ephemeral_1h_input_tokens"))),
        output=put_out or 0,
        reasoning=_count(details.get("thinking_tokens")) or _count(details.get("reasoning_tokens")),
        searches=_count(_details(counts, "server_tool_use").get("web_search_requests")),
        service="fast" if counts.get("speed") == "fast" else service_of(counts.get("service_tier")),
    )


def any_usage(counts: Any) -> Usage | None:
    """Counts of a provider that is not known: Anthropic's words tell Anthropic's way of counting."""
    if type(counts) is dict and ("cache_read_input_tokens" in counts or "cache_creation_input_tokens" in counts):
        return anthropic_usage(counts)
    return openai_usage(counts)


def media_usage(body: dict[str, Any]) -> Usage | None:
    """Usage of an answer that may hold pictures or a transcript; None when it says nothing of what it used."""
    counts = body.get("usage")
    usage = any_usage(counts)
    spoken = _milliseconds(counts.get("seconds")) if type(counts) is dict else 0
    if usage is None and not spoken and type(body.get("text")) is str:
        spoken = _milliseconds(body.get("duration"))  # a verbose transcript of a model that is paid by the minute
    pictures = _pictures(body.get("data"))
    if not spoken and not pictures:
        return usage
    usage = usage or Usage()
    usage.audio_ms, usage.images = spoken, pictures
    if pictures and usage.output and type(counts) is dict and "output_tokens_details" not in counts:
        usage.image_output = usage.output  # a model of pictures says nothing else
    return usage


def _pictures(data: Any) -> int:
    """How many pictures a list holds, whole or by their addresses."""
    if type(data) is not list:
        return 0
    return sum(1 for item in data if type(item) is dict and ("b64_json" in item or "url" in item))


def _milliseconds(seconds: Any) -> int:
    """Seconds as a number or as its digits, in milliseconds; 0 for what is none."""
    try:
        value = float(seconds)
    except (TypeError, ValueError):
        return 0
    return round(value * 1_000) if 0 < value < _LONGEST else 0


def greater(before: Usage | None, now: Usage) -> Usage:
    """Two readings of one stream as one: counts in a stream are running totals, so the greater of each stands.

    Anthropic gives the input with the first event and, from some hosts, only the output with the last.
    """
    if before is None:
        return now
    return Usage(
        input=max(before.input, now.input),
        cached_input=max(before.cached_input, now.cached_input),
        cache_write=max(before.cache_write, now.cache_write),
        output=max(before.output, now.output),
        reasoning=max(before.reasoning, now.reasoning),
        audio_input=max(before.audio_input, now.audio_input),
        audio_output=max(before.audio_output, now.audio_output),
        cache_write_1h=max(before.cache_write_1h, now.cache_write_1h),
        image_input=max(before.image_input, now.image_input),
        image_output=max(before.image_output, now.image_output),
        searches=max(before.searches, now.searches),
        images=max(before.images, now.images),
        audio_ms=max(before.audio_ms, now.audio_ms),
        estimated=now.estimated,
        service=now.service or before.service,
    )
