"""Targets cut from one frame and laid into another."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

MARGIN = 4
"""Pixels around a target that its cutout holds: what surrounds it is measured there, and its halo ends there."""
LARGEST_AREA = 400
FAINTEST = 10.0
"""A target is this many grey levels above its surroundings in the mean of its pixels, cut or pasted; a fainter one
would be a label that nobody can see."""
LEAST_CONTRAST = 2.0
"""And this many standard deviations of them."""
TRIES = 8


@dataclass(frozen=True)
class Cutout:
    """A target without its background.

    Attributes:
        excess: grey levels above its surroundings, float32 ``[height, width]``, 0 along its edges.
        mask: bool of that shape.
        contrast: the mean excess of the mask's pixels.
    """

    excess: NDArray[np.float32]
    mask: NDArray[np.bool_]
    contrast: float


def cut_targets(frame: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[Cutout, ...]:
    """Cut the targets that stand clear of the frame's edge and out of a smooth background.

    Args:
        frame: ``[height, width]``.
        mask: of that shape, True on targets.
    """
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    cutouts = []
    for index in range(1, count):
        left, top, wide, high, area = boxes[index].tolist()
        rows, columns = slice(top - MARGIN, top + high + MARGIN), slice(left - MARGIN, left + wide + MARGIN)
        inside = min(rows.start, columns.start) >= 0 and rows.stop <= mask.shape[0] and columns.stop <= mask.shape[1]
        if not inside or area > LARGEST_AREA:
            continue
        mine = labels[rows, columns] == index
        cutout = _cut(frame[rows, columns].astype(np.float32), mine, mask[rows, columns])
        if cutout:
            cutouts.append(cutout)
    return tuple(cutouts)


def _cut(patch: NDArray[np.float32], mine: NDArray[np.bool_], targets: NDArray[np.bool_]) -> Cutout | None:
    around = ~cv2.dilate(targets.view(np.uint8), np.ones((5, 5), np.uint8)).view(np.bool_)
    if around.sum() < 12:
        return None
    rows, columns = np.indices(patch.shape, np.float32)
    plane = np.stack([np.ones_like(patch), rows, columns], -1)
    fit = np.linalg.lstsq(plane[around], patch[around], rcond=None)[0]
    excess = patch - plane @ fit
    contrast = float(excess[mine].mean())
    if contrast < max(FAINTEST, LEAST_CONTRAST * float(excess[around].std())):
        return None  # its surroundings are not smooth: they would be cut out with it
    # Optics spread a target beyond its mask: the halo comes along, the noise further out does not.
    halo = cv2.dilate(mine.astype(np.float32), np.ones((3, 3), np.uint8))
    share = np.where(mine, np.float32(1), cv2.GaussianBlur(halo, (5, 5), 0.8))
    share[targets & ~mine] = 0
    return Cutout((excess * share).astype(np.float32), mine, contrast)


def paste_target(
    frame: NDArray[np.uint8], mask: NDArray[np.bool_], cutout: Cutout, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Lay a target somewhere in a frame, turned and brightened by chance; its excess is added to what is there.

    It stays two pixels clear of other targets and bright enough to be seen; where eight places offer
    neither, the frame is returned as it is.

    Returns:
        New arrays, or the ones given.
    """
    excess, shape = _turned(cutout.excess, cutout.mask, int(rng.integers(8)))
    high, wide = shape.shape
    height, width = frame.shape
    if high > height or wide > width:
        return frame, mask
    for _ in range(TRIES):
        top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        brighter = float(rng.uniform(0.6, 1.4))
        if mask[max(top - 2, 0) : top + high + 2, max(left - 2, 0) : left + wide + 2].any():
            continue
        there = frame[top : top + high, left : left + wide].astype(np.float32)
        least = max(FAINTEST, LEAST_CONTRAST * float(there.std()))
        brighter = max(brighter, least / cutout.contrast)
        lit = np.clip(there + brighter * excess, 0, 255)
        if brighter > 3 or (lit - there)[shape].mean() < 0.7 * least:  # out of the frame's range
            continue
        frame, mask = frame.copy(), mask.copy()
        frame[top : top + high, left : left + wide] = np.rint(lit)
        mask[top : top + high, left : left + wide] |= shape
        break
    return frame, mask


def _turned(
    excess: NDArray[np.float32], mask: NDArray[np.bool_], way: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return one of the eight turns and reflections of both."""
    if way & 4:
        excess, mask = excess.T, mask.T
    down, right = 1 - (way & 2), 1 - 2 * (way & 1)
    return excess[::down, ::right], mask[::down, ::right]
