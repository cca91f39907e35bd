"""The figures this field reports, gathered frame by frame.

Pd and Fa exist in two protocols that share their names and little else:

* overlap (the RPCANet family): a target counts as found if any predicted pixel lies on it; Fa is
  the false pixels over the background pixels.
* centroid (DNANet, SCTransNet, BasicIRSTD): a target counts as found if a predicted component's
  centroid lies within 3 px of its own; Fa is the area of the unmatched components over all pixels.
  Published code compares areas to tell matched from unmatched components, so that a false alarm
  as large as a matched component disappears (SCTransNet #14, BasicIRSTD #12); here components
  are told apart by identity, and each answers for one target.

Of the papers whose figures stand side by side in tables: RPCANet, RPCANet+ and RPCANet++ report
the overlap protocol (their Fa is 2 to 3 times the other's on the same answers, for it counts the
false pixels at a target's rim too); DNANet, UIU-Net, SCTransNet, MSHNet and what is built on
BasicIRSTD report the centroid protocol. A table that mixes them compares nothing. Both leave open
how often a camera would cry wolf: pixels are counted, not alarms, and almost every test frame
holds a target. Hence the false components a frame, and those a frame without a target.

Other figures are spoilt elsewhere by dividing every answer by its largest value, which makes a
target of the brightest pixel of an empty frame, and by leaving out frames with an empty mask,
where nothing but false alarms can be. Here a frame counts as it is. nIoU alone leaves out a frame
with nothing in it and nothing found, where it is 0 / 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import cv2
import numpy as np
from numpy.typing import NDArray

MATCH_PX = 3.0


@dataclass
class Tally:
    """Running sums over frames; ``report()`` turns them into figures."""

    true_pixels: int = 0
    false_pixels: int = 0
    missed_pixels: int = 0
    background_pixels: int = 0
    pixels: int = 0
    targets: int = 0
    found_by_overlap: int = 0
    found_by_centroid: int = 0
    unmatched_area: int = 0
    unmatched_components: int = 0
    target_free_frames: int = 0
    target_free_components: int = 0
    ious: list[float] = field(default_factory=list)

    def add(self, found: NDArray[np.bool_], mask: NDArray[np.bool_]) -> None:
        """Count one frame: ``found`` and ``mask`` are ``[height, width]`` booleans."""
        true = int((found & mask).sum())
        false = int(found.sum()) - true
        missed = int(mask.sum()) - true
        self.true_pixels += true
        self.false_pixels += false
        self.missed_pixels += missed
        self.background_pixels += mask.size - true - missed
        self.pixels += mask.size
        if true + false + missed:
            self.ious.append(true / (true + false + missed))
        self._count_components(found, mask)

    def merge(self, other: Tally) -> None:
        """Add another tally's frames to this one's."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def _count_components(self, found: NDArray[np.bool_], mask: NDArray[np.bool_]) -> None:
        truths, truth_labels, _, truth_centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        answers, _, stats, centres = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
        self.targets += truths - 1
        self.found_by_overlap += len(np.unique(truth_labels[found & mask]))
        unmatched = set(range(1, answers))
        for truth in range(1, truths):
            distances = np.hypot(*(centres - truth_centres[truth]).T)
            near = unmatched.intersection(np.flatnonzero(distances < MATCH_PX).tolist())
            if near:
                unmatched.remove(min(near))  # the first from above, as published, not the nearest
                self.found_by_centroid += 1
        self.unmatched_components += len(unmatched)
        if truths == 1:
            self.target_free_frames += 1
            self.target_free_components += len(unmatched)
        self.unmatched_area += sum(int(stats[a, cv2.CC_STAT_AREA]) for a in unmatched)

    def report(self) -> dict[str, float]:
        """Return IoU, nIoU, precision, recall, F1, and Pd and Fa in both protocols, as shares of 1.

        A share of nothing is 0. ``false_components`` counts components, over all frames, that
        match no target's centroid.
        """
        t, f, m = self.true_pixels, self.false_pixels, self.missed_pixels
        return {
            "iou": _ratio(t, t + f + m),
            "niou": float(np.mean(self.ious)) if self.ious else 0.0,
            "f1": _ratio(2 * t, 2 * t + f + m),
            "precision": _ratio(t, t + f),
            "recall": _ratio(t, t + m),
            "pd": _ratio(self.found_by_overlap, self.targets),
            "fa": _ratio(f, self.background_pixels),
            "pd_centroid": _ratio(self.found_by_centroid, self.targets),
            "fa_centroid": _ratio(self.unmatched_area, self.pixels),
            "false_components": float(self.unmatched_components),
        }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
