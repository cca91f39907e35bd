"""Measure networks on labelled frames: ``python -m training.evaluate --model MODEL --data FOLDER``.

Several models and several data sets are measured each on each. ``--clips FOLDER`` measures on labelled
video instead.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from engine.contract import EngineError
from engine.one_line import check_output, check_output_folder, one_line_errors, run_command
from training.clips import ClipTally
from training.data import DataError, Sample, read_split
from training.finder import EvaluateError, Finder, load_finder
from training.labelled_video import read_clips
from training.measure import (
    GALLERY_FRAMES,
    Gathered,
    Judged,
    Size,
    evaluate,
    evaluate_clip,
    figures_of,
    resized,
    worst_of,
)
from training.noise import Noise, parse_noise
from training.roc import Roc

PERCENTS = ("iou", "niou", "f1", "precision", "recall", "pd", "pd_centroid", "found")
COMPONENTS = ("false_components_per_frame", "false_components_per_target_free_frame")
MATRIX = ("iou", "niou", "pd", "fa", "pd_centroid", "fa_centroid", *COMPONENTS)
ROC_FILES = ("roc.png", "roc.csv", "roc_pixels.csv")
MAX_SIDE = 8192

Sets = list[tuple[str, list[Sample]]]
"""Data sets by name."""


@dataclass
class Measured:
    """All that one call measured.

    Attributes:
        results: the figures of each model on each data set, or on the clips.
        rows: a row of figures a frame, or a clip.
        curves: a result and its ROC, where one is wanted.
        worst: the worst frames, as many of every network.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: list[tuple[dict[str, Any], Roc]] = field(default_factory=list)
    worst: list[Judged] = field(default_factory=list)


def parse_size(text: str) -> Size:
    """Return width and height of ``--size WIDTHxHEIGHT``."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(8 <= side <= MAX_SIDE for side in size):
        raise EvaluateError(f"--size {text}: WIDTHxHEIGHT in pixels is expected, 8 to {MAX_SIDE} each, such as 256x256")
    return size


def measure_sets(finders: list[Finder], sets: Sets, split: str, noises: list[Noise], with_roc: bool) -> Measured:
    """Measure every finder on every set, without noise and with each of ``noises``.

    Rows, curves and the worst frames are those without noise.
    """
    done = Measured()
    for finder in finders:
        worst: list[Judged] = []
        for name, samples in sets:
            label = f"{finder.name} " * (len(finders) > 1) + f"{name} " * (len(sets) > 1)
            gathered = Gathered(Roc() if with_roc else None, label)
            total, rows = evaluate(finder, samples, f"{finder.name} on {name}", None, gathered)
            result: dict[str, Any] = {"model": finder.name, "data": name, "split": split}
            result.update(figures_of(total, len(samples), finder.parameters))
            done.rows += [{"model": finder.name, "data": name, **row} for row in rows]
            worst = worst_of([*worst, *gathered.worst])
            if gathered.roc and total.targets:
                result["roc_area"] = gathered.roc.area()
                done.curves.append((result, gathered.roc))
            elif gathered.roc:
                result["roc_area"] = None
                print(f"{name}: no ROC, for no frame has a target", file=sys.stderr)
            if noises:
                result["noise"] = []
            for noise in noises:
                total, _ = evaluate(finder, samples, f"{finder.name} on {name}, {noise}", noise)
                figures = figures_of(total, len(samples), finder.parameters)
                result["noise"].append({"kind": noise.kind, "level": noise.level, **figures})
            done.results.append(result)
        done.worst += worst[: max(1, GALLERY_FRAMES // len(finders))]
    return done


def measure_clips(finders: list[Finder], folder: Path, names: list[str], every: int, size: Size | None) -> Measured:
    """Measure every finder on every ``every``-th frame of clips."""
    done = Measured()
    for finder in finders:
        total = ClipTally()
        for clip in read_clips(folder, names or None):
            one = evaluate_clip(finder, clip, every, size)
            total.merge(one)
            done.rows.append({"model": finder.name, "clip": clip.name, **one.report()})
        figures = {**total.report(), "params": finder.parameters}
        done.results.append({"model": finder.name, "data": folder.resolve().name, **figures})
    return done


def table_of(results: list[dict[str, Any]]) -> Table:
    """Return results as a table to print: a line a figure, a column a result."""
    table = Table("figure", *(_column(f"{each['model']}\n{each['data']} {each.get('split', '')}") for each in results))
    for key in results[0]:
        if key not in ("model", "data", "split", "noise"):
            table.add_row(key, *(_shown(key, result[key]) for result in results))
    return table


def matrix_of(results: list[dict[str, Any]], sets: int) -> Table:
    """Return models x data sets as a table to print: a block a figure of ``MATRIX``, a line in it a model."""
    table = Table("figure", _column("model"), *(_column(f"on {result['data']}") for result in results[:sets]))
    for key in MATRIX:
        for first in range(0, len(results), sets):
            line = results[first : first + sets]
            table.add_row("" if first else key, line[0]["model"], *(_shown(key, result[key]) for result in line))
        table.add_section()
    return table


def _column(heading: str) -> Column:
    """Return a column that breaks what is too wide for it: names are told apart by their ends."""
    return Column(heading, overflow="fold")


def noise_table_of(result: dict[str, Any]) -> Table:
    """Return a result's figures under each noise: a line a noise."""
    keys = ("iou", "pd", "fa", "false_components_per_frame")
    table = Table("noise", *keys, title=f"{result['model']} on {result['data']}")
    for row in ({"kind": "none", "level": 0, **result}, *result["noise"]):
        said = f"{row['kind']}:{row['level']:g}" if row["level"] else "none"
        table.add_row(said, *(_shown(key, row[key]) for key in keys))
    return table


