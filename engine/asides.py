"""What a process says on standard error beside its work: lines for people or, after --log-json, JSON objects."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType

AS_JSON = "IRSTREAM_LOG_JSON"
"""The variable by which a run that speaks JSON has its workers speak it."""


def fail(reason: str) -> None:
    """Say in one line what was wrong."""
    line = " ".join(reason.split())
    _say(f"error: {line}", event="failed", level="error", reason=line)


def warn(line: str) -> None:
    """Say what goes on all the same but should not be."""
    _say(f"warning: {line}", event="warning", level="warning", line=line)


def tell(line: str) -> None:
    """Say why nothing seems to happen."""
    _say(line, event="note", level="info", line=line)


def say_traceback(error: BaseException, process: str) -> None:
    """Say where an error came from that nobody expected."""
    text = "".join(traceback.format_exception(error)).rstrip()
    _say(text, event="traceback", level="error", process=process, traceback=text)


def start_quietly() -> None:
    """Have a command that is interrupted while it still imports, or lacks a library, show no traceback."""

    def uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if isinstance(error, ModuleNotFoundError):
            fail(
                f"{error.name} is not installed for {sys.executable}; .venv/bin/python has what the pipeline needs "
                "after make setup, and what training needs after make setup-dev"
            )
        elif not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, where)

    sys.excepthook = uncaught
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # as an exception, some library would swallow it
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until run_command


def speak_json(process: str) -> None:
    """Have this process and those that it starts say all this as JSON, their libraries' logs and warnings too."""
    os.environ[AS_JSON] = "1"

    def uncaught(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        say_traceback(error, process)

    def uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
        if found.exc_value and not isinstance(found.exc_value, SystemExit):
            say_traceback(found.exc_value, process)

    sys.excepthook, threading.excepthook = uncaught, uncaught_in_thread
    logging.basicConfig(handlers=[_Logs()], force=True)
    logging.captureWarnings(True)


class _Logs(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())
        _say(line, event="log", level=record.levelname.lower(), logger=record.name, line=line)
        if record.exc_info and record.exc_info[1]:
            say_traceback(record.exc_info[1], record.name)


def _say(text: str, **figures: str) -> None:
    if AS_JSON in os.environ:
        text = json.dumps({**figures, "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z")})
    sys.stderr.write(text + "\n")  # at once: other processes write there too
    sys.stderr.flush()
