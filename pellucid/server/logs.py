"""Structured logs: one line for each record, as JSON or for people. What clients send is escaped, so that no value can
make a line of its own or drive a terminal."""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Literal, TextIO

import msgspec

LogFormat = Literal["text", "json"]
MAX_VALUE_CHARS = 500
MAX_WAITING = 10_000
CLOSE_TIME = 1.0

_PLAIN = re.compile(r"[!#-<>-~]+")  # visible ASCII without quotes and "="


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return msgspec.json.encode(_fields(record)).decode()


class TextLines(logging.Formatter):
    """`time level message name=value …`, values with anything unusual in them as JSON strings."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        head = f"{fields.pop('time')} {fields.pop('level'):7} {_printable(fields.pop('message'))}"
        trace = fields.pop("traceback", None)
        line = " ".join([head, *(f"{name}={_plain(value)}" for name, value in fields.items())])
        return line if trace is None else "\n    ".join([line, *map(_printable, trace)])


class BackgroundHandler(logging.Handler):
    """Writes in a thread of its own, so that a reader of the log who is slow, or has stopped, holds up nobody.

    When MAX_WAITING lines wait, further ones are dropped and counted; so are those that cannot be written (the disk is
    full, say).
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._num_dropped = 0
        self._thread = threading.Thread(target=self._write, name="pellucid-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() >= MAX_WAITING:
            self._num_dropped += 1
            return
        try:
            self._lines.put(self.format(record))
        except Exception:  # whoever logs must not fail because of it
            self.handleError(record)

    def close(self) -> None:
        """Write what waits, for CLOSE_TIME at most."""
        self._lines.put(None)
        self._thread.join(CLOSE_TIME)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            dropped = self._num_dropped
            note = {"levelname": "WARNING", "msg": f"{dropped} lines of the log were dropped"}
            head = f"{self.format(logging.makeLogRecord(note))}\n" if dropped else ""
            try:
                self._stream.write(f"{head}{line}\n")
                self._stream.flush()
            except OSError:
                self._num_dropped += 1
            except ValueError:  # the stream is closed
                return
            else:
                self._num_dropped -= dropped


def set_up(format: LogFormat, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send the log of this process to `stream` (standard error)."""
    handler = BackgroundHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("pellucid").setLevel(level)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "message": record.getMessage().encode("utf-8", "backslashreplace").decode(),
    }
    extra = getattr(record, "fields", None)
    if isinstance(extra, Mapping):
        found |= {str(name): _short(value) for name, value in extra.items()}
    if record.exc_info and record.exc_info[0] is not None:
        lines = "".join(traceback.format_exception(*record.exc_info)).splitlines()
        found["traceback"] = [_short(line) for line in lines]
    return found


def _short(value: Any) -> Any:
    if not isinstance(value, str):
        return value if isinstance(value, int | float | bool | None) else _short(str(value))
    if not value.isascii():
        value = value.encode("utf-8", "backslashreplace").decode()
    return value if len(value) <= MAX_VALUE_CHARS else value[:MAX_VALUE_CHARS] + "…"


def _plain(value: Any) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return msgspec.json.encode(value).decode() if not isinstance(value, str) else f'"{_printable(text)}"'


def _printable(text: str) -> str:
    """`text` on one line, without control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
