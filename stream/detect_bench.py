"""How long detection takes: ``python -m stream.detect_bench --size 640x512,2560x2048``."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from engine.one_line import check_output, one_line_errors, run_command
from stream import StreamError
from stream.detect import DetectConfig, detect

TARGETS = (0, 5, 20, 200)
ROUNDS = 100
Maps = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def draw(width: int, height: int, targets: int, seed: int = 0) -> Maps:
    """Return a map of so many small targets and a frame of noise beneath it, uint8 ``[height, width]``."""
    rng = np.random.default_rng(seed)
    lit = np.zeros((height, width), np.float32)
    for y, x in rng.integers(8, (height - 8, width - 8), (targets, 2)):
        lit[y, x] = rng.uniform(8, 16)
    found = np.clip(255 * cv2.GaussianBlur(lit, (9, 9), 1.2), 0, 255).astype(np.uint8)
    return found, rng.integers(40, 60, (height, width), np.uint8)


def time_detection(width: int, height: int, targets: int) -> dict[str, Any]:
    """Return ``size``, ``targets``, ``median_ms`` and ``p99_ms`` of a frame, CPU time of one thread."""
    found, frame = draw(width, height, targets)
    spent = []
    for _ in range(ROUNDS):
        begin = time.thread_time()
        detect(found, frame, DetectConfig())
        spent.append(1e3 * (time.thread_time() - begin))
    median, p99 = np.percentile(spent[5:], (50, 99))
    return {"size": f"{width}x{height}", "targets": targets, "median_ms": round(median, 3), "p99_ms": round(p99, 3)}


@one_line_errors(StreamError)
def main(
    size: Annotated[str, typer.Option(help="Sizes, WIDTHxHEIGHT, comma-separated.")] = "640x512,2560x2048",
    json_path: Annotated[str | None, typer.Option("--json", help="Write the figures here; - is stdout.")] = None,
) -> None:
    """Time detection on maps with few and many targets."""
    cv2.setNumThreads(1)  # as in a worker
    check_output("--json", json_path)
    sizes = [re.fullmatch(r"(\d{2,5})x(\d{2,5})", part) for part in size.split(",")]
    if not all(sizes):
        raise StreamError(f"--size {size}: WIDTHxHEIGHT is expected, such as 640x512")
    rows = [time_detection(int(part[1]), int(part[2]), n) for part in sizes if part for n in TARGETS]
    if json_path == "-":
        print(json.dumps({"results": rows}, indent=1))
        return
    if json_path:
        Path(json_path).write_text(json.dumps({"results": rows}, indent=1) + "\n")
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


if __name__ == "__main__":
    run_command(main)
