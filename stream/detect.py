"""Target maps in, detections out.

A detection is a connected component (8-connectivity) of the map's pixels above a low threshold that
holds one at or above a high threshold (hysteresis, Canny 1986), cut in two where two targets touch.
``stream/detect_kernels.py`` does it, compiled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stream.sources.base import Pixels

FORGET = 0.98  # a frame
SETTLING_FRAMES = 10.0  # counted as free of false alarms before the first
SCORE_BINS = 256

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bytes = NDArray[np.uint8]


class DetectConfig(BaseModel):
    """How target maps become detections.

    Attributes:
        high: probability that at least one pixel of a detection reaches; None takes the model's own.
        low: probability above which pixels join a detection; at most ``high``.
        border: detections whose centre is closer to the frame's edge than this are left out, pixels
            (zero padding in the network makes false targets there).
        min_area: smallest detection, pixels.
        max_area: largest detection, pixels.
        split_peaks: cut a component that has several peaks, so that targets that touch stay apart.
        split_depth: how far below the lower of two peaks the map must fall between them for a cut,
            as a share of that peak.
        max_detections: of a frame; the strongest are kept and the others counted.
        false_alarms: a frame, at most; a stream that has more needs better scores (``FalseAlarms``).
            None leaves it at the two thresholds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    high: Annotated[float, Field(gt=0, lt=1)] | None = None
    low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    border: Annotated[int, Field(ge=0, le=256)] = 4
    min_area: Annotated[int, Field(ge=1)] = 1
    max_area: Annotated[int, Field(ge=1, le=100_000)] = 2000
    split_peaks: bool = True
    split_depth: Annotated[float, Field(gt=0, lt=1)] = 0.3
    max_detections: Annotated[int, Field(ge=1, le=4096)] = 256
    false_alarms: Annotated[float, Field(gt=0, le=1000)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) must be at most high ({self.high})")
        if self.min_area > self.max_area:
            raise ValueError(f"min_area ({self.min_area}) must be at most max_area ({self.max_area})")
        return self


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one frame, a struct of float64 arrays ``[n]``.

    Attributes:
        x: of the centre, pixels from the centre of the leftmost pixel, weighted by the map.
        y: of the centre, pixels from the centre of the topmost pixel, weighted by the map.
        area: pixels.
        peak: the map's largest probability, in (0, 1].
        score: the map's mean probability, times ``scr / (scr + 2)``; in [0, 1].
        scr: local signal-to-clutter ratio, |mean of the target - mean of its surround| / standard
            deviation of its surround, in the frame; 0 where no surround is to be seen.
        width: of the frame, pixels.
        height: of the frame, pixels.
        left_out: how many more there were than ``max_detections``.
    """

    x: Floats
    y: Floats
    area: Floats
    peak: Floats
    score: Floats
    scr: Floats
    width: int
    height: int
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.x)

    def take(self, which: NDArray[np.bool_]) -> Detections:
        """Return those of a boolean mask ``[n]``."""
        return replace(
            self,
            x=self.x[which],
            y=self.y[which],
            area=self.area[which],
            peak=self.peak[which],
            score=self.score[which],
            scr=self.scr[which],
        )


def no_detections(width: int, height: int) -> Detections:
    """Return the detections of an empty map."""
    none = np.empty(0)
    return Detections(none, none, none, none, none, none, width, height)


def detect(targets: Bytes, frame: Pixels, config: DetectConfig, threshold: float = 0.5) -> Detections:
    """Find the detections of one frame.

    Args:
        targets: uint8 ``[height, width]``, round(255 probability), contiguous.
        frame: uint8 or uint16 ``[height, width]``, the frame that the map is of, contiguous.
        config: thresholds and limits.
        threshold: the model's own, used where ``config.high`` is None.

    Returns:
        In no particular order, the same for the same input.
    """
    from stream.detect_kernels import find  # not before it is needed: Numba takes a while to import

    height, width = targets.shape
    high = max(1, round(255 * (config.high if config.high is not None else threshold)))
    table, left_out = find(
        targets,
        frame,
        min(int(255 * config.low), high - 1),
        high,
        (config.min_area, config.max_area),
        config.border,
        config.max_detections,
        config.split_depth if config.split_peaks else 0.0,
    )
    x, y, area, peak, score, scr = table
    return Detections(x, y, area, peak, score, scr, width, height, left_out)


class FalseAlarms:
    """Holds the false-alarm rate of one stream (CFAR): learns its false scores, asks for better ones.

    What no track claims counts as false, over the last 50 frames or so. A target whose score lies
    among them is lost with them: a rate below the targets' own births blinds more than it helps.

    Attributes:
        threshold: the score that a detection must reach, in [0, 1].
    """

    def __init__(self, rate: float) -> None:
        self.threshold = 0.0
        self._rate = rate
        self._counts = np.zeros(SCORE_BINS)
        self._frames = SETTLING_FRAMES
        self._bins: Ints = np.empty(0, np.intp)
        self._kept: NDArray[np.bool_] = np.empty(0, np.bool_)

    def keep(self, detections: Detections) -> Detections:
        """Return the detections of a frame that reach the threshold."""
        self._bins = (detections.score * (SCORE_BINS - 1)).astype(np.intp)
        self._kept = self._bins >= round(self.threshold * (SCORE_BINS - 1))
        return detections if self._kept.all() else detections.take(self._kept)

    def learn(self, claimed: NDArray[np.bool_]) -> None:
        """Learn from the frame last given: ``claimed``, of those kept, belong to tracks."""
        false = np.ones(len(self._bins), np.bool_)
        false[self._kept] = ~claimed
        self._counts *= FORGET
        self._counts += np.bincount(self._bins[false], minlength=SCORE_BINS)
        self._frames = FORGET * self._frames + 1
        above = np.cumsum(self._counts[::-1])[::-1]
        # The last bin's upper edge is no way out: a flood of perfect scores must leave a score to reach.
        level = int(np.count_nonzero(above > self._rate * self._frames))
        self.threshold = min(level, SCORE_BINS - 1) / (SCORE_BINS - 1)
