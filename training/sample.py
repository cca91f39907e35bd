"""A frame and its truth, and the error that every reader of data raises."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from training.paste import Cutout, cut_targets

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, pixels; right and bottom lie outside."""


class DataError(ValueError):
    """A data set that cannot be used; the message names the file and says what would be right."""


@dataclass(frozen=True)
class Sample:
    """One frame and its truth.

    Attributes:
        name: the file's stem.
        frame: ``[height, width]`` uint8.
        mask: ``[height, width]`` bool, True on targets.
        boxes: where the truth is unknown, whatever the mask says there: a loose box around a target.
    """

    name: str
    frame: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    boxes: tuple[Box, ...] = ()

    @cached_property
    def pixels(self) -> NDArray[np.intp]:
        """The target's pixels, counted along the rows; looked for once, since large frames take a millisecond."""
        return np.flatnonzero(self.mask)

    @cached_property
    def targets(self) -> tuple[Cutout, ...]:
        """The targets that can be pasted into other frames."""
        return cut_targets(self.frame, self.mask) if self.pixels.size else ()

    @cached_property
    def free(self) -> list[Box]:
        """The largest parts that touch no box; they overlap."""
        height, width = self.frame.shape
        parts: list[Box] = [(0, 0, width, height)]
        for box in self.boxes:
            parts = [smaller for part in parts for smaller in _beside(part, box)]
        return parts

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where the truth is known, ``[height, width]`` bool."""
        known = np.ones(self.frame.shape, np.bool_)
        for left, top, right, bottom in self.boxes:
            known[top:bottom, left:right] = False
        return known


def _beside(part: Box, box: Box) -> list[Box]:
    """Return what is left of a part above, below and on both sides of a box."""
    left, top, right, bottom = part
    if box[0] >= right or box[2] <= left or box[1] >= bottom or box[3] <= top:
        return [part]
    sides = [(left, top, box[0], bottom), (box[2], top, right, bottom)]
    sides += [(left, top, right, box[1]), (left, box[3], right, bottom)]
    return [(a, b, c, d) for a, b, c, d in sides if c > a and d > b]


def part_of(name: str, parts: int) -> int:
    """Tell which of ``parts`` parts a frame belongs to, for ever, by the CRC-32 of its name."""
    return zlib.crc32(name.encode()) % parts
