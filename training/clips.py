"""How a network does on labelled video, frame by frame and without tracking."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.labelled_video import LooseBox

BORDER_PX = 8  # a network's zero padding makes false targets there


@dataclass
class ClipTally:
    """Running sums over frames; ``report()`` turns them into figures.

    A labelled frame counts as found if a component's centroid lies in a box. The components whose
    centroids lie in no box are the others; one whose centroid is within ``BORDER_PX`` of the frame's
    edge counts as the border's as well.
    """

    frames: int = 0
    labelled: int = 0
    found: int = 0
    others: int = 0
    border: int = 0

    def add(self, found: NDArray[np.bool_], boxes: list[LooseBox]) -> None:
        """Count one frame: what was found, ``[height, width]``, and the boxes, in its pixels."""
        _, _, _, centres = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
        x, y = centres[1:].T
        inside = np.zeros(len(x), bool)
        for left, top, width, height in boxes:
            inside |= (left <= x) & (x <= left + width) & (top <= y) & (y <= top + height)
        h, w = found.shape
        edge = np.minimum.reduce([x, y, w - 1 - x, h - 1 - y])
        self.frames += 1
        self.labelled += bool(boxes)
        self.found += bool(inside.any())
        self.others += int((~inside).sum())
        self.border += int((edge[~inside] < BORDER_PX).sum())

    def merge(self, other: ClipTally) -> None:
        """Add another tally's frames to this one's."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def report(self) -> dict[str, Any]:
        """Return the share of labelled frames in which the target was found, None of none, and components a frame."""
        return {
            "found": self.found / self.labelled if self.labelled else None,
            "other_components_per_frame": self.others / max(self.frames, 1),
            "border_components_per_frame": self.border / max(self.frames, 1),
            "frames": self.frames,
        }
