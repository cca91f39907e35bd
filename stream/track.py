"""Detections in, tracks out: one Tracker a stream.

A track is a constant-velocity Kalman filter with a probability that its target exists (integrated
data association, Musicki, Evans and Stankovic 1994): a detection raises it by how much better the
track explains it than clutter does, a frame without one lowers it. Tracks are confirmed, reported,
kept and dropped by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stream.associate import assign
from stream.detect import Detections
from stream.track_kernels import (
    AGE,
    AREA,
    CONFIRMED,
    HITS,
    ID,
    MEAN_X,
    MEAN_Y,
    ODDS,
    PEAK,
    PP,
    QUALITY,
    RECENT,
    RECENT_HITS,
    ROWS,
    SCR,
    SURPRISE,
    VV,
    Flags,
    Floats,
    Ints,
    X,
    Y,
    confirm,
    correct,
    gated_pairs,
    hold,
    judge,
    likelihoods,
    of_the_strong,
    of_the_weak,
    predict,
    report,
    who_stays,
)

HISTORY = 32  # frames whose hits a track remembers
FORGET = 0.98  # a frame: clutter and detection probability follow the last 50 frames or so
PRIOR_FRAMES = 5.0  # what the first guess of the clutter counts for
PRIOR_CHANCES = 50.0  # what the first guess of the detection probability counts for
LEAST_CLUTTER = 0.02  # false detections a frame: a quiet stream does not make every detection a target
STATES = ("tentative", "coasting", "confirmed")
FIRST_STEP = 1e-3  # seconds, for births before the first interval is known
UNPROVED = 1.5  # the surprise of a new track, between that of a course that fits (1) and of a turn (2)


class TrackConfig(BaseModel):
    """How detections become tracks.

    Attributes:
        noise: standard deviation of a detection's position on each axis, pixels.
        calm: how much a target that keeps its course changes its velocity: its standard deviation
            after one second, px/s.
        manoeuvre: the same for one that turns; each track moves between the two as it fits.
        speed: standard deviation of a new target's velocity on each axis, px/s.
        gate: a detection further from a track than this is not its own, in standard deviations.
        detection_probability: what is assumed until the stream has shown its own.
        clutter: false detections a frame, assumed until the stream has shown its own.
        births: new targets a second in the whole frame.
        life: mean time that a target stays, seconds.
        confirm_hits: M, frames with a detection among the last N that confirm a track.
        confirm_frames: N.
        confirm_probability: that the target exists, which a track needs as well.
        confirm_score: and the mean score of its last detections (``Detections.score``). A confirmed track that falls
            below it is not reported until it is above again.
        standing_score: the same for a track that has not moved yet from where it began: what stands still in a scene,
            such as the corner of a roof, can look like a faint target for as long as it is there. A target that hovers
            must look better than one that moves; at least ``confirm_score``.
        report_probability: below it a confirmed track is not reported, but can still come back.
        memory: how long a confirmed track without detections can come back under its id, seconds. A longer pause
            between two frames ends all tracks: a camera that is slower than one frame in it keeps none.
        max_tracks: the weakest leave first.
        scene_motion: take the motion of the whole scene out of the tracks' (``stream.motion``): for cameras that
            pan or shake.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    noise: Annotated[float, Field(ge=0.01, le=100)] = 0.5
    calm: Annotated[float, Field(ge=0.01, le=1e5)] = 20.0
    manoeuvre: Annotated[float, Field(ge=0.01, le=1e5)] = 120.0
    speed: Annotated[float, Field(ge=0.01, le=1e5)] = 90.0
    gate: Annotated[float, Field(gt=0, le=10)] = 4.0
    detection_probability: Annotated[float, Field(gt=0, lt=1)] = 0.9
    clutter: Annotated[float, Field(gt=0, le=10_000)] = 3.0
    births: Annotated[float, Field(gt=0, le=1000)] = 2.0
    life: Annotated[float, Field(ge=0.01, le=1e6)] = 8.0
    confirm_hits: Annotated[int, Field(ge=1, le=HISTORY)] = 3
    confirm_frames: Annotated[int, Field(ge=1, le=HISTORY)] = 5
    confirm_probability: Annotated[float, Field(gt=0, lt=1)] = 0.95
    confirm_score: Annotated[float, Field(ge=0, lt=1)] = 0.4
    standing_score: Annotated[float, Field(ge=0, lt=1)] = 0.65
    report_probability: Annotated[float, Field(gt=0, lt=1)] = 0.5
    memory: Annotated[float, Field(gt=0, le=600)] = 1.0
    max_tracks: Annotated[int, Field(ge=1, le=10_000)] = 1000
    scene_motion: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.confirm_hits > self.confirm_frames:
            raise ValueError(
                f"confirm_hits ({self.confirm_hits}) must be at most confirm_frames ({self.confirm_frames})"
            )
        if self.calm > self.manoeuvre:
            raise ValueError(f"calm ({self.calm}) must be at most manoeuvre ({self.manoeuvre})")
        if self.confirm_score > self.standing_score:
            raise ValueError(
                f"confirm_score ({self.confirm_score}) must be at most standing_score ({self.standing_score})"
            )
        return self


