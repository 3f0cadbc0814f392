"""``llm-sidecar costs``: what was spent, and ``costs price MODEL``: what a model costs and who says so."""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import sys
import time
from collections.abc import Sequence
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from proxy.config.problem import ConfigError
from proxy.printable import printable

if TYPE_CHECKING:
    from proxy.accounting.ledger.base import Ledger
    from proxy.accounting.reports import Row
    from proxy.config.model import Config

__all__ = ["add_parser", "run"]

_PATIENCE = 2.5
"""Seconds that a report waits for calls that are answered and not in the ledger yet: usually under one."""
_NAMED = 10
"""Models without a price that are named; the report by model has them all."""
_PLAIN = ("calls", "cached_calls", "refused", "input_tokens", "output_tokens", "cost_usd", "saved_usd")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``costs`` to the command's sub-parsers; ``run`` takes what it parses."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "costs",
        help="what was spent, by model, project, key, tag, ...",
        description="What was spent. Times are a duration back from now (7d), a date (2026-11-01) or an ISO moment.",
    )
    parser.add_argument("what", nargs="*", metavar="price MODEL", help="explain the price of a model and its source")
    parser.add_argument("--config", metavar="FILE", help="configuration file (default: config.yaml)")
    parser.add_argument("--ledger", metavar="URL", help="read this ledger instead of the configuration's")
    parser.add_argument("--since", default="7d", metavar="TIME", help="from when (default: 7d)")
    parser.add_argument("--until", default="", metavar="TIME", help="until when (default: now)")
    parser.add_argument(
        "--by",
        default="",
        metavar="NAMES",
        help="any of model, model_asked, project, principal, key, upstream, task, route, tag:NAME, hour, day; "
        "separated by commas",
    )
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: table")
    parser.add_argument("--time-zone", default="UTC", metavar="ZONE", help="for days and dates (default: UTC)")
    parser.add_argument("--details", action="store_true", help="more columns: failed, estimated, unpriced, percentiles")
    parser.add_argument("--compare", action="store_true", help="what changed against the period before")
    parser.add_argument("--forecast", action="store_true", help="trend, and projection to the end of the month")
    parser.add_argument("--upstream", default="", metavar="NAME", help="costs price: at this upstream")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """0; 1 when the ledger cannot be read or a model has no price; 2 for wrong arguments or configuration."""
    if args.what:
        if args.what[0] != "price" or len(args.what) != 2:
            return _wrong(f"costs {' '.join(args.what)}: the only further command is: costs price MODEL")
        return _price(args)
    from proxy.accounting.moment import moment  # noqa: PLC0415 - each command imports what it needs
    from proxy.accounting.windows import zone  # noqa: PLC0415

    try:
        local = zone(args.time_zone)
        until = moment(args.until, local, time.time()) if args.until else time.time()
        since = moment(args.since, local, time.time())
        by = [name.strip() for name in args.by.split(",") if name.strip()]
        if since >= until:
            raise ValueError(f"--since {args.since} is not before --until {args.until or 'now'}")
        url, data = _place(args)
    except (ValueError, OSError, ConfigError) as error:
        return _wrong(f"costs: {error}")
    try:
        rows, unpriced = asyncio.run(_ask(url, data, args, since, until, by, local))
    except ValueError as error:
        return _wrong(f"costs: {error}")
    except Exception as error:
        print(f"costs: the ledger cannot be read: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if not args.details and not args.compare and not args.forecast:
        rows = _plain(rows, by, args.format)
    sys.stdout.write(_FORMS[args.format](rows))
    if unpriced:
        print(_without_price(unpriced), file=sys.stderr)
    return 0


def _plain(rows: list[Row], by: list[str], form: str) -> list[Row]:
    """The fixed names; and ``unpriced`` where there are such calls: in those objects, or as a column of the table."""
    column = form != "json" and any(row["unpriced"] for row in rows)
    found = []
    for row in rows:
        plain = {name: row[name] for name in (*by, *_PLAIN)}
        if column or row["unpriced"]:
            plain["unpriced"] = row["unpriced"]
        found.append(plain)
    return found


def _without_price(models: dict[str, int]) -> str:
    named = ", ".join(f"{printable(model)} ({calls})" for model, calls in list(models.items())[:_NAMED])
    more = f" and {len(models) - _NAMED} more" if len(models) > _NAMED else ""
    calls = sum(models.values())
    have = "call has" if calls == 1 else "calls have"
    return (
        f"costs: {calls} {have} no known price, so no sum holds their cost: {named}{more}. "
        "Give these models one under prices: in the YAML; costs price MODEL says what is known"
    )


async def _ask(
    url: str, data: Path | None, args: argparse.Namespace, since: float, until: float, by: list[str], local: tzinfo
) -> tuple[list[Row], dict[str, int]]:
    """The report; and the models of its time that have no known price, with their calls. data: where the journal of
    this ledger is; None: not here."""
    from proxy.accounting import reports  # noqa: PLC0415
    from proxy.accounting.behind import caught_up  # noqa: PLC0415
    from proxy.accounting.ledger.base import open_ledger  # noqa: PLC0415
    from proxy.accounting.windows import Window  # noqa: PLC0415

    ledger = open_ledger(url, data or Path())
    file = getattr(ledger, "file", None)
    if file is not None and not file.exists():
        print(f"costs: no ledger at {file} yet: nothing was accounted", file=sys.stderr)
        return [], {}
    try:
        if data is not None and await caught_up(ledger, data / "journal", _PATIENCE):
            print("costs: the newest calls are missing: they wait in the journal for a running proxy", file=sys.stderr)
        if args.forecast:
            until = time.time()
            since = Window("month", local).at(until).start
            projection = await reports.project_month(ledger, until, local)
            rows = [{**projection._asdict(), **await _trend(ledger, local)}]
        elif args.compare:
            rows = await reports.changes(ledger, since, until, by)
        else:
            shares = (0.5, 0.9, 0.99) if args.details else ()
            rows = await reports.summarize(ledger, since, until, by, time_zone=local, percentiles=shares)
        missing = any(row["unpriced"] for row in rows)
        return rows, await reports.unpriced_models(ledger, since, until) if missing else {}
    finally:
        await ledger.close()


async def _trend(ledger: Ledger, local: tzinfo) -> Row:
    from proxy.accounting import reports  # noqa: PLC0415

    line = await reports.trend(ledger, time.time(), time_zone=local)
    return {f"trend_{name}": value for name, value in line.items()}


def _price(args: argparse.Namespace) -> int:
    from proxy.accounting.books import Books  # noqa: PLC0415
    from proxy.accounting.prices import PriceBook, PriceError  # noqa: PLC0415

    try:
        config = _config(args)
        book = Books(config, dry=True).prices if config is not None else PriceBook()
    except (PriceError, ValueError, OSError, ConfigError) as error:
        return _wrong(f"costs price: {error}")
    base_url = ""
    if args.upstream:
        upstream = config.upstreams.get(args.upstream) if config is not None else None
        if upstream is None:
            return _wrong(f"costs price: no upstream {args.upstream!r} in the configuration")
        base_url = upstream.base_url or ""
    found = book.explain(args.what[1], base_url)
    if args.format == "json":
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())
    elif not found["priced"]:
        print(printable(f"{found['model']}: no price is known: {found['reason']}"))
    else:
        _show_price(found)
    return 0 if found["priced"] else 1


