"""On labelled video: what counts as found, and what as false."""

import numpy as np
import pytest

from training.clips import ClipTally


def dots(*places):
    found = np.zeros((60, 80), bool)
    for x, y in places:
        found[y : y + 2, x : x + 2] = True
    return found


BOX = [(10.0, 20.0, 8.0, 8.0)]  # its centre is at 14, 24
CASES = [
    ("a component in the box finds it", [(dots((13, 23)), BOX)], (1, 0, 0)),
    ("one beside it does not", [(dots((20, 23)), BOX)], (0, 1, 0)),
    ("two in the box are no false one", [(dots((11, 21), (15, 25)), BOX)], (1, 0, 0)),
    ("one at the frame's edge is the border's and others' alike", [(dots((13, 23), (78, 30)), BOX)], (1, 1, 1)),
    ("a target at the edge is not the border's", [(dots((0, 0)), [(0.0, 0.0, 6.0, 6.0)])], (1, 0, 0)),
    ("a frame without a box is not one to find in", [(dots((30, 30)), []), (dots((13, 23)), BOX)], (1, 0.5, 0)),
    ("nothing there to find, nothing found", [(dots(), [])], (None, 0, 0)),
]


@pytest.mark.parametrize(("why", "frames", "want"), CASES, ids=[c[0] for c in CASES])
def test_counts(why, frames, want):
    """Share found, other components a frame, the border's a frame."""
    tally = ClipTally()
    for found, boxes in frames:
        one = ClipTally()
        one.add(found, boxes)
        tally.merge(one)
    figures = tally.report()
    per_frame = figures["other_components_per_frame"], figures["border_components_per_frame"]
    assert (figures["found"], *per_frame) == want
