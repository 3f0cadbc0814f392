"""What clients wrote cannot write lines of the log, nor speak to the terminal it is read on."""

from __future__ import annotations

import logging

import pytest

from proxy.cli.table import table
from proxy.config.server import Log
from proxy.errors import ProxyError
from proxy.printable import printable
from proxy.telemetry.logs import Logs, TextFormatter
from proxy.testing import exchange_builder

NASTY = "a\n00:00:00 error   forged\r\x1b[31m\x07\x9b31m\u2028\u202e"


def harmless(text: str) -> bool:
    return not any(ord(sign) < 0x20 or 0x7F <= ord(sign) < 0xA0 or sign in "\u2028\u202e" for sign in text)


def test_control_codes_are_shown_and_texts_of_all_scripts_are_left_alone() -> None:
    assert printable("a\nb\t\x1b[31m\x7f\u202e") == r"a\nb\t\x1b[31m\x7f\u202e"
    assert printable("Grüße 你好 👋🏽 שלום") == "Grüße 你好 👋🏽 שלום"
    assert printable("\udcff") == r"\udcff"


@pytest.mark.parametrize("where", ["message", "extra"])
def test_a_text_line_is_one_line(where: str) -> None:
    record = logging.makeLogRecord({"msg": NASTY if where == "message" else "x", "levelname": "INFO"})
    if where == "extra":
        record.model = NASTY
    line = TextFormatter().format(record)
    assert harmless(line)
    assert r"\x1b[31m" in line


@pytest.mark.parametrize("where", ["model", "path", "error"])
def test_a_line_of_the_access_log_is_one_line(tmp_path, where: str) -> None:
    body = {"model": NASTY if where == "model" else "m", "messages": []}
    exchange = exchange_builder(body, path=f"/v1/{NASTY}" if where == "path" else "/v1/chat/completions")
    assert exchange.model_asked
    exchange.outcome, exchange.ended_at = "refused", exchange.started_at
    if where == "error":
        exchange.error = ProxyError("invalid_value", NASTY)
    file = tmp_path / "log"
    logs = Logs(Log(file=file, format="text"))
    assert logs.access is not None
    logs.access(exchange)
    logs.close()
    (line,) = file.read_text().removesuffix("\n").split("\n")
    assert harmless(line)
    assert r"\x1b[31m" in line


def test_tables_of_commands_have_a_line_a_row() -> None:
    names, line = table(["model"], [[NASTY]]).split("\n")
    assert names == "model"
    assert harmless(line)


def test_a_report_of_costs_has_a_line_a_row() -> None:
    from proxy.cli import costs

    lines = costs._as_table([{"model": NASTY, "calls": 1}]).splitlines()
    assert len(lines) == 2
    assert harmless(lines[1])
    assert harmless(costs._without_price({NASTY: 1}))