def _show_price(found: dict[str, Any]) -> None:
    print(printable(f"{found['model']}: {found['name']}, from {found['source']} ({found['version']})"))
    print("USD per million tokens (apiece for image, minute, request, search):")
    columns = [("", found["usd_per_million"])]
    columns += [(f"above {tier['above']} input tokens", {**tier}) for tier in found["tiers"]]
    columns += list(found["services"].items())
    for title, rates in columns:
        shown = "  ".join(f"{kind} {amount:.12g}" for kind, amount in rates.items() if kind != "above")
        print(f"  {title + ': ' if title else ''}{shown}")


def _config(args: argparse.Namespace) -> Config | None:
    """The configuration that is named or lies here; None when there is none."""
    file = args.config or "config.yaml"
    if not args.config and not Path(file).exists():
        return None
    from proxy import policy  # noqa: PLC0415
    from proxy.config.load import load  # noqa: PLC0415

    return load(file, resolve=policy.options_of, names=policy.names).config


def _place(args: argparse.Namespace) -> tuple[str, Path | None]:
    """The ledger, and the data folder whose journal feeds it. Of a ledger that is named apart nothing is known but what
    a configuration that is named beside it says."""
    from proxy.config.model import Config  # noqa: PLC0415

    config = _config(args) if args.config or not args.ledger else None
    if args.ledger:
        own = config is not None and config.ledger == args.ledger
        return args.ledger, config.data if config is not None and own else None
    if config is None:
        config = Config()
    return config.ledger or "", config.data


def _wrong(text: str) -> int:
    print(text, file=sys.stderr)
    return 2


def _as_json(rows: Sequence[Row]) -> str:
    return orjson.dumps(list(rows), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def _as_csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _number(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _as_table(rows: Sequence[Row]) -> str:
    if not rows:
        return "nothing in this time\n"
    names = list(rows[0])
    lines = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    right = [not isinstance(rows[0][name], str) for name in names]
    return "".join(
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, right, strict=True)
        ).rstrip()
        + "\n"
        for line in lines
    )


def _number(value: Any) -> Any:
    """Plain decimals: a spreadsheet reads 0.000012 in every language, 1.2e-05 not."""
    return f"{value:.9f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        if 0 < abs(value) < 0.01:  # a call costs millionths: never shown as if it were nothing
            return str(_number(value))
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.2f}"
    if value is None:
        return "-"
    return printable(str(value)) if value != "" else "-"


_FORMS = {"table": _as_table, "json": _as_json, "csv": _as_csv}
