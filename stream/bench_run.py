"""What ``python -m stream.bench`` does: paced synthetic cameras, the real pipeline, a subscriber that checks it.

Every camera shows frames drawn beforehand, each when it is due and whatever the pipeline does (an open loop), and
latency counts from that moment: a stall makes all frames late that were due meanwhile, as it would those of a camera.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from engine.contract import EngineError
from engine.one_line import check_output, one_line_errors
from stream import StreamError
from stream.bench_listener import STAGES_HEARD, Heard, listen, receive_heard
from stream.bench_plot import draw_latency
from stream.books import StreamBook
from stream.config import Config, PublishConfig, StreamConfig
from stream.processes import deaf_to_stops
from stream.publish import free_endpoint
from stream.report import what_ran
from stream.supervisor import PipelineError, Supervisor
from stream.usage import Usage
from stream.web.process import serving

LOOP = 32  # frames drawn beforehand, each stream
SAMPLE_S = 0.5
PATIENCE_S = 15.0  # for the subscriber's last words
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "p999": 99.9, "max": 100}


@dataclass(frozen=True)
class Load:
    """What is asked of the pipeline.

    Attributes:
        streams: how many cameras.
        fps: of each, frames per second.
        width: pixels.
        height: pixels.
        bits: 8 or 16.
        model: a shipped model's name or an .onnx file.
        engine: as ``load_engine`` names it; ``null`` or ``null:MS`` is none.
        seconds: how long.
        view: with the live view's server beside it, and nobody looking.
    """

    streams: int
    fps: float
    width: int
    height: int
    bits: int
    model: str
    engine: str
    seconds: float
    view: bool = False

    @property
    def frames(self) -> int:
        """Frames that each camera gives."""
        return max(1, round(self.fps * self.seconds))

    def config(self, endpoint: str) -> Config:
        """Return the pipeline's configuration."""
        scene = f"width={self.width}&height={self.height}&bits={self.bits}&fps={self.fps}"
        streams = [
            StreamConfig(name=f"camera{n}", source=f"scene:?seed={n}&{scene}&frames={self.frames}&loop={LOOP}")
            for n in range(self.streams)
        ]
        publish = PublishConfig(endpoint=endpoint, wait_for=1)
        view = "127.0.0.1:0" if self.view else None
        return Config(model=self.model, engine=self.engine, streams=tuple(streams), publish=publish, view=view)


def run_load(load: Load) -> tuple[list[StreamBook], Heard, Usage]:
    """Run the pipeline under a load; return its books, what a subscriber heard, and what the processes used.

    Raises:
        StreamError, EngineError: if something given cannot be used.
        PipelineError: if the pipeline broke or was interrupted.
    """
    endpoint = free_endpoint()
    config, usage = load.config(endpoint), Usage()
    sampled = 0.0

    def sample(books: Sequence[StreamBook]) -> None:
        nonlocal sampled
        if sampled == 0 and any(book.hello for book in books):
            sampled = time.monotonic()  # not the first moment, which is the start's
        flowing = all(book.published for book in books) and not any(book.ended for book in books)
        if flowing and time.monotonic() - sampled >= SAMPLE_S:
            sampled = time.monotonic()
            usage.sample()

    supervisor = Supervisor(config, sample)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    names = [stream.name for stream in config.streams]
    listener = context.Process(target=listen, args=(endpoint, names, sender), name="subscriber", daemon=True)
    with deaf_to_stops():
        listener.start()
    sender.close()
    try:
        with serving(config, lambda _: None):
            supervisor.run()
        if supervisor.interrupted:
            raise PipelineError("interrupted; nothing was measured")
        if not receiver.poll(PATIENCE_S):
            raise PipelineError("the subscriber has not heard the streams' end")
        heard = receive_heard(receiver)
    except EOFError:
        raise PipelineError("the subscriber died") from None
    finally:
        listener.kill()
        listener.join()
    return supervisor.books, heard, usage


def summary(load: Load, books: Sequence[StreamBook], heard: Heard, usage: Usage) -> dict[str, Any]:
    """Return the figures as JSON holds them; its keys are stable."""
    ends, stages = heard.rows[:, -1], heard.stages_ns()
    received = Counter(heard.rows[:, 0].tolist())
    ran = ", ".join(dict.fromkeys(engine for _, engine in what_ran(books)))
    reasons: Counter[str] = sum((book.dropped for book in books), Counter())
    return {
        "schema": "irstream.bench/1",
        "engine": ran if load.engine == "auto" else load.engine,
        "model": load.model,
        "size": f"{load.width}x{load.height}",
        "bits": load.bits,
        "fps": load.fps,
        "seconds": load.seconds,
        "view": load.view,
        "machine": {"platform": platform.platform(), "cpus": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]},
        "end_to_end_ms": percentiles(ends),
        "without_engine_ms": percentiles(heard.without_engine_ns()),
        "stages_ms": {stage: percentiles(stages[:, n]) for n, stage in enumerate(STAGES_HEARD)},
        "streams": [
            {
                "name": book.name,
                "frames": load.frames,
                "published": book.published,
                "dropped": book.dropped.total(),
                "dropped_by_reason": dict(book.dropped),
                "received": received[index],
                "missed": heard.missed.get(book.name, 0),
                "frames_per_s": book.mean_fps(),
                "end_to_end_ms": percentiles(ends[heard.rows[:, 0] == index]),
            }
            for index, book in enumerate(books)
        ],
        "accounts": {
            "generated": load.frames * load.streams,
            "published": sum(book.published for book in books),
            "dropped_by_reason": dict(reasons),
            "received": len(ends),
            "missed": sum(heard.missed.values()),
        },
        "processes": usage.figures(),
    }


