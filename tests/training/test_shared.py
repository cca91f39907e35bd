"""Samples in shared memory are the samples, and sending them sends no pixels."""

from multiprocessing.reduction import ForkingPickler

import numpy as np
import torch.multiprocessing  # noqa: F401 (teaches the pickler to send tensors)

from training.data import Sample, Scene
from training.shared import SharedSamples


def drawn():
    rng = np.random.default_rng(0)
    shapes = [(40, 30), (7, 90), (256, 256)]
    boxes = ((1, 2, 3, 4),)
    made = [
        Sample(f"s{n}", rng.integers(0, 256, s, np.uint8), rng.random(s) > 0.9, boxes) for n, s in enumerate(shapes)
    ]
    return [made[0], Scene(("cloud",)), *made[1:], made[0]]


def test_they_are_what_they_were():
    """Names, pixels, masks and boxes, by index and by slice; a scene among them; what stands twice is made once."""
    samples = drawn()
    shared = SharedSamples(samples)
    assert len(shared) == 5
    assert shared[1] is samples[1]
    assert shared[0] is shared[4]
    for mine, theirs in zip(shared[2:], samples[2:], strict=True):
        assert (mine.name, mine.boxes) == (theirs.name, theirs.boxes)
        assert np.array_equal(mine.frame, theirs.frame)
        assert np.array_equal(mine.mask, theirs.mask)


def test_sending_them_sends_no_pixels():
    """A process is handed where they are."""
    shared = SharedSamples(drawn())
    assert shared[3].pixels.size
    assert len(ForkingPickler.dumps(shared)) < 4000
