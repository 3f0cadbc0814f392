"""``llm-sidecar explain REQUEST.json``: what would happen to a request, without sending it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from proxy.cli import add_config_arguments, say
from proxy.config import ConfigError
from proxy.load import load_config


def add_parser(commands: Any) -> None:
    """It takes a request: a JSON body, or an object with ``method``, ``path``, ``headers`` and ``body``."""
    parser = commands.add_parser(
        "explain",
        help="show what would happen to a request, without sending it",
        description="REQUEST is a file with the JSON body of a call (- for standard input), or an object with "
        '"path", "method", "headers" and "body". Nothing is sent and nothing live is counted.',
    )
    parser.add_argument("request", metavar="REQUEST.json")
    parser.add_argument("--header", "-H", action="append", default=[], metavar="K:V", help="a request header")
    parser.add_argument("--path", default=None, help="path of the call (by the body: /v1/chat/completions, ...)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    add_config_arguments(parser)


def run(args: Any) -> int:
    """Explain. Exit 0 also when the call would be refused; 2 when the request or the configuration is unusable."""
    try:
        loaded, _ = load_config(args.config, overrides=args.overrides)
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem))
        return 2
    try:
        raw = sys.stdin.buffer.read() if args.request == "-" else Path(args.request).read_bytes()
    except OSError as error:
        say(f"{args.request}: cannot be read ({error.strerror})")
        return 2
    method, path, headers, body = _request(raw, args.path)
    for header in args.header:
        name, found, value = header.partition(":")
        if not found:
            say(f"--header {header!r}: write it as name:value")
            return 2
        headers[name.strip()] = value.strip()

    from proxy.explain import explain  # noqa: PLC0415 - only this command needs the flow's parts

    found_out = asyncio.run(explain(loaded.config, method, path, headers, body))
    if args.json:
        print(json.dumps(found_out.as_dict(), indent=2, ensure_ascii=False))
    else:
        print(_text(found_out.as_dict()))
    return 0


def _request(raw: bytes, path: str | None) -> tuple[str, str, dict[str, str], bytes | None]:
    try:
        tree = json.loads(raw)
    except ValueError:
        return "POST", path or "/v1/chat/completions", {}, raw
    if isinstance(tree, dict) and isinstance(tree.get("path"), str) and not {"messages", "input", "prompt"} & set(tree):
        body = tree.get("body")
        method = str(tree.get("method") or ("GET" if body is None else "POST")).upper()
        said = tree.get("headers")
        headers = {str(k): str(v) for k, v in said.items()} if isinstance(said, dict) else {}
        return method, path or tree["path"], headers, None if body is None else json.dumps(body).encode()
    return "POST", path or _usual_path(tree), {}, raw


def _usual_path(tree: Any) -> str:
    """Where a body of this shape is usually sent."""
    if isinstance(tree, dict) and "messages" not in tree:
        if "prompt" in tree:
            return "/v1/completions"
        if "input" in tree:
            return "/v1/embeddings" if "embedding" in str(tree.get("model")) else "/v1/responses"
    return "/v1/chat/completions"


def _text(found: dict[str, Any]) -> str:
    request = found["request"]
    lines = [f"{request['method']} {request['path']}  model {request['model'] or '-'}", "", "routes"]
    for route in found["routes"]:
        lines.append(
            f"  {route['route']}: " + ("matches" if route["matched"] else f"no, {route['missed']} does not hold")
        )
    if found["chain"] is not None:
        lines += ["", f"chain {found['chain']}"]
    for number, row in enumerate(found["policies"], 1):
        mode = "" if row["mode"] == "enforce" else f" ({row['mode']})"
        lines.append(f"  {number:2} {row['policy']}{mode}: " + "; ".join(row.get("would", ["-"])))
    refused = found["refused"]
    if refused is not None:
        who = f" by {refused['policy']}" if refused["policy"] else ""
        lines += ["", f"refused{who}: {refused['status'] or ''} {refused['code']}: {refused['message']}"]
    if found["sent"] is not None:
        sent = found["sent"]
        lines += ["", f"would be sent to {found['target']['upstream']}, key {found['key'] or 'none'}"]
        lines.append(f"  {sent['method']} {sent['url']}")
        lines += [f"  {name}: {value}" for name, value in sent["headers"].items()]
        lines += ["", json.dumps(sent["body"], indent=2, ensure_ascii=False)]
    return "\n".join(lines)
