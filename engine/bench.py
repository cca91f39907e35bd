"""Time engines side by side: ``python -m engine.bench --model NAME --engine openvino,onnxruntime``."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from engine.base import ENGINES, FULL_RANGE, Engine, Frames, load_engine
from engine.contract import EngineError, find_model, read_model
from engine.limits import SIDES, Gemm, Reference, precision_of, work_of
from engine.one_line import check_output, one_line_errors, run_command

TURN_S = 0.2  # an engine's turn, before the next one has it
LEAST_RUNS = 5
MAX_SIDE, MAX_BATCH = 8192, 256


@dataclass(frozen=True)
class Speed:
    """How fast one engine is at one size and batch.

    Attributes:
        engine: the backend; ``pytorch``, by whatever it goes on with, is a reference.
        model: the model as it was named.
        size: ``WIDTHxHEIGHT`` in pixels.
        batch: frames in a call.
        median_ms: of a call, in milliseconds.
        p99_ms: the same, the 99th percentile.
        frames_per_s: frames a second at the median.
    """

    engine: str
    model: str
    size: str
    batch: int
    median_ms: float
    p99_ms: float
    frames_per_s: float


@dataclass(frozen=True)
class Timing(Speed):
    """How fast an engine is, beside the others and the machine's limit.

    Attributes:
        ratio: of the first engine's median to this one's, or of the reference's if there is one: above 1, this one
            is faster.
        gflop_per_s: the arithmetic of the model's convolutions, as its file has them, in that time.
        precision: what most of it is computed in: ``f32``, ``bf16``, ``int8`` or, on a GPU, ``f16``.
        limit_fraction: of that to what a large product of matrices of that precision reached in the same run, on the
            CPU with as many threads; an engine that finds a way around some of the arithmetic may pass 1. None of
            ``f16``: ``engine.gpu_bench`` has the limits of a GPU.
        megabytes_moved: what those convolutions read and write in a call, in float32.
    """

    ratio: float
    gflop_per_s: float
    precision: str
    limit_fraction: float | None
    megabytes_moved: float


class Timed(Protocol):
    """What can be timed: an engine, or what is dressed as one."""

    def prepare(self, batch: int, height: int, width: int) -> None: ...

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]: ...


def time_engines(
    engines: Sequence[Timed], frames: Frames, window: NDArray[np.float32], seconds: float
) -> list[NDArray[np.float64]]:
    """Time the engines in short turns, so that what else the machine does falls on all of them alike.

    Args:
        engines: the engines to time.
        frames: what each call gets; see ``Engine.infer``.
        window: likewise.
        seconds: how long to time each engine; a slow one has at least ``LEAST_RUNS`` calls.

    Returns:
        The duration of every call in seconds, an array an engine.
    """
    height, width = frames.shape[2:4]
    for engine in engines:
        engine.prepare(len(frames), height, width)
    calls: list[list[float]] = [[] for _ in engines]
    while any(sum(taken) < seconds or len(taken) < LEAST_RUNS for taken in calls):
        for engine, taken in zip(engines, calls, strict=True):
            engine.infer(frames, window)  # not timed: it finds the caches full of the engine before
            end = time.perf_counter() + min(TURN_S, seconds)
            while True:
                start = time.perf_counter()
                engine.infer(frames, window)
                now = time.perf_counter()
                taken.append(now - start)
                if now >= end:
                    break
    return [np.array(taken) for taken in calls]


def bench(
    model: str,
    names: list[str],
    sizes: list[tuple[int, int]],
    batches: list[int],
    seconds: float,
    threads: int | None,
    with_reference: bool = False,
) -> list[Timing]:
    """Time a model on engines at every size and batch.

    Args:
        model: a shipped model's name or an .onnx file's path; its bits tell those of the frames.
        names: the engines, as ``load_engine`` names them.
        sizes: ``(width, height)`` in pixels.
        batches: frames in a call.
        seconds: to time each engine, size and batch.
        threads: CPU threads of an engine; None leaves it to the backend.
        with_reference: also time the network in eager PyTorch, first of all.

    Raises:
        EngineError: if a model or an engine cannot be used.
    """
    proto, info = read_model(find_model(model))
    bits = info.bits
    engines: list[Engine | Reference] = [load_engine(model, name, bits, threads) for name in names]
    reference = Reference(proto, info, threads) if with_reference else None
    if reference:
        engines.insert(0, reference)
    precisions = [precision_of(proto, engine.name) for engine in engines]
    gemms = {precision: Gemm(threads, precision) for precision in dict.fromkeys(precisions) if precision in SIDES}
    window = np.array([FULL_RANGE[bits]], np.float32)
    timings = []
    try:
        for (width, height), batch in product(sizes, batches):
            shape = (batch, 1, height, width) if bits == 8 else (batch, 1, height, width, 2)
            frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            runs = time_engines([*engines, *gemms.values()], frames, window.repeat(batch, 0), seconds)
            medians = [float(np.median(taken)) for taken in runs]
            work = work_of(proto, batch, height, width)
            limits = {
                precision: gemm.operations / middle
                for (precision, gemm), middle in zip(gemms.items(), medians[len(engines) :], strict=True)
            }
            for engine, taken, middle, precision in zip(engines, runs, medians, precisions, strict=False):
                timings.append(
                    Timing(
                        engine=engine.name,
                        model=model,
                        size=f"{width}x{height}",
                        batch=batch,
                        median_ms=1e3 * middle,
                        p99_ms=1e3 * float(np.quantile(taken, 0.99)),
                        frames_per_s=batch / middle,
                        ratio=medians[0] / middle,
                        gflop_per_s=1e-9 * work.operations / middle,
                        precision=precision,
                        limit_fraction=work.operations / middle / limits[precision] if precision in limits else None,
                        megabytes_moved=1e-6 * work.bytes_moved,
                    )
                )
    finally:
        if reference:
            reference.close()
    return timings


def table_of(timings: list[Timing]) -> Table:
    """Return the timings as a table to print."""
    models = ", ".join(dict.fromkeys(t.model for t in timings))
    table = Table(title=f"{models}, one run", title_justify="left", padding=0)
    table.add_column("engine", no_wrap=True)
    for name in ("size", "batch", "median ms", "p99 ms", "frames/s", "ratio", "GFLOP/s", "of GEMM", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in timings:
        figures = (f"{t.median_ms:.2f}", f"{t.p99_ms:.2f}", f"{t.frames_per_s:.1f}", f"{t.ratio:.2f}")
        share = "-" if t.limit_fraction is None else f"{100 * t.limit_fraction:.0f} %"
        yardsticks = (f"{t.gflop_per_s:.1f}", share, f"{t.megabytes_moved:.0f}")
        table.add_row(t.engine, t.size, str(t.batch), *figures, *yardsticks)
    return table


@one_line_errors(EngineError)
def main(
    model: Annotated[str, typer.Option(help="A shipped model's name, or an .onnx file.")],
    engine: Annotated[str, typer.Option(help=f"Engines, comma-separated: auto, {', '.join(ENGINES)}.")] = "auto",
    size: Annotated[str, typer.Option(help="Frame sizes WIDTHxHEIGHT, comma-separated.")] = "256x256",
    batch: Annotated[str, typer.Option(help="Frames in a call, comma-separated.")] = "1",
    seconds: Annotated[float, typer.Option(help="How long to time each engine, size and batch.")] = 5.0,
    threads: Annotated[int | None, typer.Option(help="CPU threads of an engine.")] = None,
    reference: Annotated[bool, typer.Option(help="Also time the network in eager PyTorch (extra train).")] = False,
    json_path: Annotated[str | None, typer.Option("--json", help="Write the figures here; - is stdout.")] = None,
) -> None:
    """Time a model on engines, side by side in one run."""
    if not 0 < seconds < float("inf"):
        raise EngineError(f"--seconds {seconds}: a number above 0 is expected")
    sizes = [parse_size(part) for part in size.split(",")]
    batches = [parse_batch(part) for part in batch.split(",")]
    names = [name.strip() for name in engine.split(",")]
    check_output("--json", json_path)
    timings = bench(model, names, sizes, batches, seconds, threads, reference)
    if json_path:
        figures = json.dumps({"results": [asdict(timing) for timing in timings]}, indent=2)
        if json_path == "-":
            print(figures)
        else:
            Path(json_path).write_text(figures + "\n")
    if json_path != "-":
        Console().print(table_of(timings))


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height of ``WIDTHxHEIGHT``."""
    match = re.fullmatch(r"0*([1-9]\d*)x0*([1-9]\d*)", text.strip())
    if not match or max(map(len, match.groups())) > 4 or max(map(int, match.groups())) > MAX_SIDE:
        raise EngineError(f"--size {text!r}: WIDTHxHEIGHT in pixels, at most {MAX_SIDE} each, such as 320x256")
    return int(match[1]), int(match[2])


def parse_batch(text: str, most: int = MAX_BATCH) -> int:
    """Return a batch."""
    if not re.fullmatch(r"\s*\d{1,9}\s*", text) or not 1 <= int(text) <= most:
        raise EngineError(f"--batch {text!r}: a whole number from 1 to {most} is expected")
    return int(text)


if __name__ == "__main__":
    run_command(main, ends_at_once=True)
