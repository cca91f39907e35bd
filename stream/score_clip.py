"""Detections and tracks of a labelled clip against its boxes.

The labels are boxes, often loose, so a detection or a track is right if its centre lies in a box
grown by ``GROWN`` pixels. A track counts from its confirmation on, coasting included: what a
downstream system would act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from stream.labels import Box, Clip

GROWN = 3.0


@dataclass(frozen=True)
class TrackPoint:
    """A confirmed track in one frame; x and y in pixels."""

    id: int
    x: float
    y: float


@dataclass(frozen=True)
class FrameResult:
    """What the pipeline said of one frame.

    Attributes:
        seq: number of the frame in its clip.
        detections: float64 ``[n, 3]``: x, y, score.
        tracks: the confirmed ones.
    """

    seq: int
    detections: NDArray[np.float64]
    tracks: Sequence[TrackPoint]


@dataclass
class ClipScore:
    """Sums over the frames of a clip, or of several; ``report()`` turns them into figures.

    Attributes:
        frames: frames seen.
        seconds: that they last.
        labelled: boxes in them.
        detected: boxes with a detection in them.
        false_components: detections in no box.
        tracked: boxes with a confirmed track in them.
        tracks: confirmed tracks.
        false_tracks: confirmed tracks that lie in no box in more than half of their frames.
        switches: times a box's track has another id than the one before.
        fragments: times a box is tracked again after it was not.
        error: sum of the distances from a box's centre to its track, pixels.
        waits: seconds from a clip's first box to its first confirmed track in a box, a clip each.
        never: clips in which no box was ever tracked.
        scores: of all detections, with whether they lie in a box.
        best: the highest score in each box that has a detection.
    """

    frames: int = 0
    seconds: float = 0.0
    labelled: int = 0
    detected: int = 0
    false_components: int = 0
    tracked: int = 0
    tracks: int = 0
    false_tracks: int = 0
    switches: int = 0
    fragments: int = 0
    error: float = 0.0
    waits: list[float] = field(default_factory=list)
    never: int = 0
    scores: list[tuple[float, bool]] = field(default_factory=list)
    best: list[float] = field(default_factory=list)

    def merge(self, other: ClipScore) -> None:
        """Add another score's frames to this one's."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def report(self) -> dict[str, float | int | None]:
        """Return the figures; shares are shares of 1, a share of nothing is 0."""
        return {
            "frames": self.frames,
            "detection_recall": _ratio(self.detected, self.labelled),
            "false_components_per_frame": _ratio(self.false_components, self.frames),
            "track_recall": _ratio(self.tracked, self.labelled),
            "false_tracks": self.false_tracks,
            "false_tracks_per_minute": _ratio(60 * self.false_tracks, self.seconds),
            "id_switches": self.switches,
            "fragments": self.fragments,
            "time_to_first_track_s": float(np.mean(self.waits)) if self.waits else None,
            "never_tracked": self.never,
            "centre_error_px": self.error / self.tracked if self.tracked else None,
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def score_clip(clip: Clip, frames: Sequence[FrameResult], fps: float) -> ClipScore:
    """Score a clip.

    Args:
        clip: the truth.
        frames: what the pipeline said, in order.
        fps: frames a second, of the clip.
    """
    score = ClipScore(frames=len(frames), seconds=len(frames) / fps)
    inside: dict[int, list[bool]] = {}  # by track: frame by frame, whether it lay in a box
    targets: list[_Followed] = []
    begin = min(clip.boxes, default=0)
    first = None
    for frame in frames:
        boxes = clip.boxes.get(frame.seq, [])
        _score_detections(score, frame, boxes)
        for track in frame.tracks:
            inside.setdefault(track.id, []).append(any(box.holds(track.x, track.y, GROWN) for box in boxes))
        for box, target in zip(boxes, _targets_of(boxes, targets), strict=True):
            score.labelled += 1
            if target.follow(score, box, frame.tracks) and first is None:
                first = frame.seq
    if first is not None:
        score.waits.append((first - begin) / fps)
    elif score.labelled:
        score.never = 1
    score.tracks = len(inside)
    score.false_tracks = sum(2 * sum(where) < len(where) for where in inside.values())
    return score


def _score_detections(score: ClipScore, frame: FrameResult, boxes: Sequence[Box]) -> None:
    right = [[box.holds(x, y, GROWN) for box in boxes] for x, y, _ in frame.detections]
    for column in zip(*right, strict=True):
        inside = [strength for strength, lies in zip(frame.detections[:, 2].tolist(), column, strict=True) if lies]
        score.detected += bool(inside)
        score.best += [max(inside)] if inside else []
    for row, strength in zip(right, frame.detections[:, 2].tolist(), strict=True):
        score.false_components += not any(row)
        score.scores.append((strength, any(row)))


def _targets_of(boxes: Sequence[Box], targets: list[_Followed]) -> list[_Followed]:
    """Return the target of each box, the nearest of those known; a box too many is a new one, added to ``targets``."""
    places, known = np.array([b.centre for b in boxes]), np.array([t.place for t in targets])
    distance = np.linalg.norm(places.reshape(-1, 1, 2) - known.reshape(1, -1, 2), axis=2)
    found = {int(row): targets[column] for row, column in zip(*linear_sum_assignment(distance), strict=True)}
    for row, box in enumerate(boxes):
        if row not in found:
            found[row] = _Followed(box.centre)
            targets.append(found[row])
    return [found[row] for row in range(len(boxes))]


@dataclass
class _Followed:
    """A labelled target: where it was last, which track it had last, and whether it had one in the frame before."""

    place: tuple[float, float]
    id: int | None = None
    had: bool = False

    def follow(self, score: ClipScore, box: Box, tracks: Sequence[TrackPoint]) -> bool:
        """Find the box's track, its last one before any other, then the nearest; tell whether there is one."""
        x, y = self.place = box.centre
        near = [
            (t.id != self.id, float(np.hypot(t.x - x, t.y - y)), t.id) for t in tracks if box.holds(t.x, t.y, GROWN)
        ]
        if not near:
            self.had = False
            return False
        _, distance, key = min(near)
        score.tracked += 1
        score.error += distance
        if self.id is not None:
            score.switches += key != self.id
            score.fragments += not self.had
        self.id, self.had = key, True
        return True


def precision_recall(score: ClipScore) -> NDArray[np.float64]:
    """Return precision against recall of the detections as the least score rises.

    Returns:
        float64 ``[n, 3]``: score, precision (detections in a box over all), recall (labelled boxes with a
        detection over all), by falling score.
    """
    if not score.scores or not score.labelled:
        return np.zeros((0, 3))
    strengths, right = (np.array(column, np.float64) for column in zip(*score.scores, strict=True))
    order = np.argsort(-strengths, kind="stable")
    strengths, right = strengths[order], right[order]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    recall = np.searchsorted(-np.sort(score.best)[::-1], -strengths, side="right") / score.labelled
    return np.stack([strengths, precision, recall], 1)
