"""What a run says of itself: lines for people, or one JSON object a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from rich.console import Console

from engine.asides import fail, speak_json
from stream.books import StreamBook
from stream.config import Config
from stream.report import latency_table, report, say_how_it_goes, streams_table

ENDING = "ending; what was captured is still tracked and published. Ctrl-C again ends it at once"


class Log:
    """Where the lines of a run go.

    Args:
        console: where lines for people go; JSON goes to the same file.
        as_json: say each thing as a JSON object with ``timestamp`` (UTC), ``level``, ``event`` and its figures.
    """

    def __init__(self, console: Console, as_json: bool) -> None:
        self.console = console
        self.as_json = as_json
        self._json = _json_lines(console.file)
        if as_json:
            speak_json("run_pipeline")

    def say(self, event: str, text: str, **figures: object) -> None:
        """Say one thing, as a sentence or as an event with its figures."""
        if self.as_json:
            self._json.info(event, **figures)
        else:
            self.console.print(text, highlight=False, soft_wrap=True)

    def progress(self, books: Sequence[StreamBook]) -> None:
        """Say how each stream goes."""
        if not self.as_json:
            say_how_it_goes(self.console, books)
            return
        for book in books:
            self._json.info(
                "stream",
                stream=book.name,
                frames_per_s=round(book.fps(), 2),
                published=book.published,
                dropped=dict(book.dropped),
                tracks=book.tracks,
                end_to_end_ms=book.latency.end_to_end_ms(),
            )

    def end(self, config: Config, books: Sequence[StreamBook]) -> None:
        """Say what came of it: the tables, or the report's figures as the event ``ended``."""
        if self.as_json:
            self._json.info("ended", **report(config, books))
        else:
            self.console.print(streams_table(books, final=True))
            self.console.print(latency_table(books))

    def fail(self, reason: str) -> None:
        """Say on standard error, in one line, what was wrong."""
        fail(reason)


def _json_lines(file: Any) -> Any:  # noqa: ANN401 (structlog's own type)
    return structlog.wrap_logger(
        structlog.PrintLogger(file),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
    )
