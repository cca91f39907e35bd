"""Measuring a network on frames with masks and on video with boxes; ``training.evaluate`` is its command."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from training.clips import ClipTally
from training.data import Sample
from training.finder import Finder
from training.labelled_video import Clip, frames_of
from training.metrics import Tally
from training.noise import Noise, add_noise
from training.roc import Roc

GALLERY_FRAMES = 12
OF_TARGETS = ("iou", "niou", "f1", "precision", "recall", "pd", "pd_centroid")

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Judged:
    """A frame and what a network found in it.

    Attributes:
        label: what the picture calls it.
        sample: the frame and its truth.
        found: ``[height, width]`` bool.
        tally: of this frame alone.
    """

    label: str
    sample: Sample
    found: NDArray[np.bool_]
    tally: Tally

    @property
    def iou(self) -> float:
        """The frame's IoU; 1 where nothing is and nothing was found."""
        return self.tally.ious[0] if self.tally.ious else 1.0

    def badness(self) -> tuple[float, int]:
        """Return what sorts the worst frames first: IoU, then wrong pixels, most of them first."""
        return self.iou, -(self.tally.false_pixels + self.tally.missed_pixels)


@dataclass
class Gathered:
    """What else is gathered while the frames go by.

    Attributes:
        roc: counts the frames' logits; None for no curve.
        label: what stands before a frame's name in the gallery.
        worst: the worst frames so far, at most ``GALLERY_FRAMES``.
    """

    roc: Roc | None = None
    label: str = ""
    worst: list[Judged] = field(default_factory=list)

    def add(self, sample: Sample, scores: NDArray[np.float32], found: NDArray[np.bool_], tally: Tally) -> None:
        """Take what it wants of one frame."""
        if self.roc:
            self.roc.add(scores, sample.mask)
        self.worst = worst_of([*self.worst, Judged(f"{self.label}{sample.name}", sample, found, tally)])


def worst_of(judged: Iterable[Judged]) -> list[Judged]:
    """Return the worst frames, the worst first, without those that are without fault."""
    return sorted((each for each in judged if each.iou < 1), key=Judged.badness)[:GALLERY_FRAMES]


def evaluate(
    finder: Finder, samples: list[Sample], say: str, noise: Noise | None = None, gathered: Gathered | None = None
) -> tuple[Tally, list[dict[str, Any]]]:
    """Measure a finder on whole frames.

    Args:
        finder: the finder.
        samples: the frames with their truth.
        say: what the progress bar, on stderr, is called.
        noise: put on every frame first.
        gathered: takes what else is wanted of every frame.

    Returns:
        The sums over all frames, and a row of figures for each.
    """
    total, rows = Tally(), []
    for sample in track(samples, say, console=Console(stderr=True), transient=True):
        scores = finder.score(add_noise(sample.frame, noise, sample.name) if noise else sample.frame)
        found, one = scores > finder.cut, Tally()
        one.add(found, sample.mask)
        total.merge(one)
        if gathered:
            gathered.add(sample, scores, found, one)
        rows.append(
            {
                "frame": sample.name,
                "iou": f"{one.ious[0]:.6f}" if one.ious else "",  # nothing there and nothing found
                "true_pixels": one.true_pixels,
                "false_pixels": one.false_pixels,
                "missed_pixels": one.missed_pixels,
                "targets": one.targets,
                "found_by_overlap": one.found_by_overlap,
                "found_by_centroid": one.found_by_centroid,
                "false_components": one.unmatched_components,
            }
        )
    return total, rows


def figures_of(total: Tally, frames: int, parameters: int) -> dict[str, Any]:
    """Return the figures that ``--json`` writes for a data set, shares as shares of 1.

    The false components per target-free frame are None where every frame has a target, and what says how well
    targets are found is None where none has.
    """
    figures: dict[str, Any] = total.report()
    if not total.targets:
        figures.update(dict.fromkeys(OF_TARGETS))
    false_components = figures.pop("false_components")
    free = total.target_free_frames
    return {
        **figures,
        "false_components_per_frame": false_components / frames,
        "false_components_per_target_free_frame": total.target_free_components / free if free else None,
        "target_free_frames": free,
        "params": parameters,
        "frames": frames,
    }


def evaluate_clip(finder: Finder, clip: Clip, every: int, size: Size | None) -> ClipTally:
    """Measure a finder on every ``every``-th frame of a clip, resized if ``size`` is given."""
    total = ClipTally()
    say = f"{finder.name} {clip.name}"
    for number, frame in track(list(frames_of(clip, every)), say, console=Console(stderr=True), transient=True):
        boxes = clip.boxes.get(number, [])
        if size:
            x, y = size[0] / frame.shape[1], size[1] / frame.shape[0]
            boxes = [(left * x, top * y, width * x, height * y) for left, top, width, height in boxes]
        total.add(finder.find(_scaled(frame, size) if size else frame), boxes)
    return total


def resized(sample: Sample, size: Size) -> Sample:
    """Return a sample at another size, as published code measures: it squeezes every frame to 256x256.

    The frame is averaged over areas where it shrinks and interpolated where it grows. A pixel of the
    mask is target if half of its area was; a target that no pixel is left of keeps the one that it
    covered most, so that what shrinking loses counts as missed and not as never there.
    """
    count, labels = cv2.connectedComponents(sample.mask.astype(np.uint8), connectivity=8)
    mask = _scaled(sample.mask.astype(np.float32), size) >= 0.5
    for target in range(1, count):
        share = _scaled((labels == target).astype(np.float32), size)
        if not (mask & (share > 0)).any():
            mask.ravel()[share.argmax()] = True
    return Sample(sample.name, _scaled(sample.frame, size), mask)


def _scaled(image: NDArray[Any], size: Size) -> NDArray[Any]:
    """Return a one-channel image at another size, each axis averaged where it shrinks."""
    height, width = image.shape
    for goal, shrinks in (((size[0], height), size[0] < width), (size, size[1] < height)):
        image = cv2.resize(image, goal, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return image