def percentiles(ns: NDArray[np.int64]) -> dict[str, float]:
    """Return p50, p90, p99, p999 and max of durations, ms; of none, zeros."""
    if not len(ns):
        return dict.fromkeys(PERCENTILES, 0.0)
    return dict(zip(PERCENTILES, np.percentile(ns / 1e6, list(PERCENTILES.values())).round(3).tolist(), strict=True))


def what_does_not_add_up(figures: dict[str, Any]) -> list[str]:
    """Return what is wrong with the accounts, a line a stream: nothing may be lost without a word."""
    wrong = []
    for stream in figures["streams"]:
        name, frames, published, dropped = (stream[key] for key in ("name", "frames", "published", "dropped"))
        if frames != published + dropped:
            wrong.append(f"{name}: {frames} frames were generated, but {published} published and {dropped} dropped")
        received, missed = stream["received"], stream["missed"]
        # Once messages are missed, so is what they said of drops: the subscriber takes those for missed, too.
        if received > published or (received < published and not missed):
            wrong.append(f"{name}: {published} were published, but {received} received and {missed} missed")
    return wrong


def tables_of(figures: dict[str, Any]) -> list[Table]:
    """Return the figures as tables to print."""
    latency = Table("from when it was due, ms", *("p50", "p90", "p99", "p99.9", "max"), box=None)
    whole = {"end to end": figures["end_to_end_ms"], "to publish, but the engine": figures["without_engine_ms"]}
    for stage, row in {**figures["stages_ms"], **whole}.items():
        latency.add_row(stage, *(f"{row[key]:.2f}" for key in PERCENTILES))
    streams = Table("stream", "frames", "published", "dropped", "missed", "p50 ms", "p99 ms", "max ms", box=None)
    for s in figures["streams"]:
        late = (f"{s['end_to_end_ms'][key]:.2f}" for key in ("p50", "p99", "max"))
        counts = (str(s[key]) for key in ("frames", "published", "dropped", "missed"))
        streams.add_row(s["name"], *counts, *late)
    reasons = figures["accounts"]["dropped_by_reason"]
    if reasons:
        streams.caption = "dropped: " + ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        streams.caption_justify = "left"
    processes = Table("process", "% of a core", "memory MB", "shared MB", box=None)
    for p in figures["processes"]:
        processes.add_row(p["name"], f"{p['cpu_percent']:.1f}", f"{p['memory_mb']:.0f}", f"{p['shared_mb']:.0f}")
    return [latency, streams, processes]


@one_line_errors(PipelineError, code=1)
@one_line_errors(StreamError, EngineError)
def bench(
    streams: Annotated[int, typer.Option(help="Cameras.", min=1, max=64)] = 1,
    fps: Annotated[float, typer.Option(help="Frames per second of each.")] = 30.0,
    size: Annotated[str, typer.Option(help="Of a frame, WIDTHxHEIGHT in pixels.")] = "640x512",
    bits: Annotated[int, typer.Option(help="Of a pixel, 8 or 16.")] = 8,
    engine: Annotated[
        str, typer.Option(help="auto or a backend; null is none, null:MS none that takes so many ms a frame.")
    ] = "auto",
    model: Annotated[str, typer.Option(help="A shipped model's name, or an .onnx file.")] = "rpcanet_plus_k1",
    seconds: Annotated[float, typer.Option(help="How long.")] = 10.0,
    view: Annotated[bool, typer.Option("--view", help="With the live view beside it; nobody looks.")] = False,
    json_path: Annotated[str | None, typer.Option("--json", help="Write the figures here; - is stdout.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw latency over time and its distribution here, a PNG.")] = None,
) -> None:
    """Load the pipeline with cameras that wait for no one, and say how late its answers are.

    Exits with 0; with 1 if the pipeline broke or its accounts do not add up;
    with 2 if something given to it cannot be used.
    """
    load = replace(_checked(streams, fps, size, bits, model, engine, seconds), view=view)
    _check_outputs(json_path, plot)
    books, heard, usage = run_load(load)
    figures = summary(load, books, heard, usage)
    if json_path == "-":
        print(json.dumps(figures, indent=2))
    elif json_path:
        Path(json_path).write_text(json.dumps(figures, indent=2) + "\n")
    if plot:
        title = f"{streams} x {size} {bits} bit at {fps:g} frames/s, engine {engine}"
        draw_latency(plot, heard, [book.name for book in books], title)
    if json_path != "-":
        console = Console()
        for table in tables_of(figures):
            console.print(table, "")
    if wrong := what_does_not_add_up(figures):
        raise PipelineError("; ".join(wrong))


def _checked(streams: int, fps: float, size: str, bits: int, model: str, engine: str, seconds: float) -> Load:
    match = re.fullmatch(r"([1-9]\d{1,3})x([1-9]\d{1,3})", size)
    if not match:
        raise StreamError(f"--size {size}: WIDTHxHEIGHT is expected, such as 640x512")
    if bits not in (8, 16):
        raise StreamError(f"--bits {bits}: 8 or 16 is expected")
    if not 0 < fps <= 1000:
        raise StreamError(f"--fps {fps:g}: above 0 and at most 1000 is expected")
    if not 0 < seconds <= 86_400:
        raise StreamError(f"--seconds {seconds:g}: above 0 and at most 86400 is expected")
    return Load(streams, fps, int(match[1]), int(match[2]), bits, model, engine, seconds)


def _check_outputs(json_path: str | None, plot: Path | None) -> None:
    """Refuse, before minutes of work, what could not be written after them."""
    check_output("--json", json_path)
    check_output("--plot", plot, ".png")
    if plot and importlib.util.find_spec("matplotlib") is None:
        raise StreamError("--plot needs matplotlib: pip install 'irstream[plots]'")
