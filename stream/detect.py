"""Target maps in, detections out.

A detection is a connected component (8-connectivity) of the map's pixels above a low threshold that
holds one at or above a high threshold (hysteresis, Canny 1986), cut in two where two targets touch.
Everything after the labelling works on the few pixels that are lit, so that the time goes with
what is in the map and not with its size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stream.sources.base import Pixels

LABELS_16_BIT = 65_535  # more components than this need 32 bits
SPLIT_FROM = 6  # pixels: a smaller component shows no two peaks with a valley between
SPLIT_SAMPLES = 16  # along the line between two peaks
RING_STEPS = 11  # a surround is sampled on a grid of this many by as many pixels
RING_MIN = 8  # samples, fewer say nothing of the surround's spread
QUANTISATION = 12**-0.5  # grey levels: the spread that rounding alone gives a surround
SCR_HALF = 2.0  # the signal-to-clutter ratio that halves a score

FORGET = 0.98  # a frame
SETTLING_FRAMES = 10.0  # counted as free of false alarms before the first
SCORE_BINS = 256

AROUND = 2  # rows: a blur of three and the largest of three reach so far
KERNEL = np.ones((3, 3), np.uint8)

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
        frame: uint8 or uint16 ``[height, width]``, the frame that the map is of.
        config: thresholds and limits.
        threshold: the model's own, used where ``config.high`` is None.

    Returns:
        In no particular order, the same for the same input.
    """
    height, width = targets.shape
    high = config.high if config.high is not None else threshold
    high_level = max(1, round(255 * high))
    low_level = min(int(255 * config.low), high_level - 1)
    strip = _strip(targets, low_level)
    lit = strip.targets > low_level
    at = np.flatnonzero(lit)
    if not len(at):
        return no_detections(width, height)
    label, left_out = _label(strip, lit, at, high_level, config)
    kept = label >= 0
    at, label = at[kept], label[kept]
    if not len(at):
        return no_detections(width, height)
    level = strip.targets.ravel()[at]
    if config.split_peaks:
        label = _split(strip.targets, at, label, high_level, config.split_depth)

    n = int(label.max()) + 1
    row, column = np.divmod(at, width)
    row = strip.rows[row]
    area = np.bincount(label, minlength=n).astype(np.float64)
    mass = np.bincount(label, level, n)
    x = np.bincount(label, level * column, n) / mass
    y = np.bincount(label, level * row, n) / mass
    peak = np.zeros(n, np.uint8)
    np.maximum.at(peak, label, level)
    signal = np.bincount(label, frame.ravel()[row * width + column], n) / area

    inside = _inside(x, y, targets.shape, config.border)
    good = np.flatnonzero(inside & (peak >= high_level) & (area >= config.min_area))
    good, more = _strongest(good, peak, mass, config.max_detections)
    x, y, area = x[good], y[good], area[good]
    mean, spread = _surround(frame, strip, lit, x, y, area)
    scr = np.nan_to_num(np.abs(signal[good] - mean) / np.maximum(spread, QUANTISATION))
    score = mass[good] / (255 * area) * (scr / (scr + SCR_HALF))
    return Detections(x, y, area, peak[good] / 255, score, scr, width, height, left_out + more)


@dataclass(frozen=True, eq=False)
class _Strip:
    """The rows of a target map that hold something, and two on either side: most of a map is dark.

    Rows that are neighbours here but not in the map are dark ones, so that components, and what is
    within two rows of a lit pixel, are as in the map.

    Attributes:
        targets: uint8 ``[len(rows), width]``.
        rows: which they are in the map, rising.
        height: of the map.
    """

    targets: Bytes
    rows: Ints
    height: int


def _strip(targets: Bytes, low_level: int) -> _Strip:
    height = len(targets)
    lit = np.zeros(height + 2 * AROUND, np.bool_)
    lit[AROUND : height + AROUND] = targets.max(1) > low_level
    near = lit[:height].copy()
    for shift in range(1, 2 * AROUND + 1):
        near |= lit[shift : height + shift]
    rows = np.flatnonzero(near)
    return _Strip(targets if len(rows) == height else targets[rows], rows, height)


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


def _label(strip: _Strip, lit: NDArray[np.bool_], at: Ints, high_level: int, config: DetectConfig) -> tuple[Ints, int]:
    """Return the component of each lit pixel, from 0, -1 for those that are none, and how many were left out."""
    kind = cv2.CV_16U if len(at) <= LABELS_16_BIT else cv2.CV_32S
    count, labels = cv2.connectedComponentsWithAlgorithm(lit.view(np.uint8), 8, kind, cv2.CCL_DEFAULT)
    label = labels.ravel()[at].astype(np.intp)
    level = strip.targets.ravel()[at]
    area = np.bincount(label, minlength=count)
    peak = np.zeros(count, np.uint8)
    np.maximum.at(peak, label, level)
    good = np.flatnonzero((peak >= high_level) & (area >= config.min_area) & (area <= config.max_area))
    left_out = 0
    if len(good) > config.max_detections:  # a flood: rank now, so that only the strongest cost more
        width = strip.targets.shape[1]
        row, column = np.divmod(at, width)
        x, y = (np.bincount(label, along, count)[good] / area[good] for along in (column, strip.rows[row]))
        good = good[_inside(x, y, (strip.height, width), config.border)]
        good, left_out = _strongest(good, peak, np.bincount(label, level, count), config.max_detections)
    number = np.full(count, -1, np.intp)
    number[good] = np.arange(len(good))
    return number[label], left_out


