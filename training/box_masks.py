"""Masks of targets that are labelled by loose boxes alone, where the frame leaves no doubt about them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

RING = 8  # px around a box: what the target stands out from
FAINTEST = 12.0  # grey levels above it
LEAST_CONTRAST = 4.0  # and standard deviations of it
LEAST_AREA = 3
FULLEST = 0.7  # of the box: a target that fills it is not separated from its background


def mask_in_box(frame: NDArray[np.uint8], box: tuple[float, ...]) -> NDArray[np.bool_] | None:
    """Return the pixels of the bright target in a box: those above half its peak, joined to it.

    Args:
        frame: ``[height, width]``.
        box: x, y, width, height, pixels.

    Returns:
        Bool ``[height, width]``, or None where no target stands clearly out of what is around the box.
    """
    height, width = frame.shape
    x, y, w, h = box
    left, top = max(0, int(x) - 1), max(0, int(y) - 1)
    right, bottom = min(width, int(np.ceil(x + w)) + 1), min(height, int(np.ceil(y + h)) + 1)
    if right - left < 3 or bottom - top < 3:
        return None
    outer = slice(max(0, top - RING), bottom + RING), slice(max(0, left - RING), right + RING)
    around = np.ones(frame.shape, np.bool_)
    around[top:bottom, left:right] = False
    ring = frame[outer][around[outer]].astype(np.float32)
    level = float(np.median(ring))
    spread = 1.4826 * float(np.median(np.abs(ring - level)))
    inside = cv2.GaussianBlur(frame[top:bottom, left:right], (3, 3), 0.6).astype(np.float32) - level
    peak = float(inside.max())
    if peak < max(FAINTEST, LEAST_CONTRAST * spread):
        return None
    _, labels = cv2.connectedComponents((inside > peak / 2).astype(np.uint8), connectivity=8)
    mine = labels == labels.ravel()[int(inside.argmax())]
    if not LEAST_AREA <= mine.sum() <= FULLEST * mine.size:
        return None
    mask = np.zeros(frame.shape, np.bool_)
    mask[top:bottom, left:right] = mine
    return mask
