"""ROC curves of scores that are known."""

import numpy as np
import pytest

from training.roc import EDGES, PROBABILITIES, Roc

MASK = np.zeros((20, 20), bool)
MASK[3:5, 3:5] = True


def scored(target, background):
    roc = Roc()
    roc.add(np.where(MASK, target, background).astype(np.float32), MASK)
    return roc


AREAS = [
    ("every target pixel above every other", 3.0, -3.0, 1.0),
    ("every target pixel below", -3.0, 3.0, 0.0),
    ("all alike is chance", 1.0, 1.0, 0.5),
    ("logits beyond the ends count, as do an engine's infinite ones", np.inf, -np.inf, 1.0),
]


@pytest.mark.parametrize(("why", "target", "background", "area"), AREAS, ids=[c[0] for c in AREAS])
def test_area(why, target, background, area):
    """The area under the curve of two logits."""
    assert scored(target, background).area() == pytest.approx(area)


def test_curve_is_what_thresholding_gives():
    """At an edge, the rates are the shares above it; the rows agree, and frames add up."""
    rng = np.random.default_rng(0)
    roc, scores = Roc(), [rng.normal(MASK * 2.0, 2).astype(np.float32) for _ in range(3)]
    for each in scores:
        roc.add(each, MASK)
    above = np.stack(scores) > 0
    false, true = roc.curve()
    zero = len(EDGES) // 2
    assert EDGES[zero] == pytest.approx(0)
    assert true[zero] == pytest.approx(above[:, MASK].mean())
    assert false[zero] == pytest.approx(above[:, ~MASK].mean())
    row = roc.rows()[PROBABILITIES.index(0.5)]
    assert row["recall"] == pytest.approx(true[zero])
    assert row["fa"] == pytest.approx(false[zero])
    assert (np.diff(false) <= 0).all()
