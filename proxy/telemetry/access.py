"""What the access log says of a call.

As JSON most of it is the same from call to call: route, caller, model, key and outcome are those of many others. That
part of the line is kept as text, and what is written anew is who, when and how much. A call with more to say (an error,
notes) is written from its record.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from proxy.exchange import Exchange

__all__ = ["access_line", "access_record", "iso"]

_MOST: Final = 512
_LONGEST: Final = 1024
_parts: Final[dict[tuple[Any, ...], str]] = {}


def access_record(exchange: Exchange) -> dict[str, Any]:
    """The access log's fields for one call; times in milliseconds. Never a body, a key or a masked value."""
    request, answer, served = exchange.request, exchange.answer, exchange.served_by or exchange.failed_at
    ended = exchange.ended_at
    record: dict[str, Any] = {
        "time": iso(exchange.started_wall),
        "level": "info",
        "logger": "access",
        "request_id": exchange.id,
        "method": request.method,
        "path": request.path[:500],
        "route": exchange.route_name,
        "chain": exchange.chain_name,
        "principal": exchange.principal.id,
        "project": exchange.project,
        "model": exchange.model_known,
        "upstream": served.upstream if served is not None else None,
        "key": exchange.key_id,
        "status": answer.status if answer is not None else None,
        "outcome": exchange.outcome,
        "attempts": len(exchange.attempts),
        "duration_ms": None if ended is None else _ms(ended - exchange.started_at),
        "ttfb_ms": None
        if served is None or served.first_byte_at is None
        else _ms(max(0.0, served.first_byte_at - exchange.started_at)),
    }
    usage = exchange.usage
    if usage is not None:
        record["input_tokens"] = usage.input
        record["output_tokens"] = usage.output
        if usage.estimated:
            record["estimated"] = True
    if exchange.cache_status is not None:
        record["cache"] = exchange.cache_status
    error = exchange.error
    if error is not None:
        kind = error.kind
        record["level"] = kind.severity
        record["error"] = error.code
        record["fault"] = kind.fault
        record["severity"] = kind.severity
        record["message"] = error.message
        record["next_step"] = kind.next_step
        if error.policy is not None:
            record["policy"] = error.policy
    if exchange.notes:
        record["notes"] = [f"{policy}: {text}" for policy, text in exchange.notes[:50]]
    return record


def access_line(exchange: Exchange) -> bytes:
    """The line for one call, with its end."""
    if exchange.error is not None or exchange.notes:
        return orjson.dumps(access_record(exchange), option=orjson.OPT_APPEND_NEWLINE, default=str)
    request, answer, served, usage = exchange.request, exchange.answer, exchange.served_by, exchange.usage
    what = (
        request.method,
        request.path,
        exchange.route_name,
        exchange.chain_name,
        exchange.principal.id,
        exchange.project,
        exchange.model_known,
        None if served is None else served.upstream,
        None if served is None or served.key is None else served.key.id,
        None if answer is None else answer.status,
        exchange.outcome,
    )
    part = _parts.get(what)
    if part is None:
        part = _part(what, access_record(exchange))
    began, ended = exchange.started_at, exchange.ended_at
    tokens = cache = ""
    took = first = "null"
    if ended is not None:
        took = repr(_ms(ended - began))
    if served is not None and served.first_byte_at is not None:
        first = repr(_ms(max(0.0, served.first_byte_at - began)))
    if usage is not None:
        estimated = ',"estimated":true' if usage.estimated else ""
        tokens = f',"input_tokens":{usage.input},"output_tokens":{usage.output}{estimated}'
    if exchange.cache_status is not None:
        cache = f',"cache":"{exchange.cache_status}"'
    return (
        f'{{"time":"{iso(exchange.started_wall)}","level":"info","logger":"access","request_id":"{exchange.id}",{part},'
        f'"attempts":{len(exchange.attempts)},"duration_ms":{took},"ttfb_ms":{first}{tokens}{cache}}}\n'
    ).encode()


def _part(what: tuple[Any, ...], record: dict[str, Any]) -> str:
    """What many calls have in common, as it stands in the line: from the method to the outcome."""
    names = list(record)
    shared = names[names.index("method") : names.index("outcome") + 1]
    part = orjson.dumps({name: record[name] for name in shared}, default=str)[1:-1].decode()
    if len(part) <= _LONGEST:
        if len(_parts) >= _MOST:  # paths and models are a client's to invent
            _parts.clear()
        _parts[what] = part
    return part


def _ms(seconds: float) -> float:
    """Milliseconds, to the microsecond; half the price of ``round(..., 3)``, which goes through the digits."""
    return round(seconds * 1e6) / 1000


_last_second: list[Any] = [0, ""]
_last_moment: list[Any] = [0, ""]


def iso(wall: float) -> str:
    """RFC 3339 with milliseconds, UTC; the text of a second is made once, and so is that of a busy millisecond."""
    moment = int(wall * 1000)
    if _last_moment[0] != moment:
        second = moment // 1000
        if _last_second[0] != second:
            _last_second[0], _last_second[1] = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _last_moment[0], _last_moment[1] = moment, f"{_last_second[1]}.{moment % 1000:03d}Z"
    text: str = _last_moment[1]
    return text