@dataclass(slots=True)
class Track:
    """One track in one frame, field by field what goes over the wire."""

    id: int
    state: str
    x: float
    y: float
    vx: float
    vy: float
    cov: list[float]
    score: float
    area: float
    peak: float
    scr: float
    hits: int
    age: int


class Tracker:
    """The tracks of one stream.

    Args:
        config: how detections become tracks.
        first_id: the id of the first track.

    Attributes:
        next_id: the id of the next track.
        late: frames left out because their time was not after the one before.
        confirmed: tracks that ever were.
        claimed: bool ``[n]``, which of the last frame's detections belong to tracks that were there before.
    """

    def __init__(self, config: TrackConfig, first_id: int = 1) -> None:
        self.late = self.confirmed = 0
        self._drift = 0.0, 0.0  # px/s, of the whole scene: the filters' velocities are relative to it
        self.claimed: Flags = np.zeros(0, np.bool_)
        self._config = config
        self._confirm_odds = _log_odds(config.confirm_probability)
        self._report_odds = _log_odds(config.report_probability)
        self._tracks: Floats = np.zeros((ROWS, 0))
        self._time_ns: int | None = None
        self.next_id = first_id
        self._false, self._frames = config.clutter * PRIOR_FRAMES, PRIOR_FRAMES
        self._found, self._chances = config.detection_probability * PRIOR_CHANCES, PRIOR_CHANCES

    @property
    def clutter(self) -> float:
        """False detections a frame, as the stream has shown them."""
        return max(LEAST_CLUTTER, self._false / self._frames)

    @property
    def detection_probability(self) -> float:
        """The share of frames in which established targets are detected, as the stream has shown it."""
        return min(0.99, max(0.3, self._found / self._chances))

    def update(self, detections: Detections, time_ns: int, motion: tuple[float, float] = (0.0, 0.0)) -> list[Track]:
        """Take the detections of a frame and return its tracks.

        A frame that is not later than the last one is left out, and the tracks stay as they are. One
        that is earlier or later by more than ``config.memory`` comes from a clock that was set, or
        after a pause that no track survives: all starts anew, and ids go on.

        Args:
            detections: of the frame.
            time_ns: when it was taken.
            motion: of the scene since the last frame, pixels to the right and down.

        Returns:
            The tracks, oldest first, tentative ones included.
        """
        step = 0.0 if self._time_ns is None else (time_ns - self._time_ns) / 1e9
        if abs(step) > self._config.memory:
            self._tracks = np.zeros((ROWS, 0))
            step = 0.0
        elif step <= 0 and self._time_ns is not None:
            self.late += 1
            self._tracks[[X, MEAN_X]] += motion[0]  # the scene moved all the same
            self._tracks[[Y, MEAN_Y]] += motion[1]
            self.claimed = np.zeros(len(detections), np.bool_)
            return self._report()
        self._time_ns = time_ns
        if step > 0:
            self._drift = motion[0] / step, motion[1] / step
        config = self._config
        held = _nothing_held(self._tracks.shape[1], len(detections), math.log(1 - self.detection_probability))
        predict(self._tracks, step, motion, config.calm, config.manoeuvre, config.life)
        self._associate(detections, held)
        self._learn(detections, *judge(self._tracks, held.detection, held.gain))
        d = detections
        correct(self._tracks, held.detection, held.distance, (d.x, d.y, d.area, d.peak, d.score, d.scr), config.noise)
        self.confirmed += confirm(
            self._tracks, held.detection, config.confirm_hits, config.confirm_frames,
            self._confirm_odds, config.confirm_score, config.standing_score,
        )  # fmt: skip
        self.claimed = ~held.free
        self._drop(detections, held)
        self._start(detections, held.free, step)
        return self._report()

    def _associate(self, detections: Detections, held: _Held) -> None:
        """Share out the detections.

        Tracks that are probably real choose first, by how much likelier the pair is than a miss and a false alarm;
        what they leave goes to those that are still to be proved, which take what they can get.
        """
        tracks, config, found = self._tracks, self._config, self.detection_probability
        spread = tracks[PP] + config.noise**2
        track, detection, distance = gated_pairs(tracks[X], tracks[Y], spread, detections.x, detections.y, config.gate)
        if not len(track):
            return
        density = self.clutter / (detections.width * detections.height)
        gain, worth = likelihoods(tracks, track, distance, spread, found, density)
        pairs = track, detection, distance, gain
        hold(assign(track, detection, of_the_strong(tracks, track, worth)), *pairs, *held)
        weak, some = of_the_weak(tracks, track, detection, worth, held.free)
        if some:
            hold(assign(track, detection, weak), *pairs, *held)

    def _learn(self, detections: Detections, explained: float, found: int, chances: int) -> None:
        """Learn the stream's clutter and detection probability."""
        self._false = FORGET * self._false + len(detections) - explained
        self._frames = FORGET * self._frames + 1
        self._found = FORGET * self._found + found
        self._chances = FORGET * self._chances + chances

    def _drop(self, detections: Detections, held: _Held) -> None:
        """Drop tracks that cannot be confirmed any more, that are long gone, or that have left the frame."""
        config = self._config
        stays, everyone = who_stays(
            self._tracks, held.detection, (detections.width, detections.height),
            config.confirm_hits, config.confirm_frames, config.memory,
        )  # fmt: skip
        if not everyone:
            self._tracks = self._tracks.compress(stays, 1)

    def _start(self, detections: Detections, free: Flags, step: float) -> None:
        config = self._config
        if free.any():
            born = np.zeros((ROWS, np.count_nonzero(free)))
            born[X], born[Y], born[AREA] = detections.x[free], detections.y[free], detections.area[free]
            born[PEAK], born[SCR] = detections.peak[free], detections.scr[free]
            born[PP] = config.noise**2
            born[VV] = config.speed**2
            born[SURPRISE], born[QUALITY] = UNPROVED, detections.score[free]
            born[ODDS] = math.log(config.births * max(step, FIRST_STEP) / self.clutter)
            born[ID] = np.arange(self.next_id, self.next_id + born.shape[1])
            born[[HITS, AGE, RECENT, RECENT_HITS]] = 1
            born[[MEAN_X, MEAN_Y]] = born[[X, Y]]
            sure = (born[ODDS] >= self._confirm_odds) & (born[QUALITY] >= config.standing_score)
            born[CONFIRMED] = (config.confirm_hits == 1) & sure
            self.confirmed += int(born[CONFIRMED].sum())
            self.next_id += born.shape[1]
            self._tracks = np.concatenate([self._tracks, born], axis=1)
        if self._tracks.shape[1] > config.max_tracks:
            rank = np.lexsort((self._tracks[ID], -self._tracks[ODDS], -self._tracks[CONFIRMED]))
            self._tracks = self._tracks.take(np.sort(rank[: config.max_tracks]), 1)

    def _report(self) -> list[Track]:
        config = self._config
        rows = report(self._tracks, self._report_odds, config.confirm_score, config.standing_score, self._drift)
        return [
            Track(int(key), STATES[int(state)], x, y, vx, vy, cov, score, area, peak, scr, int(hits), int(age))
            for key, state, x, y, vx, vy, score, area, peak, scr, hits, age, *cov in rows.tolist()
        ]


class _Held(NamedTuple):
    """Which track holds which detection in one frame.

    Attributes:
        detection: of each track, -1 for none.
        distance: squared Mahalanobis distance of each track's detection.
        gain: log-likelihood ratio of existence that each track's detection, or its lack, brings.
        free: detections that no track holds.
    """

    detection: Ints
    distance: Floats
    gain: Floats
    free: Flags


def _nothing_held(tracks: int, detections: int, miss: float) -> _Held:
    return _Held(np.full(tracks, -1), np.zeros(tracks), np.full(tracks, miss), np.ones(detections, np.bool_))


def _log_odds(p: float) -> float:
    return math.log(p / (1 - p))
