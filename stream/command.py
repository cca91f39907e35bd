"""The command line of ``run_pipeline.py``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live

from engine.contract import EngineError
from stream import StreamError
from stream.books import StreamBook
from stream.config import Config, load_config, streams_of
from stream.report import PAGES, latency_table, say_how_it_goes, streams_table, write_json, write_report
from stream.supervisor import PipelineError, Supervisor
from stream.web.address import DEFAULT as ADDRESS
from stream.web.process import serving

DEFAULT = Path(__file__).parent.parent / "configs" / "demo.yaml"
SAY_EVERY_S = 5.0
BAD_INPUT, BROKEN = 2, 1
PLAIN: Any = {"highlight": False, "soft_wrap": True}


def with_addresses(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which --view and --metrics have an address: the default if none follows."""
    filled: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=True):
        filled.append(argument)
        if argument in {"--view", "--metrics"} and following.startswith("-"):
            filled.append(ADDRESS)
    return filled


def run(
    config: Annotated[Path, typer.Option(help="What to run, a YAML file.")] = DEFAULT,
    source: Annotated[
        list[str] | None, typer.Option(help="A source instead of the file's streams; repeatable.")
    ] = None,
    live: Annotated[
        bool | None, typer.Option("--live/--file", help="Pace --source files at their own rate, or drop nothing.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A shipped model's name, or an .onnx file.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, openvino or onnxruntime.")] = None,
    duration: Annotated[float | None, typer.Option(help="Stop after so many seconds.")] = None,
    publish: Annotated[str | None, typer.Option(help="ZeroMQ endpoint to publish on.")] = None,
    wait_for: Annotated[int | None, typer.Option(help="Subscribers to wait for before the first frame.")] = None,
    view: Annotated[
        str | None, typer.Option(metavar="[HOST:PORT]", help=f"Show it in a browser; {ADDRESS} if none is named.")
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="[HOST:PORT]", help="Serve /metrics, /healthz and /readyz, which --view has too."),
    ] = None,
    record: Annotated[str | None, typer.Option(help="Keep frames and messages in this folder.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run nothing: open the cameras, time the engine, say whether it keeps up.")
    ] = False,
    report_to: Annotated[
        str | None,
        typer.Option("--report", help="Write the report: R.html a page, R.json figures; - is JSON on stdout."),
    ] = None,
) -> None:
    """Turn live infrared video into tracked small targets, and say how late every answer is.

    Ends when its sources end, after --duration, or on Ctrl-C. Exits with 0, with 2 if something
    given to it cannot be used, with 1 if it broke, or would not keep up (--check).
    """
    console = Console(stderr=report_to == "-")
    given = {
        "model": model,
        "engine": engine,
        "duration": duration,
        "publish.endpoint": publish,
        "publish.wait_for": wait_for,
        "record.folder": record,
        "view": view,
        "metrics": metrics,
        "streams": streams_of(source, live) if source else None,
    }
    overrides: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if source and duration is None:
        overrides["duration"] = None  # the file's was meant for its own streams
    try:
        checked = load_config(config, overrides)
        if report_to and report_to != "-" and not Path(report_to).absolute().parent.is_dir():
            raise StreamError(f"--report {report_to}: its folder does not exist")
        if report_to and Path(report_to).is_dir():
            raise StreamError(f"--report {report_to}: a folder; a file is expected")
        if live is not None and not source:
            raise StreamError("--live and --file go with --source; in a file, a stream has the key 'live'")
        if check:
            _check(checked, config, report_to, console)
            return
        supervisor = Supervisor(checked, lambda _: None)
        console.print(f"starting {checked.model} (engine {checked.engine}) for {checked.publish.endpoint}", **PLAIN)
        try:
            with serving(checked, lambda line: console.print(line, **PLAIN)):
                _run_and_show(supervisor, console)
        finally:
            if any(book.published for book in supervisor.books):
                console.print(streams_table(supervisor.books, final=True))
                console.print(latency_table(supervisor.books))
            if report_to:
                write_report(report_to, checked, supervisor.books)
    except (StreamError, EngineError) as error:
        _fail(str(error), BAD_INPUT)
    except PipelineError as error:
        _fail(str(error), BROKEN)


def _check(config: Config, path: Path, report_to: str | None, console: Console) -> None:
    """Check a configuration; exit with 2 if something of it cannot be used, with 1 if the machine would not keep up."""
    if report_to and Path(report_to).suffix.lower() in PAGES:
        raise StreamError(f"--report {report_to}: --check writes figures; a .json file, or -, is expected")
    from stream.check import check, describe

    console.print(f"{path}: {len(config.streams)} streams; looking for a few seconds", **PLAIN)
    found = check(config)
    for line in describe(found, config):
        console.print(line, **PLAIN)
    if report_to:
        write_json(report_to, found.as_json())
    if found.faults:
        _fail("; ".join(found.faults), BAD_INPUT)
    if not found.keeps_up:
        _fail("this machine would not keep up", BROKEN)


def _run_and_show(supervisor: Supervisor, console: Console) -> None:
    if not console.is_terminal:
        supervisor.show = _every(SAY_EVERY_S, lambda books: say_how_it_goes(console, books))
        supervisor.run()
        return
    with Live(console=console, auto_refresh=False, transient=True) as view:
        supervisor.show = lambda books: view.update(
            Group(streams_table(books), "Ctrl-C ends the run; nothing that was captured is lost."), refresh=True
        )
        supervisor.run()


def _every(seconds: float, act: Callable[[Sequence[StreamBook]], None]) -> Callable[[Sequence[StreamBook]], None]:
    due = time.monotonic() + seconds

    def maybe(books: Sequence[StreamBook]) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due += seconds
            act(books)

    return maybe


def _fail(reason: str, code: int) -> None:
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    raise typer.Exit(code)
