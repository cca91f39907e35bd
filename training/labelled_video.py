"""Labelled video: ``clips.csv`` lists the clips; ``NAME.csv`` has the boxes of ``NAME.mp4``, ``frame,x,y,w,h``."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from training.sample import DataError

LISTING = "clips.csv"
COLUMNS = ("frame", "x", "y", "w", "h")

LooseBox = tuple[float, float, float, float]
"""x, y, width, height in pixels; a target lies somewhere in it."""


@dataclass(frozen=True)
class Clip:
    """One labelled clip.

    Attributes:
        name: the video's stem.
        path: the video.
        boxes: the boxes of each labelled frame.
    """

    name: str
    path: Path
    boxes: dict[int, list[LooseBox]]


def clip_names(folder: Path) -> list[str]:
    """Return the names that a folder's ``clips.csv`` lists.

    Raises:
        DataError: if there is no such file, or it names none.
    """
    listing = folder / LISTING
    if not listing.is_file():
        raise DataError(f"{listing}: no such file; labelled video is a folder with {LISTING}, NAME.mp4 and NAME.csv")
    names = [row["clip"] for _, row in _rows(listing, ("clip",))]
    if not names:
        raise DataError(f"{listing}: names no clip")
    return names


def read_clips(folder: Path, names: list[str] | None = None) -> list[Clip]:
    """Read a folder's labels.

    Args:
        folder: the folder.
        names: the clips to read; None means all, in their order in ``clips.csv``.

    Raises:
        DataError: naming the file that is missing or wrong.
    """
    known = clip_names(folder)
    if unknown := [name for name in names or () if name not in known]:
        raise DataError(f"{folder / LISTING}: no clip {unknown[0]!r} in it; it has {', '.join(known[:3])} ...")
    return [_read_clip(folder, name) for name in (known if names is None else names)]


def _read_clip(folder: Path, name: str) -> Clip:
    path = folder / f"{name}.mp4"
    if not path.is_file():
        raise DataError(f"{path}: no such file, though {folder / LISTING} lists it")
    boxes: dict[int, list[LooseBox]] = {}
    labels = path.with_suffix(".csv")
    for line, row in _rows(labels, COLUMNS):
        try:
            number, box = int(row["frame"]), (float(row["x"]), float(row["y"]), float(row["w"]), float(row["h"]))
        except (TypeError, ValueError):
            raise DataError(f"{labels}: line {line} is not a frame's number and a box of four numbers") from None
        if number < 0 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
            raise DataError(
                f"{labels}: line {line}: a frame is 0 or more, and a box finite, its w and h greater than 0"
            )
        boxes.setdefault(number, []).append(box)
    return Clip(name, path, boxes)


def _rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV with the numbers of their lines."""
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error):
        raise DataError(f"{path}: not a readable CSV; it has the columns {','.join(columns)}") from None
    if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise DataError(f"{path}: no column {missing[0]!r}; it has the columns {','.join(columns)}")
    return rows


def frames_of(clip: Clip, every: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the number and the pixels, ``[height, width]`` gray over the full range, of every ``every``-th frame.

    Raises:
        DataError: if the clip cannot be decoded, ends before its last box, or has a box beside one of these frames.
    """
    number = -1
    try:
        with av.open(str(clip.path)) as container:
            if not container.streams.video:
                raise DataError(f"{clip.path}: no video in it")
            for number, frame in enumerate(container.decode(video=0)):
                if number % every == 0:
                    _check_boxes(clip, number, frame.width, frame.height)
                    yield number, np.ascontiguousarray(frame.to_ndarray(format="gray"), np.uint8)
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{clip.path}: not a video that can be decoded ({error.strerror})") from None
    if number < (last := max(clip.boxes, default=-1)):
        raise DataError(f"{clip.path}: {number + 1} frames, and {clip.name}.csv has a box for frame {last}")


def _check_boxes(clip: Clip, number: int, width: int, height: int) -> None:
    """Refuse a box that lies wholly beside its frame: its target would silently count as background."""
    for x, y, w, h in clip.boxes.get(number, ()):
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            labels = clip.path.with_suffix(".csv")
            raise DataError(
                f"{labels}: frame {number}: its box at {x:g},{y:g} lies outside the video's {width}x{height}"
            )