def _shown(key: str, value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if key in PERCENTS:
        return f"{100 * value:.2f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_roc(folder: Path, curves: list[tuple[dict[str, Any], Roc]]) -> None:
    """Write ``ROC_FILES`` to a folder: a picture, both curves at a few thresholds, a point a logit."""
    from training.pictures import draw_roc
    from training.roc import EDGES

    picture, table, points_table = (folder / name for name in ROC_FILES)
    if not curves:  # no frame has a target, which was said
        return
    folder.mkdir(exist_ok=True)
    draw_roc(picture, curves)
    rows, points = [], []
    for result, roc in curves:
        names = {"model": result["model"], "data": result["data"]}
        rows += [{**names, **row} for row in roc.rows()]
        for logit, false, true in zip(EDGES, *roc.curve(), strict=True):
            rates = {"false_positive_rate": f"{false:.6g}", "true_positive_rate": f"{true:.6g}"}
            points.append({**names, "logit": f"{logit:.2f}", **rates})
    _write_csv(table, rows)
    _write_csv(points_table, points)


def _write_stages(path: Path, finder: Finder, sets: Sets, names: list[str]) -> None:
    from training.pictures import draw_stages, stages_of

    if finder.network is None:
        raise EvaluateError(f"--stages: {finder.name} runs in an engine; weights are needed (.safetensors, .pkl)")
    samples = {sample.name: sample for _, each in sets for sample in each}
    if missing := [name for name in names if name not in samples]:
        raise EvaluateError(f"--frames {missing[0]}: no such frame in {', '.join(name for name, _ in sets)}")
    draw_stages(path, finder.name, [(samples[name], stages_of(finder.network, samples[name].frame)) for name in names])


def _check_outputs(tables: dict[str, str | Path | None], pictures: dict[str, Path | None], roc: Path | None) -> None:
    """Refuse what would fail after minutes of measuring, and two outputs in one file.

    Tables and pictures come by their options.
    """
    written = {path.resolve(): "--roc" for path in (roc, *(roc / name for name in ROC_FILES))} if roc else {}
    for option, path in {**tables, **pictures}.items():
        check_output(option, path, ".png" if option in pictures else "")
        if path and str(path) != "-" and (other := written.setdefault(Path(path).resolve(), option)) != option:
            raise EvaluateError(f"{option} {path}: {other} writes that file; another name is expected")
    if roc and not roc.absolute().parent.is_dir():
        raise EvaluateError(f"{roc}: No such file or directory: there is no folder {roc.parent}")
    check_output_folder("--roc", roc)
    if roc or any(pictures.values()):
        try:
            import training.pictures  # noqa: F401
        except ImportError as error:
            raise EvaluateError(f"pictures need matplotlib: pip install 'irstream[train]' ({error})") from None


@one_line_errors(DataError, EngineError, EvaluateError)
def main(
    model: Annotated[
        list[str], typer.Option(help="A run's folder, .safetensors, authors' .pkl, model name or .onnx; repeatable.")
    ],
    data: Annotated[list[Path] | None, typer.Option(help="A data set's folder; repeatable.")] = None,
    split: Annotated[str, typer.Option(help="The split to measure on.")] = "test",
    engine: Annotated[str | None, typer.Option(help="The engine that runs ONNX models.")] = None,
    size: Annotated[str | None, typer.Option(help="Resize frames to WIDTHxHEIGHT first; else native size.")] = None,
    noise: Annotated[
        list[str] | None,
        typer.Option(help="gaussian:SIGMA (of 255), poisson:PHOTONS or salt-pepper:DENSITY; repeatable."),
    ] = None,
    clips: Annotated[Path | None, typer.Option(help="Measure on the labelled video of this folder instead.")] = None,
    clip: Annotated[list[str] | None, typer.Option(help="A clip of it; repeatable; all if none.")] = None,
    every: Annotated[int, typer.Option(help="Of the clips, every n-th frame.", min=1)] = 10,
    json_path: Annotated[str | None, typer.Option("--json", help="Write the figures here; - is stdout.")] = None,
    csv_path: Annotated[Path | None, typer.Option("--csv", help="Write one row a frame (or clip) here.")] = None,
    roc: Annotated[Path | None, typer.Option(help="Write ROC curves, PNG and CSV, to this folder.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="Draw the worst frames to this PNG.")] = None,
    noise_plot: Annotated[Path | None, typer.Option(help="Draw IoU against noise to this PNG.")] = None,
    stages: Annotated[Path | None, typer.Option(help="Draw B, T, N, D of every stage to this PNG.")] = None,
    frames: Annotated[str | None, typer.Option(help="The frames that --stages draws: NAME,NAME.")] = None,
) -> None:
    """Measure networks on labelled frames; several models and sets give every pair."""
    noises = [parse_noise(text) for text in noise or []]
    wh = parse_size(size) if size else None
    options = (
        ("--data", data), ("--clips", clips), ("--clip", clip), ("--noise", noise), ("--noise-plot", noise_plot),
        ("--roc", roc), ("--gallery", gallery), ("--stages", stages), ("--frames", frames),
    )  # fmt: skip
    _check_combination({option for option, value in options if value}, len(model))
    json_file = Path(json_path) if json_path and json_path != "-" else None
    pictures = {"--gallery": gallery, "--noise-plot": noise_plot, "--stages": stages}
    _check_outputs({"--json": json_path, "--csv": csv_path}, pictures, roc)
    finders = [load_finder(each, engine) for each in model]
    names = [finder.name for finder in finders]
    for index, name in enumerate(names):
        if names.count(name) > 1:  # weights and what was exported of them, or two runs called alike
            finders[index] = replace(finders[index], name=model[index])
    if clips:
        done = measure_clips(finders, clips, clip or [], every, wh)
    else:
        sets = [(folder.resolve().name, read_split(folder, split)) for folder in data or []]
        if wh:
            sets = [(name, [resized(sample, wh) for sample in samples]) for name, samples in sets]
        if stages and frames:
            _write_stages(stages, finders[0], sets, frames.split(","))
        done = measure_sets(finders, sets, split, noises, roc is not None)
    if size:
        for result in done.results:
            result["size"] = size
    _write(done, csv_path, roc, gallery, noise_plot)
    if json_path:
        text = json.dumps(done.results[0] if len(done.results) == 1 else done.results, indent=2)
        if json_file:
            json_file.write_text(text + "\n")
        else:
            print(text)
    if json_path != "-":
        _print(done.results, len(model))


def _check_combination(given: set[str], models: int) -> None:
    if ("--data" in given) == ("--clips" in given):
        raise EvaluateError("--data FOLDER (frames with masks) or --clips FOLDER (video with boxes) is expected")
    for option in ("--noise", "--roc", "--gallery", "--stages"):
        if {option, "--clips"} <= given:
            raise EvaluateError(f"{option}: needs --data, frames with masks; --clips has boxes alone")
    for option, needed in (("--clip", "--clips"), ("--noise-plot", "--noise"), ("--frames", "--stages")):
        if option in given and needed not in given:
            raise EvaluateError(f"{option}: means nothing without {needed}")
    if "--stages" in given and "--frames" not in given:
        raise EvaluateError("--stages: --frames NAME,NAME is expected with it, the frames to draw")
    if "--stages" in given and models > 1:
        raise EvaluateError("--stages: one --model is expected with it")


def _write(done: Measured, csv_path: Path | None, roc: Path | None, gallery: Path | None, noise: Path | None) -> None:
    if csv_path:
        _write_csv(csv_path, done.rows)
    if roc:
        _write_roc(roc, done.curves)
    if gallery or noise:
        from training.pictures import draw_gallery, draw_noise

        if gallery and done.worst:
            draw_gallery(gallery, done.worst)
        elif gallery:
            print(f"{gallery}: not drawn, for no frame has a fault", file=sys.stderr)
        if noise:
            draw_noise(noise, done.results)


def _print(results: list[dict[str, Any]], models: int) -> None:
    console = Console()
    if models > 1 and "iou" in results[0]:
        console.print(matrix_of(results, len(results) // models))
    else:
        console.print(table_of(results))
    for result in results:
        if "noise" in result:
            console.print(noise_table_of(result))


if __name__ == "__main__":
    run_command(main)
