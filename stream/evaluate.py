"""Tracks against labelled video and scenes: ``python -m stream.evaluate --clips FOLDER --model M``.

Runs the real pipeline, every process of it, over the clips and scores what it publishes. Clips are
scored against boxes (``stream.score_clip``), scenes against exact truth (``stream.score_tracks``).
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from engine.contract import EngineError
from engine.one_line import check_output, check_output_folder, one_line_errors, run_command
from stream import StreamError
from stream.draw_clip import draw_precision_recall, draw_video
from stream.labels import Clip, read_clips
from stream.record_run import CONFIG, StreamRecord, fps_of, results_of, run_pipeline
from stream.score_clip import ClipScore, FrameResult, TrackPoint, precision_recall, score_clip
from stream.score_tracks import Points, TrackScores, score_tracks
from stream.supervisor import PipelineError
from stream.synthetic import Scenario, detections_of
from stream.synthetic import Sequence as PointSequence
from stream.track_bench import TRACKERS, BenchError

Runner = Callable[[list[dict[str, Any]]], dict[str, StreamRecord]]
"""Runs the pipeline over streams, as a configuration lists them."""

COLUMNS = {
    "detection_recall": ".3f", "false_components_per_frame": ".3f", "track_recall": ".3f",
    "false_tracks_per_minute": ".2f", "id_switches": "d", "fragments": "d",
    "time_to_first_track_s": ".2f", "centre_error_px": ".2f",
}  # fmt: skip
SCENE_FPS = 30


def evaluate_clips(clips: Sequence[Clip], run: Runner, together: int) -> dict[str, StreamRecord]:
    """Run clips through the pipeline, ``together`` at a time; return what it published of each, by name."""
    records = {}
    for start in track(range(0, len(clips), together), "clips", console=Console(stderr=True), transient=True):
        group = clips[start : start + together]
        found = run([{"name": clip.name, "source": str(clip.path), "live": False} for clip in group])
        for clip in group:
            seen = found[clip.name].tracks
            if not seen or seen[-1].seq < max(clip.boxes, default=0):
                raise StreamError(f"{clip.path}: {len(seen)} frames, but a box for frame {max(clip.boxes, default=0)}")
            records[clip.name] = found[clip.name]
    return records


def score_others(clip: Clip, record: StreamRecord, names: Sequence[str]) -> dict[str, ClipScore]:
    """Score reference trackers on the detections that a clip's own tracks were made of.

    They are told what ours has to find out: how often the target is detected in this clip, and how many
    other detections a frame has.
    """
    own = score_clip(clip, results_of(record), fps_of(record))
    size = record.tracks[0]
    messages = [record.detections[m.seq] for m in record.tracks]
    points = [detections_of([(d.x, d.y) for d in m.detections], size.width, size.height) for m in messages]
    scenario = Scenario(
        name=clip.name, width=size.width, height=size.height, fps=round(fps_of(record)), noise=1.0,
        pd=min(0.99, max(0.05, own.detected / max(1, own.labelled))),
        clutter=max(0.02, own.false_components / max(1, own.frames)),
    )  # fmt: skip
    sequence = PointSequence([m.time_ns + 1 for m in messages], points, [])
    scores = {}
    for name in names:
        try:
            found, _ = TRACKERS[name](sequence, scenario)
        except ImportError as error:
            raise BenchError(f"--against {name}: {error}; install irstream[compare]") from None
        frames = [
            FrameResult(m.seq, np.array([(d.x, d.y, d.score) for d in m.detections]).reshape(-1, 3), _tracks_at(at))
            for m, at in zip(messages, found, strict=True)
        ]
        scores[name] = score_clip(clip, frames, fps_of(record))
    return scores


def _tracks_at(points: Points) -> list[TrackPoint]:
    return [TrackPoint(int(key), float(x), float(y)) for key, (x, y) in zip(points.ids, points.xy, strict=True)]


def score_scene(record: StreamRecord) -> TrackScores:
    """Score a scene's tracks against its exact truth, frame by frame."""
    truth, found = [], []
    for message in record.tracks:
        truth.append(_points([(t.id, t.x, t.y) for t in record.truth[message.seq].targets]))
        found.append(_points([(t.id, t.x, t.y) for t in message.tracks if t.state != "tentative"]))
    return score_tracks(truth, found)


