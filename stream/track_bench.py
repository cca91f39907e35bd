"""The tracker beside others on the same detections: ``python -m stream.track_bench --against stonesoup``.

The others are told what the scenes were made with (noise, detection probability, clutter, spread of
speeds), and what is left to choose was chosen for them on seeds from 100 on, as it was for ours.
Ours runs with its defaults and estimates clutter and detection probability. The references are
needed for this bench only: Stone Soup, and the ``trackers`` package, whose box trackers get a
square around every point.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from engine.one_line import check_output, one_line_errors, run_command
from stream import StreamError
from stream.score_tracks import Points, score_tracks
from stream.synthetic import SCENARIOS, Scenario, Sequence, make_sequence
from stream.track import TrackConfig, Tracker

EPOCH = datetime(2000, 1, 1)
DRIVE = 60.0**2  # px^2/s^3, of Stone Soup's constant-velocity model
GATE = 3.0  # standard deviations
MISSES = 4  # frames without a detection that end a track of Stone Soup's
BOX = 24.0  # px: box trackers pair by overlap, and the fastest targets move 6 px a frame

Run = tuple[list[Points], float]  # a frame's tracks each, CPU seconds in the tracker


class BenchError(StreamError):
    """A bench that cannot be run; the message names what is wrong."""


def run_ours(sequence: Sequence, _: Scenario) -> Run:
    """Run our tracker with its defaults; tracks count unless they are tentative."""
    tracker = Tracker(TrackConfig())
    found, seconds = [], 0.0
    for detections, time_ns in zip(sequence.detections, sequence.times_ns, strict=True):
        begin = time.thread_time()
        tracks = tracker.update(detections, time_ns)
        seconds += time.thread_time() - begin
        sure = [track for track in tracks if track.state != "tentative"]
        found.append(_points([track.id for track in sure], [(track.x, track.y) for track in sure]))
    return found, seconds


def run_stonesoup(sequence: Sequence, scenario: Scenario, *, joint: bool) -> Run:
    """Run Stone Soup's multi-target tracker: global nearest neighbour, or with ``joint`` JPDA."""
    from stonesoup.types.array import StateVector
    from stonesoup.types.detection import Detection

    tracker, model = _stonesoup_tracker(scenario, joint=joint)
    numbers: dict[str, int] = {}
    found, seconds = [], 0.0
    for detections, time_ns in zip(sequence.detections, sequence.times_ns, strict=True):
        now = EPOCH + timedelta(seconds=time_ns / 1e9)
        points = {
            Detection(StateVector([x, y]), timestamp=now, measurement_model=model)
            for x, y in zip(detections.x, detections.y, strict=True)
        }
        begin = time.thread_time()
        tracks = tracker.update_tracker(now, points)[1]
        seconds += time.thread_time() - begin
        ids = [numbers.setdefault(track.id, len(numbers)) for track in tracks]
        places = [(float(track.mean[0, 0]), float(track.mean[2, 0])) for track in tracks]
        found.append(_points(ids, places))
    return found, seconds


def _stonesoup_tracker(scenario: Scenario, *, joint: bool) -> tuple[Any, Any]:
    from stonesoup.dataassociator.neighbour import GNNWith2DAssignment
    from stonesoup.dataassociator.probability import JPDA
    from stonesoup.deleter.time import UpdateTimeStepsDeleter
    from stonesoup.gater.distance import DistanceGater
    from stonesoup.hypothesiser.distance import DistanceHypothesiser
    from stonesoup.hypothesiser.probability import PDAHypothesiser
    from stonesoup.initiator.simple import MultiMeasurementInitiator
    from stonesoup.measures import Mahalanobis
    from stonesoup.models.measurement.linear import LinearGaussian
    from stonesoup.models.transition.linear import CombinedLinearGaussianTransitionModel, ConstantVelocity
    from stonesoup.predictor.kalman import KalmanPredictor
    from stonesoup.tracker.simple import MultiTargetMixtureTracker, MultiTargetTracker
    from stonesoup.types.state import GaussianState
    from stonesoup.updater.kalman import KalmanUpdater

    model = LinearGaussian(4, (0, 2), np.eye(2) * scenario.noise**2)
    predictor = KalmanPredictor(CombinedLinearGaussianTransitionModel([ConstantVelocity(DRIVE)] * 2))
    updater = KalmanUpdater(model)
    speed = scenario.speed[1] * scenario.fps / math.sqrt(6)  # on each axis, of speeds uniform from about 0
    nearest = GNNWith2DAssignment(DistanceHypothesiser(predictor, updater, Mahalanobis(), missed_distance=GATE))
    initiator = MultiMeasurementInitiator(
        prior_state=GaussianState([0, 0, 0, 0], np.diag([0, speed**2, 0, speed**2])),
        measurement_model=model,
        deleter=UpdateTimeStepsDeleter(2),
        data_associator=nearest,
        updater=updater,
        min_points=3,
    )
    deleter = UpdateTimeStepsDeleter(MISSES)
    if not joint:
        return MultiTargetTracker(initiator, deleter, None, nearest, updater), model
    density = scenario.clutter / (scenario.width * scenario.height)
    weighed = PDAHypothesiser(predictor, updater, density, prob_detect=scenario.pd, prob_gate=0.99)
    gated = DistanceGater(weighed, Mahalanobis(), gate_threshold=GATE)
    return MultiTargetMixtureTracker(initiator, deleter, None, JPDA(gated), updater), model


