"""Readers of data sets: the published folder shapes, and labelled video as target-free background."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.box_masks import mask_in_box
from training.labelled_video import LISTING, Clip, LooseBox, clip_names, frames_of, read_clips
from training.packed import packed_files, read_packed
from training.sample import Box, DataError, Sample

MASK_LEVEL = 127  # above it, a mask's pixel is target
IMAGE_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")  # in capitals too
FOLDERS = (("images", "masks"), ("IRSTD1k_Img", "IRSTD1k_Label"))
ALSO_CALLED = {"train": "trainval"}  # IRSTD-1k and SIRST-Aug call it so
BOX_MARGIN = 4  # pixels that a labelled box is grown by: what spills out of a loose box is no background
VIDEO = "video"  # what the packed frames of clips are called in place of a split


def read_split(folder: Path, split: str) -> list[Sample]:
    """Read the frames of one split of a data set in one of the shapes that the sets are published in.

    - NUDT-SIRST, NUAA-SIRST: ``images/``, ``masks/`` and ``<split>.txt``, one name a line, without a suffix;
      a mask may be called ``<name>_pixels0`` as in NUAA-SIRST; the list may lie in ``img_idx/`` as
      ``<split>_<set>.txt``, or in a folder such as ``50_50/``.
    - IRSTD-1k: ``IRSTD1k_Img/`` and ``IRSTD1k_Label/`` with ``trainval.txt`` and ``test.txt``.
    - SIRST-Aug, and IRSTD-1k as others pack it: ``trainval/images``, ``trainval/masks``, ``test/...``, without a list.
    - Packed by ``training.pack``: ``<split>-000.zip`` and so on.

    Raises:
        DataError: on a missing list, image or mask, or one whose size or kind is wrong.
    """
    if packed_files(folder, split):
        return read_packed(folder, split).samples
    for called in (split, ALSO_CALLED.get(split, split)):
        if (below := folder / called).is_dir():
            return [_read(below, FOLDERS[0], name) for name in _listed(below / FOLDERS[0][0])]
    listing = _listing(folder, split)
    try:
        names = listing.read_text().split()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{listing}: not readable as text; it has one name a line, without a suffix") from None
    if not names:
        raise DataError(f"{listing}: names no frame; it has one name a line, without a suffix")
    pair = FOLDERS[1] if (folder / FOLDERS[1][0]).is_dir() else FOLDERS[0]
    return [_read(folder, pair, _stem(name)) for name in names]


def _listing(folder: Path, split: str) -> Path:
    for called in (split, ALSO_CALLED.get(split, split)):
        places = [folder / f"{called}.txt", *sorted(folder.glob(f"img_idx/{called}_*.txt"))]
        for path in [*places, *sorted(folder.glob(f"*/{called}.txt"))]:
            if path.is_file():
                return path
    said = f"a data set is a folder with images/, masks/ and {split}.txt, or with {split}/images and {split}/masks"
    raise DataError(f"{folder / split}.txt: no such file; {said}")


def _listed(folder: Path) -> list[str]:
    names = sorted(path.stem for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise DataError(f"{folder}: no images in it")
    return names


def _stem(name: str) -> str:
    """Return a name of a list without the suffix that some lists have."""
    return Path(name).stem if Path(name).suffix.lower() in IMAGE_SUFFIXES else name


def _read(folder: Path, pair: tuple[str, str], name: str) -> Sample:
    frame = _gray(_find(folder / pair[0], name))
    mask_path = _find(folder / pair[1], name, f"{name}_pixels0")
    mask = _gray(mask_path)
    if mask.shape != frame.shape:
        (mh, mw), (fh, fw) = mask.shape, frame.shape
        raise DataError(f"{mask_path}: mask of {mw}x{mh} for a frame of {fw}x{fh}; they must agree")
    if mask.any() and mask.max() <= MASK_LEVEL:
        raise DataError(f"{mask_path}: its brightest pixel is {mask.max()}; a mask is 0 and 255")
    if 2 * np.count_nonzero(target := mask > MASK_LEVEL) > target.size:
        raise DataError(f"{mask_path}: more than half of it is target; a mask is 255 on targets, 0 elsewhere")
    return Sample(name, frame, target)


def _find(folder: Path, *names: str) -> Path:
    for name in names:
        for suffix in IMAGE_SUFFIXES:
            for path in (folder / f"{name}{suffix}", folder / f"{name}{suffix.upper()}"):
                if path.is_file():
                    return path
    raise DataError(f"{folder / names[0]}.png: no such image, nor one that ends in {', '.join(IMAGE_SUFFIXES[1:])}")


def _gray(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError(f"{path}: not a readable image")
    if image.dtype != np.uint8:
        raise DataError(f"{path}: {image.dtype} pixels; 8-bit gray is expected")
    if image.ndim == 3:  # gray saved as colour is common in these sets
        if image.shape[2] < 3:
            raise DataError(f"{path}: {image.shape[2]} channels; 8-bit gray is expected")
        image = cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2GRAY)
    return np.ascontiguousarray(image)


def is_video(folder: Path) -> bool:
    """Tell whether a folder holds labelled clips: ``clips.csv``, a CSV of boxes and a video each; or them packed."""
    return (folder / LISTING).is_file() or bool(packed_files(folder, VIDEO))


def clips_there(folder: Path) -> tuple[list[str], bool]:
    """Return the names of the clips in a folder, which may be packed, and whether they are all of the set."""
    if packed_files(folder, VIDEO):
        packed = read_packed(folder, VIDEO)
        return sorted(packed.clips), packed.all_clips
    return sorted(clip_names(folder)), True


def read_video(folder: Path, clips: list[str] | None, every: int, targets: bool = False) -> list[Sample]:
    """Read frames of labelled clips as background: no target in the mask, and the labelled boxes unknown.

    Frames without a row in the clip's CSV are left out: nobody says that they hold no target.

    Args:
        folder: holds ``clips.csv`` and, for each clip, ``<clip>.csv`` (``frame,x,y,w,h``) and ``<clip>.mp4``.
        clips: which of them; None for all.
        every: of each clip, the frames whose number is a multiple of it.
        targets: make masks of the targets in their boxes, where the frame leaves no doubt about them.

    Raises:
        DataError: on what cannot be read, and on a frame that its boxes leave nothing of.
    """
    if packed_files(folder, VIDEO):
        samples = _chosen(folder, clips, every)
    else:
        read = sorted(read_clips(folder), key=lambda clip: clip.name) if clips is None else read_clips(folder, clips)
        samples = [sample for clip in read for sample in _background(clip, every)]
    if targets:
        samples = [_with_targets(sample) for sample in samples]
    if covered := next((sample for sample in samples if not sample.free), None):
        raise DataError(f"{folder}: frame {covered.name}: its boxes, grown by {BOX_MARGIN} px, leave nothing of it")
    return samples


def _with_targets(sample: Sample) -> Sample:
    """Return a frame with masks in place of those of its boxes that hold a clear target.

    A box that reaches the frame's edge stays unknown: how much of its margin was cut off there is not known.
    """
    mask, unknown = sample.mask.copy(), []
    height, width = sample.frame.shape
    for left, top, right, bottom in sample.boxes:
        inner = left + BOX_MARGIN, top + BOX_MARGIN, right - left - 2 * BOX_MARGIN, bottom - top - 2 * BOX_MARGIN
        inside = min(left, top) > 0 and right < width and bottom < height
        found = mask_in_box(sample.frame, inner) if inside else None
        if found is None:
            unknown.append((left, top, right, bottom))
        else:
            mask |= found
    return replace(sample, mask=mask, boxes=tuple(unknown))


def _chosen(folder: Path, clips: list[str] | None, every: int) -> list[Sample]:
    """Read the frames of packed clips."""
    packed = read_packed(folder, VIDEO)
    if every % packed.every:
        raise DataError(f"{folder}: packed with every {packed.every}th frame of a clip; every {every}th is asked for")
    held: dict[str, list[Sample]] = {clip: [] for clip in sorted(packed.clips)}
    for sample in packed.samples:
        clip, _, number = sample.name.rpartition("/")
        wanted = held.setdefault(clip, [])
        if int(number) % every == 0:
            wanted.append(sample)
    if clips is None and not packed.all_clips:
        pack = packed_files(folder, VIDEO)[0]
        raise DataError(f"{pack}: not packed with all clips of the set, which a recipe asks for that names no clips")
    if missing := sorted({*(clips or ())} - set(held)):
        raise DataError(f"{folder}: clip {missing[0]!r} is not among those packed")
    return [sample for clip in (held if clips is None else clips) for sample in held[clip]]


def _background(clip: Clip, every: int) -> Iterator[Sample]:
    labelled = {number: boxes for number, boxes in clip.boxes.items() if number % every == 0}
    for number, pixels in frames_of(replace(clip, boxes=labelled), every):
        if number in labelled:
            unknown = tuple(_grown(box, pixels.shape) for box in labelled[number])
            yield Sample(f"{clip.name}/{number:06}", pixels, np.zeros(pixels.shape, np.bool_), unknown)


def _grown(box: LooseBox, shape: tuple[int, ...]) -> Box:
    """Return a labelled box with its margin, within the frame."""
    x, y, w, h = box
    left, top = math.floor(x) - BOX_MARGIN, math.floor(y) - BOX_MARGIN
    right, bottom = math.ceil(x + w) + BOX_MARGIN, math.ceil(y + h) + BOX_MARGIN
    return max(left, 0), max(top, 0), min(right, shape[1]), min(bottom, shape[0])
