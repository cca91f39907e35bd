"""Detections in, tracks out: one Tracker a stream.

A track is a constant-velocity Kalman filter with a probability that its target exists (integrated
data association, Musicki, Evans and Stankovic 1994): a detection raises it by how much better the
track explains it than clutter does, a frame without one lowers it. Tracks are confirmed, reported,
kept and dropped by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit

from stream.associate import Pairs, assign, gated_pairs
from stream.detect import Detections
from stream.kalman import PP, STATE_ROWS, VV, VX, VY, X, Y, correct, covariances, predict

HISTORY = 32  # frames whose hits a track remembers
MATURE = 2.2  # log-odds of existence from which a track's hits and misses tell the detection probability
FORGET = 0.98  # a frame: clutter and detection probability follow the last 50 frames or so
PRIOR_FRAMES = 5.0  # what the first guess of the clutter counts for
PRIOR_CHANCES = 50.0  # what the first guess of the detection probability counts for
LEAST_CLUTTER = 0.02  # false detections a frame: a quiet stream does not make every detection a target
LARGEST_ODDS = 12.0
SMALLEST = 1e-30  # probability: its logarithm stays a number
HIDDEN = -3.0  # log-odds that a target out of sight is still there: misses come in runs, so that many tell no more
REMEMBERED = 0.1  # a detection: what the last one counts for in the mean score of a track
SURPRISED = 0.15  # a detection: what the last one counts for in how well a track's course fits
STATES = ("tentative", "coasting", "confirmed")
MOVING = 2.0  # standard deviations of a detection's position that a track must be from its mean place
FIRST_STEP = 1e-3  # seconds, for births before the first interval is known
UNPROVED = 1.5  # the surprise of a new track, between that of a course that fits (1) and of a turn (2)
EAGER = 100.0  # more than any pair's log-likelihood falls short of a miss

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Flags = NDArray[np.bool_]

# The rows of the table of tracks that follow the filters' own.
ODDS, SURPRISE, AREA, PEAK, SCR, ID, HITS, AGE, RECENT, RECENT_HITS, UNSEEN, QUALITY, CONFIRMED = range(
    STATE_ROWS, STATE_ROWS + 13
)
MEAN_X, MEAN_Y, NEEDED = range(CONFIRMED + 1, CONFIRMED + 4)
ROWS = NEEDED + 1
PLACE, MEAN = slice(X, Y + 1), slice(MEAN_X, MEAN_Y + 1)


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
        memory: how long a confirmed track without detections can come back under its id, seconds.
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
        claimed: bool ``[n]``, which of the last frame's detections belong to tracks that were there before.
    """

    def __init__(self, config: TrackConfig, first_id: int = 1) -> None:
        self.late = 0
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
            self._tracks = self._tracks[:, :0]
            step = 0.0
        elif step <= 0 and self._time_ns is not None:
            self.late += 1
            self._shift(motion)  # the scene moved all the same
            self.claimed = np.zeros(len(detections), np.bool_)
            return self._report()
        self._time_ns = time_ns
        if step > 0:
            self._drift = motion[0] / step, motion[1] / step
        self._predict(step, motion)
        matches = self._associate(detections)
        self._correct(detections, matches)
        self._drop(detections, matches)
        self._start(detections, matches, step)
        return self._report()

    def _predict(self, step: float, motion: tuple[float, float]) -> None:
        tracks, config = self._tracks, self._config
        if not tracks.shape[1]:
            return
        self._shift(motion)
        tracks[UNSEEN] += step
        turning = np.minimum(np.maximum(tracks[SURPRISE] - 1, 0), 1)
        predict(tracks, step, (config.calm * (config.manoeuvre / config.calm) ** turning) ** 2)
        real = np.maximum(np.exp(-step / config.life) * expit(tracks[ODDS]), SMALLEST)
        tracks[ODDS] = np.log(real / (1 - real))

    def _shift(self, motion: tuple[float, float]) -> None:
        if motion != (0.0, 0.0):
            self._tracks[[X, MEAN_X]] += motion[0]
            self._tracks[[Y, MEAN_Y]] += motion[1]

    def _associate(self, detections: Detections) -> _Matches:
        tracks, config, found = self._tracks, self._config, self.detection_probability
        matches = _Matches(tracks.shape[1], len(detections), math.log(1 - found))
        if not tracks.shape[1] or not len(detections):
            return matches
        spread = tracks[PP] + config.noise**2
        pairs = gated_pairs(
            np.stack([tracks[X], tracks[Y]]), spread, np.stack([detections.x, detections.y]), config.gate
        )
        density = self.clutter / (detections.width * detections.height)
        gain = math.log(found / (2 * math.pi * density)) - np.log(spread)[pairs.track] - pairs.distance / 2
        # Probably real tracks choose first, by how much likelier the pair is than a miss and a false
        # alarm; what they leave goes to those that are still to be proved, which take what they can get.
        odds = tracks[ODDS]
        real = expit(odds)
        worth = gain + np.log(real / (1 - found * real))[pairs.track]
        strong = (odds >= 0)[pairs.track]
        matches.add(pairs, assign(pairs.track, pairs.detection, np.where(strong, worth, 0.0)), gain)
        weak = ~strong & matches.free[pairs.detection]
        if weak.any():
            worth += np.where(tracks[CONFIRMED] > 0, 0.0, EAGER)[pairs.track]
            matches.add(pairs, assign(pairs.track, pairs.detection, np.where(weak, worth, 0.0)), gain)
        return matches

    def _correct(self, detections: Detections, matches: _Matches) -> None:
        tracks, config = self._tracks, self._config
        hit = matches.held >= 0
        own = matches.held[hit]
        mature = tracks[ODDS] >= MATURE
        least = np.where(tracks[CONFIRMED] > 0, HIDDEN, -np.inf)
        tracks[ODDS] = np.minimum(np.maximum(tracks[ODDS] + matches.gain, least), LARGEST_ODDS)
        false = len(detections) - float(expit(tracks[ODDS][hit]).sum())
        self._false, self._frames = FORGET * self._false + false, FORGET * self._frames + 1
        self._found = FORGET * self._found + np.count_nonzero(mature & hit)
        self._chances = FORGET * self._chances + np.count_nonzero(mature)

        seen = correct(tracks[:, hit], detections.x[own], detections.y[own], config.noise**2)
        seen[AREA], seen[PEAK], seen[SCR] = detections.area[own], detections.peak[own], detections.scr[own]
        seen[SURPRISE] += SURPRISED * (matches.distance[hit] / 2 - seen[SURPRISE])
        seen[HITS] += 1
        share = 1 / seen[HITS]
        seen[QUALITY] += np.maximum(REMEMBERED, share) * (detections.score[own] - seen[QUALITY])
        seen[UNSEEN] = 0
        away = seen[PLACE] - seen[MEAN]
        seen[MEAN] += share * away
        moved = (1 - share) * np.hypot(away[0], away[1]) > MOVING * config.noise
        seen[NEEDED] = np.where(moved, config.confirm_score, seen[NEEDED])
        tracks[:, hit] = seen
        tracks[AGE] += 1
        recent = (tracks[RECENT].astype(np.int64) << 1 | hit) & ((1 << config.confirm_frames) - 1)
        tracks[RECENT] = recent
        tracks[RECENT_HITS] = np.bitwise_count(recent)
        proved = (tracks[RECENT_HITS] >= config.confirm_hits) & (tracks[ODDS] >= self._confirm_odds)
        proved &= tracks[QUALITY] >= tracks[NEEDED]
        tracks[CONFIRMED] = np.maximum(tracks[CONFIRMED], proved)

    def _drop(self, detections: Detections, matches: _Matches) -> None:
        """Drop tracks that cannot be confirmed any more, that are long gone, or that have left the frame."""
        tracks, config = self._tracks, self._config
        misses = np.minimum(tracks[AGE], config.confirm_frames) - tracks[RECENT_HITS]
        gone = np.where(
            tracks[CONFIRMED] > 0,
            tracks[UNSEEN] > config.memory,
            misses > config.confirm_frames - config.confirm_hits,
        )
        x, y, hit = tracks[X], tracks[Y], matches.held >= 0
        outside = (x < -0.5) | (y < -0.5) | (x > detections.width - 0.5) | (y > detections.height - 0.5)
        self.claimed = np.zeros(len(detections), np.bool_)
        self.claimed[matches.held[hit]] = True
        self._tracks = tracks[:, ~(gone | (outside & ~hit))]

    def _start(self, detections: Detections, matches: _Matches, step: float) -> None:
        config, free = self._config, matches.free
        born = np.zeros((ROWS, np.count_nonzero(free)))
        if born.shape[1]:
            born[X], born[Y], born[AREA] = detections.x[free], detections.y[free], detections.area[free]
            born[PEAK], born[SCR] = detections.peak[free], detections.scr[free]
            born[PP] = config.noise**2
            born[VV] = config.speed**2
            born[SURPRISE], born[QUALITY] = UNPROVED, detections.score[free]
            born[ODDS] = math.log(config.births * max(step, FIRST_STEP) / self.clutter)
            born[ID] = np.arange(self.next_id, self.next_id + born.shape[1])
            born[[HITS, AGE, RECENT, RECENT_HITS]] = 1
            born[MEAN], born[NEEDED] = born[PLACE], config.standing_score
            sure = (born[ODDS] >= self._confirm_odds) & (born[QUALITY] >= born[NEEDED])
            born[CONFIRMED] = (config.confirm_hits == 1) & sure
            self.next_id += born.shape[1]
            self._tracks = np.concatenate([self._tracks, born], axis=1)
        if self._tracks.shape[1] > config.max_tracks:
            rank = np.lexsort((self._tracks[ID], -self._tracks[ODDS], -self._tracks[CONFIRMED]))
            self._tracks = self._tracks[:, np.sort(rank[: config.max_tracks])]

    def _report(self) -> list[Track]:
        tracks = self._tracks
        shown = (tracks[ODDS] >= self._report_odds) & (tracks[QUALITY] >= tracks[NEEDED])
        tracks = tracks[:, (tracks[CONFIRMED] == 0) | shown]
        state = tracks[CONFIRMED] * (1 + (tracks[UNSEEN] == 0))
        whole = [row.astype(np.int64).tolist() for row in (tracks[ID], state, tracks[HITS], tracks[AGE])]
        kinematics = (tracks[[X, Y, VX, VY]] + np.array([[0.0], [0.0], [self._drift[0]], [self._drift[1]]])).tolist()
        cov = covariances(tracks).reshape(-1, 16).tolist()
        looks = tracks[[ODDS, AREA, PEAK, SCR]].tolist()
        return [
            Track(key, STATES[number], x, y, vx, vy, cov, score, area, peak, scr, hits, age)
            for key, number, hits, age, x, y, vx, vy, cov, score, area, peak, scr in zip(
                *whole, *kinematics, cov, *looks, strict=True
            )
        ]


class _Matches:
    """Which track holds which detection in one frame.

    Attributes:
        held: detection of each track, -1 for none.
        gain: log-likelihood ratio of existence that each track's detection, or its lack, brings.
        distance: squared Mahalanobis distance of each track's detection.
        free: bool, detections that no track holds.
    """

    def __init__(self, tracks: int, detections: int, miss: float) -> None:
        self.held = np.full(tracks, -1, np.intp)
        self.gain = np.full(tracks, miss)
        self.distance = np.zeros(tracks)
        self.free = np.ones(detections, np.bool_)

    def add(self, pairs: Pairs, chosen: Ints, gain: Floats) -> None:
        track, detection = pairs.track[chosen], pairs.detection[chosen]
        self.held[track] = detection
        self.gain[track] = gain[chosen]
        self.distance[track] = pairs.distance[chosen]
        self.free[detection] = False


def _log_odds(p: float) -> float:
    return math.log(p / (1 - p))
