"""The report of a run: a table while it runs, tables at its end, and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from stream import StreamError
from stream.books import StreamBook
from stream.config import Config
from stream.latency import Latency

PAGES = (".html", ".htm")
HEADINGS = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9", "max": "max"}


def streams_table(books: Sequence[StreamBook], final: bool = False) -> Table:
    """Return the table of the streams: what each gave, and how late it was.

    While the run goes on, rates and confirmed tracks are those of the moment; in the final table,
    those of the whole run.
    """
    table = _table("streams", _reasons(books))
    table.add_column("stream", overflow="fold")  # the name gives way, never a figure
    for heading in ("frame", "frames/s", "published", "dropped", "tracks", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for book in books:
        hello = book.hello
        latency = book.latency.end_to_end_ms()
        table.add_row(
            book.name,
            f"{hello.width}x{hello.height}x{hello.bits}" if hello else "opening",
            f"{book.mean_fps() if final else book.fps():.1f}",
            str(book.published),
            str(book.dropped.total()),
            str(book.confirmed if final else book.tracks),
            f"{latency['p50']:.1f}",
            f"{latency['p99']:.1f}",
        )
    return table


def latency_table(books: Sequence[StreamBook]) -> Table:
    """Return the table of the stages: how long each kept a frame, ms, all streams together."""
    total = _total(books)
    ran = ", ".join(f"{model} on {engine}" for model, engine in what_ran(books))
    table = _table("latency from capture, ms, all streams", ran or None)
    table.add_column("stage")
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for stage, figures in total.stages_ms().items():
        table.add_row(stage, *(f"{figures[key]:.2f}" for key in HEADINGS))
        for step, part in books[0].device.steps_ms().items() if stage == "engine" else ():
            table.add_row(f"  {step}, of a batch", *(f"{part[key]:.2f}" for key in HEADINGS))
    table.add_section()
    table.add_row("end to end", *(f"{total.end_to_end_ms()[key]:.2f}" for key in HEADINGS))
    return table


def say_how_it_goes(console: Console, books: Sequence[StreamBook]) -> None:
    """Print a line a stream, for a console that is no terminal."""
    for book in books:
        latency = book.latency.end_to_end_ms()
        console.print(
            f"{book.name}: {book.fps():.1f} frames/s, {book.published} published, {book.dropped.total()} dropped, "
            f"{book.tracks} confirmed tracks, p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms",
            highlight=False,
            soft_wrap=True,
        )


def what_ran(books: Sequence[StreamBook]) -> list[tuple[str, str]]:
    """Return the models that frames went through and the engines that ran them, each pair once."""
    return list(dict.fromkeys((book.ran.model, book.ran.engine) for book in books if book.ran))


def report(config: Config, books: Sequence[StreamBook]) -> dict[str, Any]:
    """Return the report of a run as JSON holds it; its keys are stable."""
    total, ran = _total(books), what_ran(books)
    return {
        "schema": "irstream.report/1",
        "model": ", ".join(dict.fromkeys(model for model, _ in ran)) or config.model,
        "engine": ", ".join(dict.fromkeys(engine for _, engine in ran)) or config.engine,
        "configured": {"model": config.model, "engine": config.engine},
        "machine": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cpus": len(os.sched_getaffinity(0)),
        },
        "end_to_end_ms": total.end_to_end_ms(),
        "stages_ms": total.stages_ms(),
        "device_ms": books[0].device.steps_ms(),
        "streams": [
            {
                "name": book.name,
                "source": book.source,
                "width": book.hello.width if book.hello else None,
                "height": book.hello.height if book.hello else None,
                "bits": book.hello.bits if book.hello else None,
                "model": book.ran.model if book.ran else None,
                "engine": book.ran.engine if book.ran else None,
                "weights_sha256": book.ran.weights_sha256 if book.ran else None,
                "frames": book.frames,
                "published": book.published,
                "dropped": book.dropped.total(),
                "dropped_by_reason": dict(book.dropped),
                "frames_per_s": book.mean_fps(),
                "confirmed_tracks": book.confirmed,
                "recorded": book.recorded,
                "recorded_bytes": book.recorded_bytes,
                "not_recorded_by_reason": dict(book.not_recorded),
                "restarts": dict(book.restarts),
                "fault": book.fault,
                "end_to_end_ms": book.latency.end_to_end_ms(),
                "stages_ms": book.latency.stages_ms(),
            }
            for book in books
        ],
    }


def write_report(path: str, config: Config, books: Sequence[StreamBook]) -> None:
    """Write the report of a run: as a page if the file's name ends in ``.html``, else as JSON; ``-`` is stdout.

    Raises:
        StreamError: if it cannot be written.
    """
    content = report(config, books)
    if Path(path).suffix.lower() not in PAGES:
        write_json(path, content)
        return
    from stream.report_page import report_page

    _write(path, report_page(config, books, content))


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write figures as JSON to a file, or to standard output if ``path`` is ``-``.

    Raises:
        StreamError: if it cannot be written.
    """
    _write(path, json.dumps(content, indent=2) + "\n")


def _write(path: str, text: str) -> None:
    try:
        if path == "-":
            print(text, end="", flush=True)
        else:
            Path(path).write_text(text, encoding="utf-8")
    except BrokenPipeError:  # nobody reads any more; typer ends without a word
        raise
    except OSError as error:
        raise StreamError(f"--report {path}: {error.strerror}") from None


def _table(title: str, caption: str | None = None) -> Table:
    left: Literal["left"] = "left"
    return Table(
        title=title, title_justify=left, caption=caption, caption_justify=left, box=box.SIMPLE, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip


def _total(books: Sequence[StreamBook]) -> Latency:
    total = Latency()
    for book in books:
        total.merge(book.latency)
    return total


def _reasons(books: Sequence[StreamBook]) -> str | None:
    """Return why frames were dropped, by stream, and who was started again, a line each; None if nothing was."""
    said = [f"{b.name} dropped {n}: {reason}" for b in books for reason, n in sorted(b.dropped.items())]
    said += [f"{b.name} did not record {n}: {reason}" for b in books for reason, n in sorted(b.not_recorded.items())]
    restarts: dict[tuple[str, int], list[str]] = {}
    for book in books:
        for restart in book.restarts.items():
            restarts.setdefault(restart, []).append(book.name)
    for (reason, n), names in restarts.items():  # a worker that all streams share is in the books of each
        who = "all streams" if 1 < len(names) == len(books) else ", ".join(names)
        said.append(f"{who} needed {n} restart(s), {reason}")
    return "\n".join(said) or None
