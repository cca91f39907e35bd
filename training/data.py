"""Frames and masks of infrared small-target sets, and the crops a training step sees."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

MASK_LEVEL = 127  # above it, a mask's pixel is target
IMAGE_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".jpg")


class DataError(ValueError):
    """A data set that cannot be used; the message names the file and says what would be right."""


@dataclass(frozen=True)
class Sample:
    """One frame and its truth.

    Attributes:
        name: the file's stem.
        frame: ``[height, width]`` uint8.
        mask: ``[height, width]`` bool, True on targets.
    """

    name: str
    frame: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def part_of(name: str, parts: int) -> int:
    """Tell which of ``parts`` parts a frame belongs to, for ever, by the CRC-32 of its name."""
    return zlib.crc32(name.encode()) % parts


def read_split(folder: Path, split: str) -> list[Sample]:
    """Read the frames that ``folder/<split>.txt`` names, from ``images/`` and ``masks/``.

    Raises:
        DataError: on a missing list, image or mask, or one whose size or kind is wrong.
    """
    listing = folder / f"{split}.txt"
    if not listing.is_file():
        raise DataError(f"{listing}: no such file; a data set is a folder with images/, masks/ and {split}.txt")
    try:
        names = listing.read_text().split()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{listing}: not readable as text; it has one name a line, without a suffix") from None
    if not names:
        raise DataError(f"{listing}: names no frame; it has one name a line, without a suffix")
    return [_read(folder, name) for name in names]


def _read(folder: Path, name: str) -> Sample:
    frame = _gray(_find(folder / "images", name))
    mask_path = _find(folder / "masks", name)
    mask = _gray(mask_path)
    if mask.shape != frame.shape:
        (mh, mw), (fh, fw) = mask.shape, frame.shape
        raise DataError(f"{mask_path}: mask of {mw}x{mh} for a frame of {fw}x{fh}; they must agree")
    if mask.any() and mask.max() <= MASK_LEVEL:
        raise DataError(f"{mask_path}: its brightest pixel is {mask.max()}; a mask is 0 and 255")
    return Sample(name, frame, mask > MASK_LEVEL)


def _find(folder: Path, name: str) -> Path:
    for suffix in IMAGE_SUFFIXES:
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    raise DataError(f"{folder / name}.png: no such image, nor one that ends in {', '.join(IMAGE_SUFFIXES[1:])}")


def _gray(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError(f"{path}: not a readable image")
    if image.ndim == 3:  # gray saved as colour is common in these sets
        image = cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2GRAY)
    if image.dtype != np.uint8:
        raise DataError(f"{path}: {image.dtype} pixels; 8-bit gray is expected")
    return np.ascontiguousarray(image)


@dataclass(frozen=True)
class Augmentation:
    """How a crop is varied.

    Attributes:
        gain: the frame's contrast is multiplied by a factor between 1 / gain and gain.
        bias: its level moves by up to this share of the range.
        noise: it gains Gaussian noise of up to this sigma, in grey levels of 255.
        noise_share: on this share of the crops.
    """

    gain: float = 1.0
    bias: float = 0.0
    noise: float = 0.0
    noise_share: float = 0.5


def make_batch(
    samples: list[Sample], rng: np.random.Generator, batch: int, size: int, target_share: float, augment: Augmentation
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut one training batch of random crops.

    Args:
        samples: the frames to draw from, each as likely as any other; not none.
        rng: the only source of chance.
        batch: crops to make.
        size: side of a crop in pixels, cut at native resolution; a smaller frame is mirrored at its edges.
        target_share: the share of crops that are laid over a target, where the frame has one.
        augment: how crops are varied; flips and transposition are always on.

    Returns:
        Frames in [0, 1] and masks 0 or 1, float32 ``[batch, 1, size, size]``.
    """
    frames = np.empty((batch, 1, size, size), np.float32)
    masks = np.empty_like(frames)
    for index in range(batch):
        sample = samples[rng.integers(len(samples))]
        frame, mask = _crop(sample, rng, size, target_share)
        if rng.random() < 0.5:
            frame, mask = frame.T, mask.T
        flip_y, flip_x = 1 - 2 * rng.integers(0, 2, 2)
        masks[index, 0] = mask[::flip_y, ::flip_x]
        shown = frame[::flip_y, ::flip_x].astype(np.float32) / np.float32(255)
        frames[index, 0] = _vary(shown, rng, augment)
    return frames, masks


def _crop(
    sample: Sample, rng: np.random.Generator, size: int, target_share: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    frame, mask = sample.frame, sample.mask
    short = [max(0, size - side) for side in frame.shape]
    if any(short):
        pad = [(0, short[0]), (0, short[1])]
        frame = np.pad(frame, pad, mode="symmetric")
        mask = np.pad(mask, pad, mode="symmetric")
    h, w = frame.shape
    y, x = rng.integers(0, h - size + 1), rng.integers(0, w - size + 1)
    if rng.random() < target_share and mask.any():
        rows, columns = np.nonzero(mask)
        pick = rng.integers(len(rows))
        y = np.clip(rows[pick] - rng.integers(0, size), 0, h - size)
        x = np.clip(columns[pick] - rng.integers(0, size), 0, w - size)
    return frame[y : y + size, x : x + size], mask[y : y + size, x : x + size]


def _vary(frame: NDArray[np.float32], rng: np.random.Generator, augment: Augmentation) -> NDArray[np.float32]:
    if augment.gain > 1 or augment.bias > 0:
        gain = augment.gain ** rng.uniform(-1, 1)
        middle = frame.mean()
        frame = (frame - middle) * gain + middle + rng.uniform(-augment.bias, augment.bias)
    if augment.noise > 0 and rng.random() < augment.noise_share:
        frame = frame + rng.normal(0, rng.uniform(0, augment.noise) / 255, frame.shape).astype(np.float32)
    return np.clip(frame, 0, 1).astype(np.float32, copy=False)
