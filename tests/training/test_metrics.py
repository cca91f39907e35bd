"""The field's figures, on masks worked out by hand and on the authors' checkpoint."""

import numpy as np
import pytest

from training.data import read_split
from training.finder import load_finder
from training.measure import evaluate
from training.metrics import Tally


def mask(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def report(*pairs):
    tally = Tally()
    for found, truth in pairs:
        tally.add(found, truth)
    return tally.report()


EMPTY = mask("........", "........", "........", "........")
TARGET = mask("##......", "##......", "........", "........")
PART = mask("##......", "........", "........", "........")
SHIFTED = mask(".##.....", ".##.....", "........", "........")
FAR = mask("........", "........", "......##", "......##")
DIAGONAL = mask("#.......", ".#......", "..#.....", "........")

CASES = [
    ("all found and nothing else", [(TARGET, TARGET)],
     {"iou": 1, "niou": 1, "f1": 1, "precision": 1, "recall": 1, "pd": 1, "fa": 0, "pd_centroid": 1, "fa_centroid": 0}),
    ("half of the target's pixels", [(PART, TARGET)],
     {"iou": 0.5, "niou": 0.5, "f1": 2 / 3, "precision": 1, "recall": 0.5, "pd": 1, "pd_centroid": 1, "fa": 0}),
    ("a column off: two of six pixels, and false ones over the 28 of background", [(SHIFTED, TARGET)],
     {"iou": 2 / 6, "precision": 0.5, "recall": 0.5, "pd": 1, "fa": 2 / 28, "pd_centroid": 1, "fa_centroid": 0}),
    ("a false alarm as large as the target, which matching by area would hide", [(TARGET | FAR, TARGET)],
     {"iou": 0.5, "pd": 1, "fa": 4 / 28, "pd_centroid": 1, "fa_centroid": 4 / 32, "false_components": 1}),
    ("a false alarm as large as the target, and no target found", [(FAR, TARGET)],
     {"iou": 0, "f1": 0, "pd": 0, "fa": 4 / 28, "pd_centroid": 0, "fa_centroid": 4 / 32, "false_components": 1}),
    ("nothing there and nothing found: no frame for nIoU, and no target", [(EMPTY, EMPTY), (PART, TARGET)],
     {"iou": 0.5, "niou": 0.5, "pd": 1, "fa": 0}),
    ("false targets on an empty frame count like others", [(FAR, EMPTY), (TARGET, TARGET)],
     {"iou": 0.5, "niou": 0.5, "pd": 1, "fa": 4 / 60, "fa_centroid": 4 / 64, "false_components": 1}),
    ("IoU is of all pixels, nIoU of frames", [(PART, TARGET), (TARGET | FAR, TARGET | FAR)],
     {"iou": 10 / 12, "niou": 0.75}),
    ("pixels that touch at a corner are one component", [(EMPTY, DIAGONAL), (DIAGONAL, EMPTY)],
     {"pd": 0, "false_components": 1}),
    ("one component answers for one target only",
     [(mask("#.#.....", "........"), mask("###.....", "........")),
      (mask("###.....", "........"), mask("#.#.....", "........"))],
     {"pd": 1, "pd_centroid": 2 / 3, "false_components": 1}),
    ("three pixels between the centroids are too far",
     [(mask("...#...."), mask("#.......")), (mask("..#....."), mask("#......."))],
     {"pd": 0, "pd_centroid": 0.5, "fa_centroid": 1 / 16}),
    ("no frame at all", [], {"iou": 0, "niou": 0, "pd": 0, "fa": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("why", "pairs", "want"), CASES, ids=[c[0] for c in CASES])
def test_by_hand(why, pairs, want):
    """Masks small enough to count."""
    found = report(*pairs)
    assert {key: found[key] for key in want} == pytest.approx(want)


def test_tallies_add_up():
    """Frame by frame and merged gives what one tally of all gives."""
    pairs = [(TARGET | FAR, TARGET), (EMPTY, EMPTY), (PART, TARGET)]
    merged = Tally()
    for pair in pairs:
        one = Tally()
        one.add(*pair)
        merged.merge(one)
    assert merged.report() == report(*pairs)


def test_target_free_frames_are_counted_apart():
    """A false alarm beside a target is not one of a target-free frame."""
    tally = Tally()
    for pair in [(FAR, EMPTY), (TARGET | FAR, EMPTY), (EMPTY, EMPTY), (TARGET | FAR, TARGET)]:
        tally.add(*pair)
    assert (tally.target_free_frames, tally.target_free_components, tally.unmatched_components) == (3, 3, 4)


# python -m training.evaluate --model NUDT_SIRST_mIoU_92.37.pkl --data nudt-sirst measures all 664 frames: IoU 92.40,
# nIoU 92.61, F1 96.05, Pd 98.31, Fa 1.775e-5, and by centroids Pd 98.20, Fa 7.81e-6. This is every fortieth of them.
SUBSET = {
    "iou": 0.913103,
    "niou": 0.925275,
    "f1": 0.954578,
    "precision": 0.976401,
    "recall": 0.933710,
    "pd": 1.0,
    "fa": 1.43704e-5,
    "pd_centroid": 1.0,
    "fa_centroid": 3.5903e-6,
    "false_components": 4.0,
}


def test_the_authors_checkpoint_on_every_fortieth_frame_of_its_test(data):
    """Their NUDT-SIRST network has its figures here."""
    finder = load_finder(str(data / "checkpoints" / "l-rpcanet" / "NUDT_SIRST_mIoU_92.37.pkl"))
    total, rows = evaluate(finder, read_split(data / "nudt-sirst", "test")[::40], "test")
    assert finder.parameters == 475_188
    assert len(rows) == 17
    assert total.report() == pytest.approx(SUBSET, rel=1e-4)
    assert total.target_free_frames == 0
