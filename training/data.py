"""The data of a training run, and the crops a training step sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.augment import Augmentation, Frame, Mask, resample, side_before, vary
from training.paste import Cutout, paste_target
from training.sample import DataError, Sample, part_of
from training.scenes import Scene
from training.sets import is_video, read_split, read_video

if TYPE_CHECKING:
    from training.recipe import DataRecipe

__all__ = [
    "Augmentation",
    "DataError",
    "Sample",
    "Scene",
    "make_batch",
    "part_of",
    "read_parts",
    "read_split",
    "read_whole",
]

DONOR_TRIES = 20  # frames looked at for one with a target to paste
AWAY_TRIES = 8


def read_parts(parts: list[DataRecipe], data: Path, held_out_parts: int) -> tuple[list[Sample | Scene], list[Sample]]:
    """Read what a recipe trains on.

    Args:
        parts: a recipe's data.
        data: the folder that holds the sets.
        held_out_parts: one frame in so many (by CRC of its name) is held out, of the sets whose masks are known.

    Returns:
        The frames to draw crops from, each as often as the recipe weighs it, and the held-out ones.
    """
    train: list[Sample | Scene] = []
    held_out: list[Sample] = []
    for part in parts:
        if part.set == "scene":
            train += [Scene(tuple(part.backgrounds))] * part.frames
            continue
        samples = read_whole(part, data)
        if is_video(data / part.set):
            if part.set_aside:
                said = "frames of video cannot be set aside, for their neighbours are alike; name the clips to train on"
                raise DataError(f"{data / part.set}: set_aside: {said}")
            train += samples * part.repeat
            continue
        if part.set_aside:
            samples = [s for s in samples if part_of(s.name, part.set_aside) != 0]
        train += [s for s in samples if part_of(s.name, held_out_parts) != 0] * part.repeat
        held_out += [s for s in samples if part_of(s.name, held_out_parts) == 0]
    return train, held_out


def read_whole(part: DataRecipe, data: Path) -> list[Sample]:
    """Read the frames of one part of a recipe's data, those set aside among them."""
    folder = data / part.set
    if is_video(folder):
        return read_video(folder, part.clips, part.every, part.box_targets)
    if part.clips is not None:
        raise DataError(f"{folder}: a recipe names clips of it, and it is no folder of labelled video with clips.csv")
    return read_split(folder, part.split)


def make_batch(
    samples: Sequence[Sample | Scene],
    rng: np.random.Generator,
    batch: int,
    size: int,
    target_share: float,
    augment: Augmentation,
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
        sample = samples[int(rng.integers(len(samples)))]
        side = side_before(size, rng, augment)
        if isinstance(sample, Scene):
            frame, mask = sample.draw(rng, side)
        else:
            frame, mask = _crop(sample, rng, side, target_share, augment.away)
        if side != size:
            frame, mask = resample(frame, mask, size)
        if augment.paste > 0 and rng.random() < augment.paste:
            for _ in range(rng.integers(1, 4)):
                if cutout := _donated(samples, rng):
                    frame, mask = paste_target(frame, mask, cutout, rng)
        if rng.random() < 0.5:
            frame, mask = frame.T, mask.T
        flip_y, flip_x = 1 - 2 * rng.integers(0, 2, 2)
        masks[index, 0] = mask[::flip_y, ::flip_x]
        frames[index, 0] = vary(frame[::flip_y, ::flip_x], rng, augment)
    return frames, masks


def _donated(samples: Sequence[Sample | Scene], rng: np.random.Generator) -> Cutout | None:
    """Draw a target of a frame that has one which can be pasted."""
    for _ in range(DONOR_TRIES):
        sample = samples[int(rng.integers(len(samples)))]
        if isinstance(sample, Sample) and (targets := sample.targets):
            return targets[int(rng.integers(len(targets)))]
    return None


def _crop(sample: Sample, rng: np.random.Generator, size: int, target_share: float, away: float) -> tuple[Frame, Mask]:
    frame, mask, pixels = sample.frame, sample.mask, sample.pixels
    if sample.boxes:
        left, top, right, bottom = _free_part(sample, rng, size)
        frame, mask = frame[top:bottom, left:right], mask[top:bottom, left:right]
        pixels = np.flatnonzero(mask)
    short = [max(0, size - side) for side in frame.shape]
    if any(short):
        pad = [(0, short[0]), (0, short[1])]
        frame = np.pad(frame, pad, mode="symmetric")
        mask = np.pad(mask, pad, mode="symmetric")
        pixels = np.flatnonzero(mask) if pixels.size else pixels
    h, w = frame.shape
    y, x = rng.integers(0, h - size + 1), rng.integers(0, w - size + 1)
    if rng.random() < target_share and pixels.size:
        row, column = divmod(int(pixels[rng.integers(len(pixels))]), w)
        y = np.clip(row - rng.integers(0, size), 0, h - size)
        x = np.clip(column - rng.integers(0, size), 0, w - size)
    elif pixels.size and away > 0 and rng.random() < away:
        for _ in range(AWAY_TRIES):
            if not mask[y : y + size, x : x + size].any():
                break
            y, x = rng.integers(0, h - size + 1), rng.integers(0, w - size + 1)
    return frame[y : y + size, x : x + size], mask[y : y + size, x : x + size]


def _free_part(sample: Sample, rng: np.random.Generator, size: int) -> tuple[int, int, int, int]:
    """Draw a part of the frame beside all boxes: one that holds a crop if there is one, else a large one."""
    roomy = [part for part in sample.free if part[2] - part[0] >= size and part[3] - part[1] >= size]
    if not roomy:
        areas = [(part[2] - part[0]) * (part[3] - part[1]) for part in sample.free]
        roomy = [part for part, area in zip(sample.free, areas, strict=True) if 2 * area >= max(areas)]
    return roomy[rng.integers(len(roomy))]