def run_boxes(sequence: Sequence, scenario: Scenario, *, name: str) -> Run:
    """Run a tracker of the ``trackers`` package by its class name, on squares around the points."""
    supervision = importlib.import_module("supervision")  # what ``trackers`` takes and gives
    tracker = getattr(importlib.import_module("trackers"), name)(frame_rate=scenario.fps)
    found, seconds = [], 0.0
    for detections in sequence.detections:
        xy = np.stack([detections.x, detections.y], 1)
        boxes = supervision.Detections(
            xyxy=np.concatenate([xy - BOX / 2, xy + BOX / 2], 1), confidence=np.full(len(xy), 0.9)
        )
        begin = time.thread_time()
        tracks = tracker.update(boxes)
        seconds += time.thread_time() - begin
        ids = np.asarray(tracks.tracker_id, np.int64).reshape(-1)
        centres = (tracks.xyxy[:, :2] + tracks.xyxy[:, 2:]) / 2
        found.append(Points(ids[ids >= 0], centres[ids >= 0].astype(np.float64)))
    return found, seconds


TRACKERS: dict[str, Callable[[Sequence, Scenario], Run]] = {
    "ours": run_ours,
    "stonesoup": partial(run_stonesoup, joint=False),
    "stonesoup-jpda": partial(run_stonesoup, joint=True),
    "sort": partial(run_boxes, name="SORTTracker"),
    "bytetrack": partial(run_boxes, name="ByteTrackTracker"),
    "ocsort": partial(run_boxes, name="OCSORTTracker"),
}


def compare(names: list[str], scenarios: list[Scenario], seeds: range) -> list[dict[str, Any]]:
    """Run trackers over scenarios and seeds.

    Returns:
        One row a scenario and tracker: ``scenario``, ``tracker``, the means over seeds of ``mota``,
        ``idf1``, ``hota`` and ``switches``, and ``ms_per_frame``, CPU time, the fastest seed's mean.
    """
    rows = []
    for scenario in scenarios:
        sequences = [make_sequence(scenario, seed) for seed in seeds]
        for name in names:
            scores, speeds = [], []
            for sequence in sequences:
                try:
                    found, seconds = TRACKERS[name](sequence, scenario)
                except ImportError as error:
                    raise BenchError(f"--against {name}: {error}; install irstream[compare]") from None
                scores.append(score_tracks(sequence.truth, found))
                speeds.append(1e3 * seconds / len(found))
            row: dict[str, Any] = {"scenario": scenario.name, "tracker": name}
            for key in ("mota", "idf1", "hota", "switches"):
                row[key] = round(float(np.mean([getattr(score, key) for score in scores])), 4)
            rows.append({**row, "ms_per_frame": round(min(speeds), 4)})
    return rows


@one_line_errors(BenchError)
def main(
    against: Annotated[str, typer.Option(help=f"Others, comma-separated: {', '.join(list(TRACKERS)[1:])}.")] = "",
    scenarios: Annotated[str, typer.Option(help="Names, comma-separated; all if empty.")] = "",
    seeds: Annotated[str, typer.Option(help="FIRST:LAST, both included.")] = "0:9",
    json_path: Annotated[str | None, typer.Option("--json", help="Write the rows there; - is stdout.")] = None,
) -> None:
    """Compare trackers on scenes with exact truth."""
    names = ["ours", *filter(None, against.split(","))]
    known = {scenario.name: scenario for scenario in SCENARIOS}
    wanted = scenarios.split(",") if scenarios else list(known)
    check_output("--json", json_path)
    _check("--against", names, list(TRACKERS))
    _check("--scenarios", wanted, list(known))
    first, _, last = seeds.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise BenchError(f"--seeds {seeds}: FIRST:LAST is expected, such as 0:9")
    rows = compare(names, [known[name] for name in wanted], range(int(first), int(last) + 1))
    if json_path == "-":
        json.dump({"results": rows}, sys.stdout, indent=1)
        return
    if json_path:
        Path(json_path).write_text(json.dumps({"results": rows}, indent=1), encoding="utf-8")
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


def _check(option: str, given: list[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise BenchError(f"{option} {name}: not one of {', '.join(known)}")


def _points(ids: list[int], xy: list[tuple[float, float]]) -> Points:
    return Points(np.array(ids, np.int64), np.array(xy, np.float64).reshape(-1, 2))


if __name__ == "__main__":
    run_command(main)
