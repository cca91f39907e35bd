"""Labelled video: a folder of clips, each with a CSV of boxes beside it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stream import StreamError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov")


class LabelError(StreamError):
    """Labels that cannot be used; the message names the file and what would be right."""


@dataclass(frozen=True)
class Box:
    """A labelled target in one frame, in pixels from the frame's top left corner; it may be loose."""

    x: float
    y: float
    width: float
    height: float

    def holds(self, x: float, y: float, grown: float = 0.0) -> bool:
        """Tell whether a position, in pixels from the centre of the top left pixel, lies in the grown box."""
        across, down = x + 0.5 - self.x, y + 0.5 - self.y
        return -grown <= across <= self.width + grown and -grown <= down <= self.height + grown

    @property
    def centre(self) -> tuple[float, float]:
        """The middle, in pixels from the centre of the top left pixel."""
        return self.x + self.width / 2 - 0.5, self.y + self.height / 2 - 0.5


@dataclass(frozen=True)
class Clip:
    """A labelled video.

    Attributes:
        name: its file's stem.
        path: of the video.
        boxes: the labelled targets by frame, from 0. A frame that is not there shows none.
    """

    name: str
    path: Path
    boxes: dict[int, list[Box]]


def read_clips(folder: Path, names: list[str] | None = None) -> list[Clip]:
    """Read a folder's clips: every video with a CSV of the same stem, ``frame,x,y,w,h``, beside it.

    Args:
        folder: where they lie.
        names: only these, in this order; None for all, by name.

    Raises:
        LabelError: if there is none, one that is named is missing, or a CSV cannot be read.
    """
    if not folder.is_dir():
        raise LabelError(f"{folder}: no such folder; one with videos and a CSV of boxes beside each is expected")
    there: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            if path.stem in there:
                raise LabelError(f"{path}: {there[path.stem].name} has the same stem; one CSV labels one video")
            there[path.stem] = path
    labelled = [stem for stem in there if (folder / f"{stem}.csv").is_file()]
    for name in names or []:
        if name not in labelled:
            raise LabelError(f"{folder / name}: no video with a CSV of boxes beside it")
    chosen = names or labelled
    if not chosen:
        raise LabelError(f"{folder}: holds no video with a CSV of boxes (frame,x,y,w,h) beside it")
    return [Clip(name, there[name], _read_boxes(folder / f"{name}.csv")) for name in chosen]


def _read_boxes(path: Path) -> dict[int, list[Box]]:
    boxes: dict[int, list[Box]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := [key for key in ("frame", "x", "y", "w", "h") if key not in (reader.fieldnames or ())]:
                raise LabelError(f"{path}: line 1: no {', '.join(missing)}; a header frame,x,y,w,h is expected")
            for line, row in enumerate(reader, 2):
                try:
                    box = Box(*(float(row[key]) for key in ("x", "y", "w", "h")))
                    if not (np.isfinite([box.x, box.y]).all() and 0 < box.width < np.inf and 0 < box.height < np.inf):
                        raise ValueError
                    boxes.setdefault(int(row["frame"]), []).append(box)
                except (KeyError, TypeError, ValueError):
                    said = "frame,x,y,w,h, finite numbers with w and h above 0, are expected"
                    raise LabelError(f"{path}: line {line}: {said}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path}: not readable as CSV ({error})") from None
    return boxes
