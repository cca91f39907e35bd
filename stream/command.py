"""The command line of ``run_pipeline.py``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live

from engine.base import ENGINES
from engine.contract import EngineError
from engine.one_line import OutputError, check_output
from stream import StreamError
from stream.books import StreamBook
from stream.config import Config, load_config, streams_of
from stream.log import ENDING, Log
from stream.output import forgive
from stream.report import PAGES, streams_table, write_json, write_report
from stream.supervisor import PipelineError, Supervisor
from stream.web.address import DEFAULT as ADDRESS
from stream.web.process import serving

DEFAULT = Path(__file__).parent.parent / "configs" / "demo.yaml"
SAY_EVERY_S = 5.0
BAD_INPUT, BROKEN = 2, 1
OPTIONS = {  # by the keys that they replace
    "model": "--model",
    "engine": "--engine",
    "duration": "--duration",
    "streams": "--source",
    "publish.endpoint": "--publish",
    "publish.wait_for": "--wait-for",
    "record.folder": "--record",
    "view": "--view",
    "metrics": "--metrics",
}
Show = Callable[[Sequence[StreamBook]], None]


def _panel(title: str) -> Callable[..., Any]:
    def option(text: str, metavar: str, *names: str, **more: Any) -> Any:  # noqa: ANN401 (typer's own type)
        return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=title, **more)

    return option


_what, _where, _says = _panel("What to run"), _panel("Where it goes"), _panel("What it says of itself")


def with_addresses(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which --view and --metrics have an address: the default if none follows."""
    filled: list[str] = []
    for argument, following in zip(arguments, [*arguments, "-"][1:], strict=True):
        filled.append(argument)
        if argument in {"--view", "--metrics"} and following.startswith("-"):
            filled.append(ADDRESS)
    return filled


def run(
    config: Annotated[Path, _what("What to run, a YAML file.", "FILE", show_default="configs/demo.yaml")] = DEFAULT,
    source: Annotated[
        list[str] | None, _what("A file, folder or camera instead of the file's streams; repeatable.", "SOURCE")
    ] = None,
    live: Annotated[
        bool | None, _what("Pace --source files at their own rate, or drop nothing.", "", "--live/--file")
    ] = None,
    model: Annotated[str | None, _what("A shipped model's name, or an .onnx file.", "MODEL")] = None,
    engine: Annotated[str | None, _what(f"auto, {', '.join(ENGINES)}.", "ENGINE")] = None,
    duration: Annotated[float | None, _what("Stop after so many seconds.", "SECONDS")] = None,
    check: Annotated[
        bool, _what("Run nothing: open the cameras, time the engine, say whether it keeps up.", "", "--check")
    ] = False,
    publish: Annotated[
        str | None, _where("ZeroMQ endpoint to publish tracks on, such as tcp://127.0.0.1:5560.", "ENDPOINT")
    ] = None,
    wait_for: Annotated[int | None, _where("Subscribers to wait for before the first frame.", "COUNT")] = None,
    view: Annotated[str | None, _where(f"Show it in a browser; {ADDRESS} if none is named.", "[HOST:PORT]")] = None,
    metrics: Annotated[
        str | None, _where("Serve /metrics, /healthz and /readyz, which --view has too.", "[HOST:PORT]")
    ] = None,
    record: Annotated[str | None, _where("Keep frames and messages in this folder.", "FOLDER")] = None,
    report_to: Annotated[
        str | None, _says("Write the report: R.html a page, R.json figures; - is JSON on stdout.", "FILE", "--report")
    ] = None,
    log_json: Annotated[bool, _says("Say everything as JSON, one object a line.", "", "--log-json")] = False,
) -> None:
    """Turn live infrared video into tracked small targets, and say how late every answer is.

    Without options it runs two synthetic cameras. It ends when its sources
    end, after --duration, or on Ctrl-C, and exits with 0; with 2 if something
    given to it cannot be used; with 1 if it broke, or if the machine would not
    keep up (--check).

    run_pipeline.py --source flight.mp4
    run_pipeline.py --source rtsp://user:password@camera/stream --view
    run_pipeline.py --config site.yaml --check
    """
    forgive(stdout=report_to != "-")
    log = Log(Console(stderr=report_to == "-"), log_json)
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
        checked = load_config(config, overrides, OPTIONS)
        check_output("--report", report_to)
        if report_to and (suffix := Path(report_to).suffix.lower()) and suffix not in (*PAGES, ".json"):
            raise StreamError(
                f"--report {report_to}: a name that ends in .html (a page) or .json (figures) is expected"
            )
        if live is not None and not source:
            raise StreamError("--live and --file go with --source; in a file, a stream has the key 'live'")
        if check:
            _check(checked, config, report_to, log)
            return
        supervisor = Supervisor(checked, lambda _: None)
        to = checked.publish.endpoint
        starting = f"starting {checked.model} (engine {checked.engine}) for {to}"
        log.say("starting", starting, model=checked.model, engine=checked.engine, endpoint=to)
        try:
            with serving(checked, lambda line: log.say("serving", line, line=line)):
                _run_and_show(supervisor, log)
        finally:
            if any(book.published for book in supervisor.books):
                log.end(checked, supervisor.books)
            if report_to:
                write_report(report_to, checked, supervisor.books)
    except (StreamError, EngineError, OutputError) as error:
        log.fail(str(error))
        raise typer.Exit(BAD_INPUT) from None
    except PipelineError as error:
        log.fail(str(error))
        raise typer.Exit(BROKEN) from None


def _check(config: Config, path: Path, report_to: str | None, log: Log) -> None:
    """Check a configuration; exit with 2 if something of it cannot be used, with 1 if the machine would not keep up."""
    if report_to and Path(report_to).suffix.lower() in PAGES:
        raise StreamError(f"--report {report_to}: --check writes figures; a .json file, or -, is expected")
    from stream.check import check
    from stream.check_lines import describe

    many = f"{len(config.streams)} stream{'s' * (len(config.streams) != 1)}"
    looking = f"{path}: {many}; looking for a few seconds"
    log.say("checking", looking, config=str(path), streams=len(config.streams))
    found = check(config)
    for line in describe(found):
        log.say("check", line, line=line)
    if report_to:
        write_json(report_to, found.as_json())
    if found.faults:
        log.fail("; ".join(found.faults))
        raise typer.Exit(BAD_INPUT)
    if not found.keeps_up:
        log.fail("this machine would not keep up")
        raise typer.Exit(BROKEN)


def _run_and_show(supervisor: Supervisor, log: Log) -> None:
    if log.as_json or not log.console.is_terminal:
        say = _every(SAY_EVERY_S, log.progress)
        supervisor.show = _answering(supervisor, log, say)
        supervisor.run()
        return
    with Live(console=log.console, auto_refresh=False, transient=True) as view:
        supervisor.show = lambda books: view.update(
            Group(streams_table(books), ENDING if supervisor.interrupted else "Ctrl-C ends the run."), refresh=True
        )
        supervisor.run()


def _answering(supervisor: Supervisor, log: Log, show: Show) -> Show:
    """Return ``show``, which also answers the first Ctrl-C."""
    answered = False

    def both(books: Sequence[StreamBook]) -> None:
        nonlocal answered
        if supervisor.interrupted and not answered:
            answered = True
            log.say("ending", ENDING)
        show(books)

    return both


def _every(seconds: float, act: Show) -> Show:
    due = time.monotonic() + seconds

    def maybe(books: Sequence[StreamBook]) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + seconds
            act(books)

    return maybe
