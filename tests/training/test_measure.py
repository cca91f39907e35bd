"""Frames at another size keep their targets."""

import cv2
import numpy as np
import pytest
from rich.console import Console

from training.data import Sample
from training.evaluate import matrix_of, measure_sets, table_of
from training.finder import Finder
from training.measure import GALLERY_FRAMES, OF_TARGETS, figures_of, resized
from training.metrics import Tally

FRAME = np.arange(40 * 60, dtype=np.uint32).reshape(40, 60).astype(np.uint8)


def with_targets(*boxes):
    mask = np.zeros(FRAME.shape, bool)
    for x, y, w, h in boxes:
        mask[y : y + h, x : x + w] = True
    return Sample("f", FRAME, mask)


SIZES = [
    ("its own size changes nothing", [(10, 10, 3, 3)], (60, 40), 9, 1),
    ("a target of 4x4 px is one of 2x2 at half the size", [(10, 10, 4, 4)], (30, 20), 4, 1),
    ("one of a single pixel is left a pixel", [(10, 10, 1, 1)], (30, 20), 1, 1),
    ("so is each of two, far apart", [(10, 10, 1, 1), (40, 30, 1, 1)], (15, 10), 2, 2),
    ("one axis alone", [(10, 10, 4, 4)], (30, 40), 8, 1),
    ("growing, too", [(10, 10, 4, 4)], (120, 80), 64, 1),
    ("one axis shrinks and the other grows", [(10, 10, 4, 4)], (30, 80), 16, 1),
    ("no target is made of none", [], (30, 20), 0, 0),
]


@pytest.mark.parametrize(("why", "boxes", "size", "pixels", "targets"), SIZES, ids=[c[0] for c in SIZES])
def test_resized(why, boxes, size, pixels, targets):
    """Pixels and targets of the mask after resizing."""
    sample = resized(with_targets(*boxes), size)
    assert sample.frame.shape == sample.mask.shape == size[::-1]
    assert sample.frame.dtype == np.uint8
    assert sample.mask.sum() == pixels
    assert cv2.connectedComponents(sample.mask.astype(np.uint8))[0] - 1 == targets


def test_a_frame_is_averaged_over_areas():
    """Half the size is the mean of 2x2 pixels."""
    frame = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    half = resized(Sample("f", frame, frame < 0), (30, 20)).frame
    assert np.abs(half - frame.reshape(20, 2, 30, 2).mean((1, 3))).max() <= 1


def test_false_components_of_target_free_frames():
    """Over the frames without a target, and None where there is none such."""
    tally = Tally()
    tally.add(with_targets((1, 1, 3, 3), (20, 20, 2, 2)).mask, with_targets((1, 1, 3, 3)).mask)
    assert figures_of(tally, 1, 5)["false_components_per_target_free_frame"] is None
    tally.add(with_targets((1, 1, 3, 3), (20, 20, 2, 2)).mask, with_targets().mask)
    tally.add(with_targets().mask, with_targets().mask)
    figures = figures_of(tally, 3, 5)
    assert figures["false_components_per_frame"] == 1
    assert figures["false_components_per_target_free_frame"] == 1
    assert (figures["target_free_frames"], figures["params"], figures["frames"]) == (2, 5, 3)


def test_frames_without_a_target_say_nothing_of_targets():
    """None and not 0 where no frame has a target; what was found all the same is told."""
    tally = Tally()
    tally.add(with_targets((1, 1, 3, 3)).mask, with_targets().mask)
    figures = figures_of(tally, 1, 5)
    assert [figures[key] for key in OF_TARGETS] == [None] * 7
    assert figures["fa"] == pytest.approx(9 / tally.pixels)
    assert figures["false_components_per_target_free_frame"] == 1


def test_each_network_has_its_share_of_the_gallery():
    """One that is wrong everywhere leaves room for the faults of one that is nearly right."""
    samples = [with_targets((index, 10, 3, 3)) for index in range(GALLERY_FRAMES)]

    def shifted(frame):
        return np.roll(frame.astype(np.float32), 1, 1)

    blind = Finder("blind", lambda frame: np.zeros(frame.shape, np.float32), 0.5, 1)
    near = Finder("near", shifted, 0.5, 1)
    samples = [Sample(f"f{index}", sample.mask.astype(np.uint8), sample.mask) for index, sample in enumerate(samples)]
    worst = measure_sets([blind, near], [("dots", samples)], "test", [], with_roc=False).worst
    assert [each.label.split()[0] for each in worst] == ["blind"] * 6 + ["near"] * 6
    alone = measure_sets([near], [("dots", samples)], "test", [], with_roc=False)
    assert len(alone.worst) == GALLERY_FRAMES


def test_names_in_a_table_are_told_apart_by_their_ends():
    """A heading that is too long for its column is broken, not cut off."""
    samples = [with_targets((10, 10, 3, 3))]
    names = [f"a_network_with_a_long_name_{index}" for index in range(4)]
    finders = [Finder(name, lambda frame: np.ones(frame.shape, np.float32), 0.5, 1) for name in names]
    results = measure_sets(finders, [("dots", samples)], "test", [], with_roc=False).results
    for table in (table_of(results), matrix_of(results, 1)):
        console = Console(width=50, record=True, quiet=True)
        console.print(table)
        said = console.export_text()
        assert "…" not in said