def _inside(x: Floats, y: Floats, shape: tuple[int, ...], border: int) -> NDArray[np.bool_]:
    edge = border - 0.5
    return (x >= edge) & (y >= edge) & (x <= shape[1] - 1 - edge) & (y <= shape[0] - 1 - edge)


def _strongest(good: Ints, peak: Bytes, mass: NDArray[np.number[Any]], limit: int) -> tuple[Ints, int]:
    """Return the ``limit`` of ``good`` with the highest peak, then the greatest mass, and how many are left out."""
    if len(good) <= limit:
        return good, 0
    order = np.lexsort((-mass[good], 255 - peak[good]))[:limit]
    return np.sort(good[order]), len(good) - limit


def _split(targets: Bytes, at: Ints, label: Ints, high_level: int, depth: float) -> Ints:
    """Give the pixels of components with several peaks to the nearest of them; returns labels from 0."""
    area = np.bincount(label)
    if area.max() < SPLIT_FROM:
        return label
    smooth: Bytes = np.asarray(cv2.GaussianBlur(targets, (3, 3), 0), np.uint8)
    height = smooth.ravel()[at]
    is_peak = (
        (height == cv2.dilate(smooth, KERNEL).ravel()[at])
        & (targets.ravel()[at] >= high_level)
        & (area[label] >= SPLIT_FROM)
    )
    peaks = np.bincount(label[is_peak], minlength=len(area))
    label = label.copy()
    fresh = len(area)
    width = targets.shape[1]
    for component in np.flatnonzero(peaks > 1):
        candidates = at[is_peak & (label == component)]
        seeds = _separate_peaks(smooth, candidates, depth)
        if len(seeds) == 1:
            continue
        mine = np.flatnonzero(label == component)
        row, column = np.divmod(at[mine], width)
        seed_row, seed_column = np.divmod(seeds, width)
        distance = (row[:, None] - seed_row) ** 2 + (column[:, None] - seed_column) ** 2
        nearest = distance.argmin(1)
        label[mine] = np.where(nearest == 0, component, fresh + nearest - 1)
        fresh += len(seeds) - 1
    return label


def _separate_peaks(smooth: Bytes, candidates: Ints, depth: float) -> Ints:
    """Return those peaks, highest first, between which the map falls by ``depth`` on the straight line."""
    width = smooth.shape[1]
    flat = smooth.ravel()
    left = candidates[np.argsort(-flat[candidates].astype(np.int64), kind="stable")]
    share = np.linspace(0, 1, SPLIT_SAMPLES)
    seeds = []
    while len(left):
        seeds.append(left[0])
        row, column = np.divmod(left, width)
        rows = np.rint(row[0] + share * (row - row[0])[:, None]).astype(np.intp)
        columns = np.rint(column[0] + share * (column - column[0])[:, None]).astype(np.intp)
        valley = flat[rows * width + columns].min(1)
        left = left[valley < (1 - depth) * flat[left]]
    return np.array(seeds)


def _surround(
    frame: Pixels, strip: _Strip, lit: NDArray[np.bool_], x: Floats, y: Floats, area: Floats
) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of the unlit pixels around each detection; NaN where too few are seen."""
    height, width = frame.shape
    reach = np.ceil(2 * np.sqrt(area / np.pi)) + 4
    offset = np.rint(np.linspace(-1, 1, RING_STEPS) * reach[:, None])
    columns = (np.rint(x)[:, None] + offset).astype(np.intp)  # [n, steps]
    rows = (np.rint(y)[:, None] + offset).astype(np.intp)
    in_rows = (rows >= 0) & (rows < height)
    in_columns = (columns >= 0) & (columns < width)
    rows, columns = np.minimum(np.maximum(rows, 0), height - 1), np.minimum(np.maximum(columns, 0), width - 1)
    spread = np.zeros((len(lit) + 1, width), np.uint8)  # the last row: all those that the strip leaves out
    spread[:-1] = cv2.dilate(lit.view(np.uint8), KERNEL)  # a target's blur lights more than its component
    here = np.full(height, len(lit), np.intp)
    here[strip.rows] = np.arange(len(lit))
    at = columns[:, None, :]
    dark = spread.ravel()[(here[rows] * width)[:, :, None] + at] == 0  # [n, steps, steps]
    use = (in_rows[:, :, None] & in_columns[:, None, :] & dark).astype(np.float64)
    values = frame.ravel()[(rows * width)[:, :, None] + at].astype(np.float64)
    count = use.sum((1, 2))
    some = np.maximum(count, 1)
    mean = np.einsum("nij,nij->n", values, use) / some
    values -= mean[:, None, None]
    values *= use
    variance = np.einsum("nij,nij->n", values, values) / some
    enough = count >= RING_MIN
    return np.where(enough, mean, np.nan), np.where(enough, np.sqrt(variance), np.nan)
