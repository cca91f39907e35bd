"""Point targets with exact truth: what a detector would report of a known scene, from a seed.

These sequences test the tracker alone, without pixels or a network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.detect import Detections
from stream.score_tracks import Points


@dataclass(frozen=True)
class Scenario:
    """A kind of scene.

    Attributes:
        name: in tables.
        width: of the frame, pixels.
        height: of the frame, pixels.
        frames: that the camera takes.
        fps: frames per second.
        targets: how many there are at a time; one that dies or leaves is followed by another.
        speed: slowest and fastest target, px/frame, uniform between.
        life: shortest and longest life, frames, unless the target leaves the frame before; on a
            straight course it does not leave before the shortest.
        rest: shortest and longest pause between a death and the birth that follows it, frames.
        turn: degrees a frame; each target turns left, right or not at all for 20 to 60 frames at a time.
        pd: probability that a target is detected in a frame.
        clutter: mean false points a frame, Poisson, uniform over the frame.
        noise: standard deviation of a detection's position on each axis, pixels.
        uneven: how far a frame may be from its even time, as a share of the frame interval, uniform.
        dropped: probability that a frame is lost.
    """

    name: str = "plain"
    width: int = 256
    height: int = 256
    frames: int = 300
    fps: float = 30.0
    targets: int = 8
    speed: tuple[float, float] = (0.3, 6.0)
    life: tuple[int, int] = (40, 300)
    rest: tuple[int, int] = (5, 60)
    turn: float = 0.0
    pd: float = 0.9
    clutter: float = 3.0
    noise: float = 0.5
    uneven: float = 0.0
    dropped: float = 0.0


SCENARIOS = (
    Scenario(),
    Scenario(name="turns", turn=3.0),
    Scenario(name="pd 0.7", pd=0.7),
    Scenario(name="clutter 20", clutter=20.0),
    Scenario(name="uneven", uneven=0.4),
    Scenario(name="dropped", dropped=0.1),
    Scenario(name="all of these", turn=3.0, pd=0.7, clutter=20.0, uneven=0.4, dropped=0.1),
    Scenario(name="crowd", width=640, height=512, frames=100, targets=200, clutter=200.0),
)


@dataclass(frozen=True, eq=False)
class Sequence:
    """Frame by frame (dropped ones left out) the time, what was detected and what was there."""

    times_ns: list[int]
    detections: list[Detections]
    truth: list[Points]


def make_sequence(scenario: Scenario, seed: int) -> Sequence:
    """Return the sequence of a scenario and a seed; the same seed gives the same sequence."""
    rng = np.random.default_rng(seed)
    slots = scenario.targets
    size = np.array([scenario.width, scenario.height], np.float64)
    ids = np.full(slots, -1, np.int64)
    xy = np.zeros((slots, 2))
    velocity = np.zeros((slots, 2))
    turning = np.zeros(slots)
    turn_ends = np.zeros(slots, np.int64)
    dies = np.full(slots, -1, np.int64)
    born = np.where(rng.random(slots) < 0.7, 0, rng.integers(1, 60, slots))
    next_id = 1
    result = Sequence([], [], [])
    before = 0.0
    for frame in range(scenario.frames):
        now = frame + float(rng.uniform(-0.5, 0.5)) * scenario.uneven if frame else 0.0
        step, before = now - before, now
        angle = np.deg2rad(turning) * step
        cos, sin = np.cos(angle), np.sin(angle)
        velocity = np.stack(
            [cos * velocity[:, 0] - sin * velocity[:, 1], sin * velocity[:, 0] + cos * velocity[:, 1]], 1
        )
        xy += velocity * step

        alive = ids >= 0
        gone = alive & ((frame >= dies) | (xy < 0).any(1) | (xy > size - 1).any(1))
        ids[gone] = -1
        born[gone] = frame + rng.integers(*scenario.rest, slots, endpoint=True)[gone]
        new = (ids < 0) & (born <= frame)
        count = int(new.sum())
        ids[new] = np.arange(next_id, next_id + count)
        next_id += count
        for slot in np.flatnonzero(new):
            xy[slot], velocity[slot] = _start(scenario, rng)
        dies[new] = frame + rng.integers(*scenario.life, count, endpoint=True)
        turn_ends[new] = frame
        change = turn_ends <= frame
        turning[change] = scenario.turn * rng.integers(-1, 2, slots)[change]
        turn_ends[change] = frame + rng.integers(20, 61, slots)[change]

        alive = ids >= 0
        seen = alive & (rng.random(slots) < scenario.pd)
        found = xy[seen] + rng.normal(0, scenario.noise, (int(seen.sum()), 2))
        false = rng.uniform(0, 1, (rng.poisson(scenario.clutter), 2)) * (size - 1)
        lost = frame > 0 and rng.random() < scenario.dropped
        if not lost:
            points = rng.permutation(np.concatenate([found, false]))
            result.times_ns.append(round((now + 1) / scenario.fps * 1e9))
            result.detections.append(detections_at(points, scenario.width, scenario.height))
            result.truth.append(Points(ids[alive].copy(), xy[alive].copy()))
    return result


def _start(scenario: Scenario, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a position, px, and a velocity, px/frame, that stay in the frame for the shortest life."""
    size = np.array([scenario.width, scenario.height], np.float64)
    while True:
        place = rng.uniform(0, 1, 2) * (size - 1)
        heading = rng.uniform(0, 2 * np.pi)
        velocity = rng.uniform(*scenario.speed) * np.array([np.cos(heading), np.sin(heading)])
        end = place + velocity * scenario.life[0]
        if (end >= 0).all() and (end <= size - 1).all():
            return place, velocity


def detections_of(points: list[tuple[float, float]], width: int, height: int) -> Detections:
    """Return detections at places, as ``detections_at``."""
    return detections_at(np.array(points, np.float64).reshape(-1, 2), width, height)


def detections_at(xy: NDArray[np.float64], width: int, height: int) -> Detections:
    """Return detections of a single pixel each at ``xy``, float64 ``[n, 2]``, all alike but for their place."""
    ones = np.ones(len(xy))
    x, y = np.ascontiguousarray(xy.T)
    return Detections(x=x, y=y, area=ones, peak=ones, score=ones, scr=10 * ones, width=width, height=height)
