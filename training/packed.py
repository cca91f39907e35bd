"""Packed splits: a few zip files in place of thousands of images, to be copied to a machine and read at once.

A split is ``<split>-000.zip``, ``<split>-001.zip`` and so on, each of at most 60 MiB and readable by anything that
reads zip and PNG:

- ``index.json``: ``format`` ("irstream.packed/1"), ``part`` and ``parts``, ``every`` (of a clip's frames, those whose
  number is a multiple of it are there; 1 for images), ``clips`` (the names of those packed; none for images),
  ``all_clips`` (whether they are all of the set), and ``frames``: for each its ``name``, and its ``boxes`` of unknown
  truth, ``[left, top, right, bottom]``.
- ``frames/<n>.png``: frame n of that list, 8-bit gray. ``masks/<n>.png``: its mask, one bit a pixel; a frame without a
  target has none.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.sample import DataError, Sample

FORMAT = "irstream.packed/1"
LARGEST = 60 << 20  # bytes a file
ENTRY = 400  # bytes that an image takes in a zip beside its own, and in the index, at the most
LEVEL = [cv2.IMWRITE_PNG_COMPRESSION, 6]
BITS = [cv2.IMWRITE_PNG_BILEVEL, 1]


@dataclass(frozen=True)
class Packed:
    """A packed split.

    Attributes:
        samples: in their order.
        every: of a clip's frames, those whose number is a multiple of it are there.
        clips: the names of the clips that were packed.
        all_clips: whether they are all of the set; a pack of before this was written says no.
    """

    samples: list[Sample]
    every: int = 1
    clips: Sequence[str] = ()
    all_clips: bool = False


def packed_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a packed split, none if there is none."""
    return sorted(folder.glob(f"{split}-[0-9][0-9][0-9].zip"))


def write_packed(folder: Path, split: str, packed: Packed, largest: int = LARGEST) -> list[Path]:
    """Write a split, its samples exactly as they are, and return the files.

    Args:
        folder: is made.
        split: names the files; older files of that name are removed.
        packed: what is written.
        largest: bytes a file may have, unless a single frame has more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in packed_files(folder, split):
        old.unlink()
    parts: list[list[tuple[Sample, bytes, bytes]]] = []
    room = 0
    for sample in packed.samples:
        frame = _png(sample.frame, LEVEL)
        mask = _png(sample.mask.view(np.uint8) * np.uint8(255), BITS) if sample.pixels.size else b""
        need = len(frame) + len(mask) + 2 * ENTRY + 32 * len(sample.boxes)
        if need > room or not parts:
            parts.append([])
            room = largest - ENTRY
        room -= need
        parts[-1].append((sample, frame, mask))
    paths = [folder / f"{split}-{index:03}.zip" for index in range(len(parts))]
    for index, (path, part) in enumerate(zip(paths, parts, strict=True)):
        frames = [{"name": sample.name, "boxes": sample.boxes} for sample, _, _ in part]
        about = {
            "format": FORMAT,
            "part": index,
            "parts": len(parts),
            "every": packed.every,
            "clips": list(packed.clips),
            "all_clips": packed.all_clips,
            "frames": frames,
        }
        with zipfile.ZipFile(path, "w") as file:
            _put(file, "index.json", json.dumps(about).encode())
            for number, (_, frame, mask) in enumerate(part):
                _put(file, f"frames/{number}.png", frame)
                if mask:
                    _put(file, f"masks/{number}.png", mask)
    return paths


def _put(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Write an entry without the time of day, so that the same samples give the same bytes."""
    file.writestr(zipfile.ZipInfo(name), content)


def _png(image: NDArray[np.uint8], how: list[int]) -> bytes:
    done, content = cv2.imencode(".png", image, how)
    if not done:
        raise ValueError(f"an image of {image.shape} cannot be written as PNG")
    return bytes(content.tobytes())


def read_packed(folder: Path, split: str) -> Packed:
    """Read a packed split.

    Raises:
        DataError: on a file that is missing, damaged or of another format.
    """
    samples: list[Sample] = []
    every, all_clips = 1, False
    clips: tuple[str, ...] = ()
    paths = packed_files(folder, split)
    for number, path in enumerate(paths):
        try:
            with zipfile.ZipFile(path) as file:
                about = json.loads(file.read("index.json"))
                if about.get("format") != FORMAT:
                    raise DataError(f"{path}: packed as {about.get('format')!r}; {FORMAT!r} is read")
                if (about["part"], about["parts"]) != (number, len(paths)):
                    raise DataError(f"{path}: part {about['part'] + 1} of {about['parts']}; {len(paths)} are there")
                every, clips = int(about["every"]), tuple(map(str, about.get("clips", ())))
                all_clips = bool(about.get("all_clips", False))
                names = set(file.namelist())
                samples += [_sample(file, names, index, row) for index, row in enumerate(about["frames"])]
        except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError, cv2.error) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: not a readable packed split ({' '.join(str(error).split())})") from None
    return Packed(samples, every, clips, all_clips)


def _sample(file: zipfile.ZipFile, names: set[str], index: int, row: dict[str, Any]) -> Sample:
    frame = _image(file, f"frames/{index}.png")
    mask = np.zeros(frame.shape, np.bool_)
    if (name := f"masks/{index}.png") in names:
        mask = _image(file, name) > 0
    if mask.shape != frame.shape:
        raise ValueError(f"the mask of {row['name']} has another size than its frame")
    return Sample(row["name"], frame, mask, tuple((a, b, c, d) for a, b, c, d in row["boxes"]))


def _image(file: zipfile.ZipFile, name: str) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(file.read(name), np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{name} is no image")
    return np.asarray(image, np.uint8)
