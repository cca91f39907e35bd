"""How a network does on labelled video, frame by frame and without tracking."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from training.finder import EvaluateError

BORDER_PX = 8  # a network's zero padding makes false targets there

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""


@dataclass(frozen=True)
class Clip:
    """One labelled clip.

    Attributes:
        name: the video's stem.
        path: the video.
        boxes: the boxes of each labelled frame, which are loose: a target lies somewhere in one.
    """

    name: str
    path: Path
    boxes: dict[int, list[Box]]


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

    def add(self, found: NDArray[np.bool_], boxes: list[Box]) -> None:
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
        """Return the share of labelled frames in which the target was found, and components a frame."""
        return {
            "found": self.found / max(self.labelled, 1),
            "other_components_per_frame": self.others / max(self.frames, 1),
            "border_components_per_frame": self.border / max(self.frames, 1),
            "frames": self.frames,
        }


def read_clips(folder: Path, names: list[str]) -> list[Clip]:
    """Read a folder's labels: ``clips.csv`` lists the clips, ``NAME.csv`` has the boxes of ``NAME.mp4``.

    Args:
        folder: the folder.
        names: the clips to read; none means all, in their order in ``clips.csv``.

    Raises:
        EvaluateError: naming the file that is missing or wrong.
    """
    listing = folder / "clips.csv"
    if not listing.is_file():
        raise EvaluateError(f"{listing}: no such file; --clips takes a folder with clips.csv, NAME.mp4 and NAME.csv")
    known = [row["clip"] for row in _rows(listing, ("clip",))]
    if unknown := [name for name in names if name not in known]:
        raise EvaluateError(f"--clip {unknown[0]}: not in {listing}, which has {', '.join(known[:3])} ...")
    if not known:
        raise EvaluateError(f"{listing}: names no clip")
    return [_read_clip(folder, name) for name in names or known]


def _read_clip(folder: Path, name: str) -> Clip:
    path = folder / f"{name}.mp4"
    if not path.is_file():
        raise EvaluateError(f"{path}: no such file, though {folder / 'clips.csv'} lists it")
    boxes: dict[int, list[Box]] = {}
    labels = path.with_suffix(".csv")
    for number, row in enumerate(_rows(labels, ("frame", "x", "y", "w", "h")), 2):
        try:
            box = (float(row["x"]), float(row["y"]), float(row["w"]), float(row["h"]))
            boxes.setdefault(int(row["frame"]), []).append(box)
        except (TypeError, ValueError):
            raise EvaluateError(f"{labels}: line {number} is not a frame's number and a box of four numbers") from None
    return Clip(name, path, boxes)


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except FileNotFoundError:
        raise EvaluateError(f"{path}: no such file; it has the columns {','.join(columns)}") from None
    except (UnicodeDecodeError, csv.Error):
        raise EvaluateError(f"{path}: not readable as text; it has the columns {','.join(columns)}") from None
    if missing := set(columns) - set(reader.fieldnames or ()):
        raise EvaluateError(f"{path}: no column {', '.join(sorted(missing))}; it has {','.join(columns)}")
    return rows


def frames_of(clip: Clip, every: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the number and the pixels, ``[height, width]`` gray over the full range, of every ``every``-th frame.

    Raises:
        EvaluateError: if the clip cannot be decoded.
    """
    try:
        with av.open(str(clip.path)) as container:
            if not container.streams.video:
                raise EvaluateError(f"{clip.path}: no video in it")
            for number, frame in enumerate(container.decode(video=0)):
                if number % every == 0:
                    yield number, np.ascontiguousarray(frame.to_ndarray(format="gray"))
    except (av.FFmpegError, OSError) as error:
        raise EvaluateError(f"{clip.path}: not a video that can be decoded ({error.strerror})") from None
