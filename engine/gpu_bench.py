"""Time a model on a GPU: ``python -m engine.gpu_bench --model NAME --reference --json gpu.json``.

Unlike ``engine.bench`` it tells what the GPU alone takes from what a caller waits, and measures the former against what
this GPU copies and multiplies at best.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from engine.asides import warn
from engine.base import FULL_RANGE, load_engine
from engine.bench import Speed, parse_batch, parse_size
from engine.contract import EngineError, find_model, read_model
from engine.cuda import find_gpu
from engine.cuda_plan import work_of_plan
from engine.one_line import check_output, one_line_errors, run_command
from engine.parts import rebuilds

LEAST_RUNS = 10
MAX_BATCH = 999
REFERENCE_S = 600


@dataclass(frozen=True)
class GpuTiming(Speed):
    """How fast an engine is on the GPU: from frames in host memory to answers there.

    PyTorch's frames and answers stay on the GPU: it is timed until the GPU is done.

    Attributes:
        compute_ms: the median of what the GPU computes, without copies to it and from it; None of PyTorch.
        matmul_fraction: of the engine's own arithmetic in ``compute_ms`` to the rate of a large float16 product.
        copy_fraction: of what its kernels read and write in ``compute_ms`` to the rate of a large copy. Where the maps
            stay in the cache between kernels it may pass 1.
    """

    compute_ms: float | None = None
    matmul_fraction: float | None = None
    copy_fraction: float | None = None


def time_engine(
    model: str, name: str, sizes: list[tuple[int, int]], batches: list[int], seconds: float, rates: dict[str, float]
) -> list[GpuTiming]:
    """Time an engine at every size and batch.

    Args:
        model: a shipped model's name or an .onnx file's path.
        name: the engine, one that computes on a GPU.
        sizes: ``(width, height)`` in pixels.
        batches: frames in a call.
        seconds: to time each.
        rates: ``copy_bytes_per_s`` and ``matmul_flop_per_s`` of this GPU, or nothing.

    Raises:
        EngineError: if the model or the engine cannot be used.
    """
    info = read_model(find_model(model))[1]
    engine: Any = load_engine(model, name, info.bits)
    timings = []
    locked: list[Any] = []  # what is locked must outlive the engine
    for (width, height), batch in product(sizes, batches):
        shape = (batch, 1, height, width) if info.bits == 8 else (batch, 1, height, width, 2)
        frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        engine.lock_pages(frames)
        locked.append(frames)
        window = np.array([FULL_RANGE[info.bits]] * batch, np.float32)
        engine.prepare(batch, height, width)
        taken: list[float] = []
        computed: list[float] = []
        while sum(taken) < seconds or len(taken) < LEAST_RUNS:
            start = time.perf_counter()
            engine.infer(frames, window)
            taken.append(time.perf_counter() - start)
            computed.append(engine.times_ms["compute"])
        middle, compute = float(np.median(taken)), float(np.median(computed))
        fractions: dict[str, float] = {}
        if rates and name == "cuda":
            work = work_of_plan(engine.weights, batch, height, width)
            fractions["matmul_fraction"] = 1e3 * work.operations / compute / rates["matmul_flop_per_s"]
            fractions["copy_fraction"] = 1e3 * work.bytes_moved / compute / rates["copy_bytes_per_s"]
        timings.append(
            GpuTiming(
                engine=name,
                model=model,
                size=f"{width}x{height}",
                batch=batch,
                median_ms=1e3 * middle,
                p99_ms=1e3 * float(np.quantile(taken, 0.99)),
                frames_per_s=batch / middle,
                compute_ms=compute,
                **fractions,
            )
        )
    return timings


def time_reference(
    model: str, sizes: list[tuple[int, int]], batches: list[int], seconds: float
) -> tuple[list[GpuTiming], dict[str, float]]:
    """Time PyTorch in a process of its own; return what it took, and the GPU's rates.

    Raises:
        EngineError: if PyTorch is not installed or has no GPU; not if it stops later, as where memory ends.
    """
    proto, info = read_model(find_model(model))
    wanted: dict[str, object] = {"stages": info.stages, "channels": info.channels, "bottleneck": info.bottleneck}
    wanted |= {"rebuild": rebuilds(proto.graph, info.stages), "sizes": sizes, "batches": batches, "seconds": seconds}
    line = [sys.executable, "-m", "training.gpu_reference", json.dumps(wanted)]
    try:
        done = subprocess.run(line, capture_output=True, check=False, timeout=REFERENCE_S)
        printed, said = done.stdout, (done.stderr.decode(errors="replace").strip().splitlines() or ["it ended"])[-1]
        failed = done.returncode != 0
    except subprocess.TimeoutExpired as error:
        printed, said, failed = error.stdout or b"", f"it took more than {REFERENCE_S} s", True
    lines = [json.loads(line) for line in printed.decode().splitlines() if line.endswith("}")]
    if not lines:
        raise EngineError(f"--reference: PyTorch does not run on the GPU ({said}); pip install 'irstream[train]'")
    if failed:
        warn(f"--reference: PyTorch ended early ({said})")
    return [GpuTiming(model=model, **line) for line in lines[1:]], lines[0]["limits"]


def table_of(timings: list[GpuTiming]) -> Table:
    """Return the timings as a table to print."""
    models = ", ".join(dict.fromkeys(t.model for t in timings))
    table = Table(title=f"{models}, one run", title_justify="left", padding=0)
    table.add_column("engine", no_wrap=True)
    for name in ("size", "batch", "median ms", "p99 ms", "frames/s", "GPU ms", "of FP16", "of copy"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in sorted(timings, key=lambda t: (t.model, len(t.size), t.size, t.batch)):
        compute = f"{t.compute_ms:.3f}" if t.compute_ms is not None else ""
        parts = [f"{100 * part:.0f} %" if part is not None else "" for part in (t.matmul_fraction, t.copy_fraction)]
        figures = (f"{t.median_ms:.3f}", f"{t.p99_ms:.3f}", f"{t.frames_per_s:.0f}", compute)
        table.add_row(t.engine, t.size, str(t.batch), *figures, *parts)
    return table


@one_line_errors(EngineError)
def main(
    model: Annotated[str, typer.Option(help="A shipped model's name, or an .onnx file.")],
    engine: Annotated[str, typer.Option(help="GPU engines, comma-separated: cuda, tensorrt.")] = "cuda",
    size: Annotated[str, typer.Option(help="Frame sizes WIDTHxHEIGHT, comma-separated.")] = "256x256,640x512,1280x1024",
    batch: Annotated[str, typer.Option(help="Frames in a call, comma-separated.")] = "1,4,16,64",
    seconds: Annotated[float, typer.Option(help="How long to time each engine, size and batch.")] = 1.0,
    reference: Annotated[bool, typer.Option(help="Also time PyTorch (extra train), and the GPU's limits.")] = False,
    json_path: Annotated[str | None, typer.Option("--json", help="Write the figures here; - is stdout.")] = None,
) -> None:
    """Time a model on this machine's GPU."""
    sizes = [parse_size(part) for part in size.split(",")]
    batches = [parse_batch(part, MAX_BATCH) for part in batch.split(",")]
    check_output("--json", json_path)
    gpu = find_gpu()
    timings, rates = time_reference(model, sizes, batches, seconds) if reference else ([], {})
    for name in engine.split(","):
        timings += time_engine(model, name.strip(), sizes, batches, seconds, rates)
    figures = {"gpu": asdict(gpu), "rates": rates, "results": [asdict(timing) for timing in timings]}
    if json_path == "-":
        print(json.dumps(figures, indent=2))
    elif json_path:
        Path(json_path).write_text(json.dumps(figures, indent=2) + "\n")
    if json_path != "-":
        print(f"{gpu.name}, driver {gpu.driver}; {rates}")
        Console(width=110).print(table_of(timings))


if __name__ == "__main__":
    run_command(main, ends_at_once=True)