def _points(rows: list[tuple[int, float, float]]) -> Points:
    table = np.array(rows, np.float64).reshape(-1, 3)
    return Points(table[:, 0].astype(np.int64), table[:, 1:])


def evaluate_scenes(seeds: range, seconds: float, run: Runner) -> dict[str, TrackScores]:
    """Run synthetic scenes of 320x256 through the pipeline, one after another, and score each."""
    scores = {}
    for seed in track(seeds, "scenes", console=Console(stderr=True), transient=True):
        name = f"scene_{seed}"
        source = f"scene:?seed={seed}&width=320&height=256&fps={SCENE_FPS}&frames={round(seconds * SCENE_FPS)}"
        scores[name] = score_scene(run([{"name": name, "source": source, "live": False}])[name])
    return scores


def clips_table(title: str, scores: dict[str, ClipScore], total: ClipScore | None) -> Table:
    """Return a line a clip or tracker, and one for all."""
    table = Table(Column("", overflow="fold"), *(name.replace("_", " ") for name in COLUMNS), title=title)
    for name, score in [*scores.items(), *([("all", total)] if total else [])]:
        report = score.report()
        cells = [(report[key], form) for key, form in COLUMNS.items()]
        table.add_row(name, *("-" if value is None else format(value, form) for value, form in cells))
    return table


def scenes_table(scores: dict[str, TrackScores]) -> Table:
    """Return a line a scene, and one of means."""
    keys = ("hota", "deta", "assa", "mota", "idf1")
    table = Table("", *(key.upper() for key in keys), "missed", "false", "switches", title="scenes, exact truth, 4 px")
    for name, score in scores.items():
        figures = [f"{getattr(score, key):.3f}" for key in keys]
        table.add_row(name, *figures, *map(str, (score.missed, score.false, score.switches)))
    table.add_row("mean", *(f"{np.mean([getattr(score, key) for score in scores.values()]):.3f}" for key in keys))
    return table


def merged(scores: Iterable[ClipScore]) -> ClipScore:
    """Return the score over all of several."""
    total = ClipScore()
    for score in scores:
        total.merge(score)
    return total


