"""Measure a network on labelled frames: ``python -m training.evaluate --model MODEL --data FOLDER``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engine.base import FULL_RANGE, load_engine
from engine.contract import EngineError
from training.data import DataError, Sample, read_split
from training.metrics import Tally

WEIGHTS = (".safetensors", ".pkl")

Finder = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
"""Takes a frame, ``[height, width]``, and tells which of its pixels belong to targets."""


class EvaluateError(ValueError):
    """Something that cannot be measured; the message is one line and says what would be right."""


def load_finder(model: str, engine: str | None = None) -> tuple[Finder, int]:
    """Load what is to be measured.

    Args:
        model: a run's folder (its best weights), a .safetensors file of ours, a .pkl of the
            RPCANet+ authors, a shipped model's name or an .onnx file.
        engine: for the last two, the engine to run it with; None for the default one.

    Returns:
        The finder of targets, and the whole network's number of parameters.

    Raises:
        EvaluateError: if the weights cannot be used, or an engine was asked to run them.
        EngineError: if the model or the engine cannot be used.
    """
    path = Path(model)
    if path.is_dir():
        path = path / "best.safetensors"
    if path.suffix not in WEIGHTS:
        return _engine_finder(model, engine or "auto")
    if engine:
        raise EvaluateError(f"{path}: weights run in PyTorch; --engine {engine} takes a model name or an .onnx file")
    return _torch_finder(path)


def _engine_finder(model: str, name: str) -> tuple[Finder, int]:
    engine = load_engine(model, name)
    window = np.array([FULL_RANGE[8]], np.float32)
    least = 255 * engine.info.threshold

    def find(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = engine.infer(frame[None, None], window)[0, 0] >= least
        return found

    return find, engine.info.parameters


def _torch_finder(path: Path) -> tuple[Finder, int]:
    try:
        import torch

        from training.weights import WeightsError, load_network
    except ImportError as error:
        raise EvaluateError(f"{path}: weights need PyTorch: pip install 'irstream[train]' ({error})") from None
    try:
        network, _ = load_network(path)
    except WeightsError as error:
        raise EvaluateError(str(error)) from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)

    def find(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
        with torch.inference_mode():
            logits = network(torch.from_numpy(frame).to(device).float()[None, None] / 255)
        found: NDArray[np.bool_] = (logits[0, 0] > 0).cpu().numpy()
        return found

    return find, sum(value.numel() for value in network.parameters())


def evaluate(find: Finder, samples: list[Sample], say: str) -> tuple[Tally, list[dict[str, Any]]]:
    """Measure a finder on whole frames at their own size.

    Args:
        find: the finder.
        samples: the frames with their truth.
        say: what the progress bar, on stderr, is called.

    Returns:
        The sums over all frames, and a row of figures for each.
    """
    total, rows = Tally(), []
    for sample in track(samples, say, console=Console(stderr=True), transient=True):
        one = Tally()
        one.add(find(sample.frame), sample.mask)
        total.merge(one)
        rows.append(
            {
                "frame": sample.name,
                "iou": f"{one.ious[0]:.6f}" if one.ious else "",  # nothing there and nothing found
                "true_pixels": one.true_pixels,
                "false_pixels": one.false_pixels,
                "missed_pixels": one.missed_pixels,
                "targets": one.targets,
                "found_by_overlap": one.found_by_overlap,
                "found_by_centroid": one.found_by_centroid,
                "false_components": one.unmatched_components,
            }
        )
    return total, rows


def figures_of(total: Tally, frames: int, parameters: int) -> dict[str, Any]:
    """Return the figures that ``--json`` writes for a data set, shares as shares of 1."""
    figures: dict[str, Any] = total.report()
    false_components = figures.pop("false_components")
    return {
        **figures,
        "false_components_per_frame": false_components / frames,
        "params": parameters,
        "frames": frames,
    }


def table_of(results: list[dict[str, Any]]) -> Table:
    """Return the results as a table to print, a column a data set."""
    table = Table("figure", *(f"{result['data']} {result['split']}" for result in results))
    percents = ("iou", "niou", "f1", "precision", "recall", "pd", "pd_centroid")
    for key in (*percents, "fa", "fa_centroid", "false_components_per_frame"):
        values = [result[key] for result in results]
        table.add_row(key, *(f"{100 * value:.2f} %" if key in percents else f"{value:,.4g}" for value in values))
    for key in ("params", "frames"):
        table.add_row(key, *(f"{result[key]:,}" for result in results))
    return table


def main(
    model: Annotated[str, typer.Option(help="A run's folder, .safetensors, authors' .pkl, model name or .onnx.")],
    data: Annotated[list[Path], typer.Option(help="A data set's folder; may be given more than once.")],
    split: Annotated[str, typer.Option(help="The split to measure on.")] = "test",
    engine: Annotated[str | None, typer.Option(help="The engine that runs an ONNX model.")] = None,
    json_path: Annotated[str | None, typer.Option("--json", help="Write the figures here; - is stdout.")] = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write one row a frame here.")] = None,
) -> None:
    """Measure a network on labelled frames; several data sets give a list of results."""
    try:
        find, parameters = load_finder(model, engine)
        sets = [read_split(folder, split) for folder in data]
        results, rows = [], []
        for folder, samples in zip(data, sets, strict=True):
            name = folder.resolve().name  # the figures go into model files, which name no path
            total, per_frame = evaluate(find, samples, name)
            results.append({"data": name, "split": split, **figures_of(total, len(samples), parameters)})
            rows += [{"data": name, **row} for row in per_frame]
        if csv_path:
            with csv_path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        if json_path:
            text = json.dumps(results[0] if len(results) == 1 else results, indent=2)
            if json_path == "-":
                print(text)
            else:
                Path(json_path).write_text(text + "\n")
    except (DataError, EngineError, EvaluateError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    if json_path != "-":
        Console().print(table_of(results))


if __name__ == "__main__":
    typer.run(main)
