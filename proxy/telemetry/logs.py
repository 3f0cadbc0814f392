"""Logs: one JSON object a line (or plain text on a terminal), written by a thread so that no call waits for a disk.

The access log is the hot part: one line a call, its fields put together without the logging module.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.printable import printable
from proxy.telemetry.access import access_line, access_record, iso

if TYPE_CHECKING:
    from proxy.config.server import Log as LogConfig
    from proxy.exchange import Exchange

_MOST_WAITING: Final = 20_000
_PAUSE: Final = 0.1
"""Seconds between two writes of the log, so that lines of a busy time travel together: each waking of the thread takes
the interpreter from the calls (at 4,000 calls a second 1 us of each instead of 4)."""
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


_OURS: Final = ("llm_sidecar", "proxy")
"""Roots of the loggers that this program uses."""


class LineWriter:
    """Appends lines to a file descriptor from a thread. What the receiver is too slow for is dropped and counted."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._idle = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self.dropped = 0

    def write(self, line: bytes) -> None:
        """Queue one line, its newline included. From any thread."""
        if self._thread is None:
            self._start()
        if len(self._lines) > _MOST_WAITING:
            self.dropped += 1
            return
        self._lines.append(line)
        if self._idle:
            self._idle = False
            self._wake.set()

    def close(self) -> None:
        """Write what is queued; waits two seconds at most."""
        if self._thread is not None:
            self._closing.set()
            self._wake.set()
            self._thread.join(2.0)
            self._thread = None
            self._closing.clear()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        lines, wake = self._lines, self._wake
        while True:
            data = b"".join([lines.popleft() for _ in range(len(lines))])
            if data:
                with contextlib.suppress(OSError):
                    while data:
                        data = data[os.write(self._descriptor, data) :]
                # Lines of a busy moment travel together: a wake-up a line costs the loop more than the line itself.
                self._closing.wait(_PAUSE)
                continue
            if self._closing.is_set():
                return
            wake.clear()
            self._idle = True
            if not lines and not self._closing.is_set():
                wake.wait()
            self._idle = False


class JsonFormatter(logging.Formatter):
    """One JSON object a line; the fields of ``extra`` stand beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        out: dict[str, Any] = {
            "time": iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        out.update({key: value for key, value in record.__dict__.items() if key not in _STANDARD})
        if record.exc_info and record.exc_info[0] is not None:
            # Types and places only: an exception's text may quote what it choked on.
            out["exception"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            places = []
            while trace is not None:
                places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
                trace = trace.tb_next
            out["at"] = places[-8:]
        return orjson.dumps(out, default=str).decode()


class TextFormatter(logging.Formatter):
    """For people at a terminal. One line, whatever a client wrote into what it quotes."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        extra = " ".join(f"{key}={value}" for key, value in record.__dict__.items() if key not in _STANDARD)
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        text = f"{clock} {record.levelname.lower():7} {record.getMessage()}"
        return printable(f"{text}  {extra}" if extra else text)


class _Handler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            self._writer.write(self.format(record).encode() + b"\n")


class Logs:
    """The configured logs of this process. ``access`` is None when no access log is wanted."""

    def __init__(self, config: LogConfig) -> None:
        if config.file is not None:
            descriptor = os.open(config.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        else:
            descriptor = sys.stderr.fileno()
        self.writer = LineWriter(descriptor)
        self.json = config.format == "json" or (config.format == "auto" and not os.isatty(descriptor))
        self._handler = handler = _Handler(self.writer)
        handler.setFormatter(JsonFormatter() if self.json else TextFormatter())
        handler.setLevel(config.level.upper())
        for name in _OURS:
            root = logging.getLogger(name)
            root.handlers[:] = [handler, *(h for h in root.handlers if not isinstance(h, _Handler))]
            # Warnings reach the alarms of the admin port also where the log itself wants errors only.
            root.setLevel(min(handler.level, logging.WARNING))
            root.propagate = False
        logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
        wanted = config.access and config.level in ("debug", "info")
        self.access: Callable[[Exchange], None] | None = None
        if wanted:
            self.access = self._json_line if self.json else self._text_line

    def _json_line(self, exchange: Exchange) -> None:
        self.writer.write(access_line(exchange))

    def _text_line(self, exchange: Exchange) -> None:
        record = access_record(exchange)
        clock = datetime.fromtimestamp(exchange.started_wall, UTC).astimezone().strftime("%H:%M:%S")
        model = f" {record['model']}" if record["model"] else ""
        tokens = f" {record['input_tokens']}+{record['output_tokens']} tokens" if "input_tokens" in record else ""
        failed = f"  {record['error']}: {record['message']}" if "error" in record else ""
        line = (
            f"{clock} {record['status'] or '-'} {record['method']} {record['path']}{model} -> "
            f"{record['upstream'] or '-'} {record['outcome']} {record['duration_ms']:.0f} ms{tokens}{failed}"
        )
        self.writer.write(f"{printable(line)}\n".encode())

    def close(self) -> None:
        """Write what is queued; if no others have taken over, the loggers are as they were before."""
        for name in _OURS:
            root = logging.getLogger(name)
            root.removeHandler(self._handler)
            if not any(isinstance(handler, _Handler) for handler in root.handlers):
                root.propagate = True
        self.writer.close()