def write_tables(folder: Path, clips: Sequence[Clip], records: dict[str, StreamRecord]) -> None:
    """Write ``clips.csv``, a row a clip, and ``frames.csv``, a row a frame."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "clips.csv").open("w", newline="") as file:
        rows = []
        for clip in clips:
            record = records[clip.name]
            rows.append({"clip": clip.name, **score_clip(clip, results_of(record), fps_of(record)).report()})
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "frames.csv").open("w", newline="") as file:
        writer_of_rows = csv.writer(file)
        writer_of_rows.writerow(["clip", "frame", "boxes", "detections", "detected", "confirmed_tracks", "tracked"])
        for clip in clips:
            for frame in results_of(records[clip.name]):
                one = score_clip(clip, [frame], 1.0)
                counts = (one.labelled, len(frame.detections), one.detected, len(frame.tracks), one.tracked)
                writer_of_rows.writerow([clip.name, frame.seq, *counts])


@one_line_errors(PipelineError, code=1)
@one_line_errors(StreamError, EngineError)
def main(
    clips: Annotated[Path | None, typer.Option(help="A folder of videos, each with a CSV of boxes beside it.")] = None,
    clip: Annotated[list[str] | None, typer.Option(help="Only this clip of the folder; repeatable.")] = None,
    scenes: Annotated[str | None, typer.Option(help="Synthetic scenes too: seeds FIRST:LAST, such as 0:9.")] = None,
    scene_seconds: Annotated[float, typer.Option(help="How long a scene is.", min=1)] = 10.0,
    model: Annotated[str | None, typer.Option(help="A shipped model's name, or an .onnx file.")] = None,
    engine: Annotated[str | None, typer.Option(help="The engine that runs it.")] = None,
    config: Annotated[
        Path, typer.Option(help="Detection and tracking as in this configuration.", show_default="configs/demo.yaml")
    ] = CONFIG,
    together: Annotated[int, typer.Option(help="Clips that run beside one another.", min=1, max=16)] = 4,
    against: Annotated[str, typer.Option(help=f"On the same detections: {', '.join(list(TRACKERS)[1:])}.")] = "",
    json_path: Annotated[str | None, typer.Option("--json", help="Write the figures here; - is stdout.")] = None,
    csv_folder: Annotated[Path | None, typer.Option("--csv", help="Write clips.csv and frames.csv here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw precision against recall here, a PNG.")] = None,
    video: Annotated[
        Path | None, typer.Option(help="Draw truth, detections and tracks of the clips here, an MP4.")
    ] = None,
) -> None:
    """Measure detections and tracks of the whole pipeline on labelled video and on scenes."""
    others = [name.strip() for name in against.split(",") if name.strip()]
    run: Runner = partial(run_pipeline, config=config, model=model, engine=engine)
    result: dict[str, Any] = {}
    tables: list[Table] = []
    _check(clips, scenes, others, {"--clip": clip, "--csv": csv_folder, "--picture": picture, "--video": video})
    _check_outputs(json_path, csv_folder, picture, video)
    if clips is not None:
        labelled = read_clips(clips, clip)
        records = evaluate_clips(labelled, run, together)
        figures, tables = measure_clips(labelled, records, others)
        result |= figures
    if scenes is not None:
        found = evaluate_scenes(_seeds(scenes), scene_seconds, run)
        result["scenes"] = {name: asdict(score) for name, score in found.items()}
        tables.append(scenes_table(found))
    if json_path == "-":
        print(json.dumps(result, indent=2))
    elif json_path:
        Path(json_path).write_text(json.dumps(result, indent=2) + "\n")
    if clips is not None and csv_folder:
        write_tables(csv_folder, labelled, records)
    if clips is not None and picture:
        total = merged(score_clip(c, results_of(records[c.name]), fps_of(records[c.name])) for c in labelled)
        draw_precision_recall(picture, precision_recall(total))
    if clips is not None and video:
        draw_video(video, labelled, records)
    if json_path != "-":
        for table in tables:
            Console().print(table)


def measure_clips(
    clips: Sequence[Clip], records: dict[str, StreamRecord], others: Sequence[str]
) -> tuple[dict[str, Any], list[Table]]:
    """Return the figures of clips, as ``--json`` writes them, and the tables that show them."""
    scores = {c.name: score_clip(c, results_of(records[c.name]), fps_of(records[c.name])) for c in clips}
    total = merged(scores.values())
    result: dict[str, Any] = {
        "clips": {name: score.report() for name, score in scores.items()},
        "total": total.report(),
    }
    tables = [clips_table(f"{len(clips)} clips", scores, total)]
    if others:
        theirs = [score_others(c, records[c.name], others) for c in clips]
        summed = {name: merged(found[name] for found in theirs) for name in others}
        result["against"] = {name: score.report() for name, score in summed.items()}
        tables.append(clips_table("on the same detections", summed, None))
    return result, tables


def _check(clips: Path | None, scenes: str | None, others: Sequence[str], of_clips: dict[str, object]) -> None:
    """Refuse options that have nothing to act on."""
    known = [name for name in TRACKERS if name != "ours"]
    if unknown := set(others) - set(known):
        raise BenchError(f"--against {unknown.pop()}: not one of {', '.join(known)}")
    if clips is None and scenes is None:
        raise StreamError("--clips FOLDER or --scenes FIRST:LAST is needed: what to measure on")
    of_clips = {**of_clips, "--against": others}
    if clips is None and (given := [option for option, value in of_clips.items() if value]):
        raise StreamError(f"{given[0]} goes with --clips")
    if scenes is not None:
        _seeds(scenes)


def _check_outputs(json_path: str | None, csv_folder: Path | None, picture: Path | None, video: Path | None) -> None:
    """Refuse, before minutes of work, what could not be written after them."""
    check_output("--json", json_path)
    check_output_folder("--csv", csv_folder)
    check_output("--picture", picture, ".png")
    check_output("--video", video, ".mp4")
    if picture and importlib.util.find_spec("matplotlib") is None:
        raise StreamError("--picture needs matplotlib: pip install 'irstream[plots]'")


def _seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text, re.ASCII)
    if not match or int(match[1]) > int(match[2]):
        raise StreamError(f"--scenes {text}: FIRST:LAST is expected, such as 0:9")
    return range(int(match[1]), int(match[2]) + 1)


if __name__ == "__main__":
    run_command(main)
