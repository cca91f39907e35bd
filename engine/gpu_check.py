"""Check an engine on a machine with a GPU: ``python -m engine.gpu_check --engine cuda --json gpu.json``.

Loads the engine, compares its answers with ONNX Runtime's, times it by batch and size, runs the pipeline end
to end, and writes what it saw. It has not been run on a GPU itself; the engine ``cuda`` has.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from engine.asides import fail
from engine.base import FULL_RANGE, Engine, Frames, load_engine
from engine.bench import bench
from engine.contract import EngineError, find_model, read_model
from engine.cuda import find_gpu
from engine.one_line import check_output, one_line_errors, run_command

SIZES = [(256, 256), (640, 512), (1280, 1024)]
BATCHES = [1, 4, 8, 16]
LIMITS = {"tensorrt": 5, "cuda": 2}  # grey levels for 99.99 % of the pixels; 5 are 0.02 of probability
PIPELINE_S = 20


def noisy_frames(batch: int, height: int, width: int, bits: int) -> tuple[Frames, NDArray[np.float32]]:
    """Return frames of noise with a bright target each, and their window, as an engine takes them."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(90, 6, (batch, 1, height, width)).clip(0, 255)
    pixels[:, :, height // 2 : height // 2 + 3, width // 3 : width // 3 + 3] = 250
    window = np.array([FULL_RANGE[bits]] * batch, np.float32)
    if bits == 8:
        return pixels.astype(np.uint8), window
    return (257 * pixels).astype("<u2")[..., None].view(np.uint8), window


def parity(engine: Engine, reference: Engine) -> list[dict[str, Any]]:
    """Compare two engines' answers at every size, at the smallest and a larger batch.

    Returns:
        A map a case: ``size``, ``batch``, ``within`` (grey levels that 99.99 % of the pixels stay within),
        ``largest`` and ``fine``.
    """
    cases = []
    for width, height in SIZES:
        for batch in (1, 4):
            frames, window = noisy_frames(batch, height, width, engine.info.bits)
            found, exact = (each.infer(frames, window).astype(int) for each in (engine, reference))
            change = np.abs(found - exact)
            within, largest = float(np.quantile(change, 0.9999)), int(change.max())
            cases.append(
                {
                    "size": f"{width}x{height}",
                    "batch": batch,
                    "within": within,
                    "largest": largest,
                    "fine": within <= LIMITS.get(engine.name, 2),
                }
            )
    return cases


def run_pipeline(model: str, engine: str) -> dict[str, Any]:
    """Run the pipeline on a synthetic camera with an engine and return its report.

    Raises:
        EngineError: if the run fails; with its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        source = "scene:?width=640&height=512&fps=60&seed=1"
        line = [sys.executable, "run_pipeline.py", "--source", source, "--engine", engine, "--model", model]
        line += ["--duration", str(PIPELINE_S), "--report", str(path)]
        done = subprocess.run(line, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise EngineError(f"the pipeline ends with {done.returncode}: {said}")
        report: dict[str, Any] = json.loads(path.read_text())
        return report


@one_line_errors(EngineError)
def main(
    model: Annotated[str, typer.Option(help="A shipped model's name, or an .onnx file.")] = "rpcanet_plus_k1",
    seconds: Annotated[float, typer.Option(help="How long to time each engine, size and batch.")] = 2.0,
    json_path: Annotated[str, typer.Option("--json", help="Write what was seen here; - is stdout.")] = "-",
    name: Annotated[str, typer.Option("--engine", help="The engine: tensorrt or cuda.")] = "tensorrt",
) -> None:
    """Load, compare, time and run end to end on this machine's GPU."""
    if name not in LIMITS:
        raise EngineError(f"--engine {name!r}: {' or '.join(LIMITS)} is expected")
    check_output("--json", json_path)
    gpu = find_gpu()
    bits = read_model(find_model(model))[1].bits
    start = time.monotonic()
    engine = load_engine(model, name, bits)
    loaded = time.monotonic() - start
    cases = parity(engine, load_engine(model, "onnxruntime", bits))
    seen: dict[str, Any] = {
        "schema": "irstream.gpu_check/1",
        "gpu": asdict(gpu),
        "load_s": loaded,  # with the plan's build, where it was not in the cache
        "parity": cases,
        "times_ms": engine.times_ms,  # type: ignore[attr-defined]
        "results": [asdict(timing) for timing in bench(model, [name], SIZES, BATCHES, seconds, None)],
        "pipeline": run_pipeline(model, name),
    }
    text = json.dumps(seen, indent=2)
    if json_path != "-":
        Path(json_path).write_text(text + "\n")
    if json_path == "-":
        print(text)
    if not all(case["fine"] for case in cases):
        fail(f"more than {LIMITS[name]} grey levels from ONNX Runtime; see 'parity'")
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main)
