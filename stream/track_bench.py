"""The tracker beside others on the same detections: ``python -m stream.track_bench --against stonesoup``.

The others get what the scenes were made with (noise, detection probability, clutter, the spread of
speeds); our tracker runs with its defaults and estimates the rest. References are needed for this
bench only: Stone Soup (``stonesoup``, and its JPDA as ``jpda``) and the ``trackers`` package, whose
box trackers get squares around the points.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from stream import StreamError
from stream.score_tracks import Points, score_tracks
from stream.synthetic import SCENARIOS, Scenario, Sequence, make_sequence
from stream.track import TrackConfig, Tracker

EPOCH = datetime(2000, 1, 1)
BOX = 24.0  # px: box trackers pair by overlap, and the fastest targets move 6 px a frame

Run = tuple[list[Points], float]  # a frame's tracks each, seconds in the tracker


class BenchError(StreamError):
    """A bench that cannot be run; the message names what is wrong."""


def run_ours(sequence: Sequence, _: Scenario) -> Run:
    """Run our tracker with its defaults."""
    tracker = Tracker(TrackConfig())
    found, seconds = [], 0.0
    for detections, time_ns in zip(sequence.detections, sequence.times_ns, strict=True):
        begin = time.perf_counter()
        tracks = tracker.update(detections, time_ns)
        seconds += time.perf_counter() - begin
        sure = [track for track in tracks if track.state != "tentative"]
        found.append(_points([track.id for track in sure], [(track.x, track.y) for track in sure]))
    return found, seconds


def run_stonesoup(sequence: Sequence, scenario: Scenario, *, joint: bool = False) -> Run:
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
        begin = time.perf_counter()
        tracks = tracker.update_tracker(now, points)[1]
        seconds += time.perf_counter() - begin
        ids = [numbers.setdefault(track.id, len(numbers)) for track in tracks]
        found.append(_points(ids, [(float(t.state_vector[0]), float(t.state_vector[2])) for t in tracks]))
    return found, seconds


def _stonesoup_tracker(scenario: Scenario, *, joint: bool) -> tuple[Any, Any]:
    from stonesoup.dataassociator.neighbour import GNNWith2DAssignment
    from stonesoup.dataassociator.probability import JPDA
    from stonesoup.deleter.time import UpdateTimeStepsDeleter
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

    drive = SS["man"] ** 2
    model = LinearGaussian(4, (0, 2), np.eye(2) * scenario.noise**2)
    predictor = KalmanPredictor(CombinedLinearGaussianTransitionModel([ConstantVelocity(drive)] * 2))
    updater = KalmanUpdater(model)
    speed = scenario.speed[1] * scenario.fps / math.sqrt(6)  # of a speed uniform from 0, on each axis
    nearest = GNNWith2DAssignment(DistanceHypothesiser(predictor, updater, Mahalanobis(), missed_distance=SS["gate"]))
    initiator = MultiMeasurementInitiator(
        prior_state=GaussianState([0, 0, 0, 0], np.diag([0, speed**2, 0, speed**2])),
        measurement_model=model,
        deleter=UpdateTimeStepsDeleter(SS["idel"]),
        data_associator=nearest,
        updater=updater,
        min_points=SS["min"],
    )
    deleter = UpdateTimeStepsDeleter(SS["del"])
    if not joint:
        return MultiTargetTracker(initiator, deleter, None, nearest, updater), model
    density = scenario.clutter / (scenario.width * scenario.height)
    hypothesiser = PDAHypothesiser(predictor, updater, density, prob_detect=scenario.pd, prob_gate=0.999)
    return MultiTargetMixtureTracker(initiator, deleter, None, JPDA(hypothesiser), updater), model


SS = dict(man=60, gate=3, idel=2, min=3)
SS["del"] = 5


def _points(ids: list[int], xy: list[tuple[float, float]]) -> Points:
    return Points(np.array(ids, np.int64), np.array(xy, np.float64).reshape(-1, 2))
