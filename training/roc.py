"""ROC curves: what a network would have found and cried wolf over at every threshold, in one pass over the frames.

Two curves are in use. Per pixel (DNANet, AGPCNet, SCTransNet and their followers): the share of target
pixels above a threshold against the share of background pixels above it; nearly all of the latter are
easy, so the area under it is 0.99 for good and bad networks alike, and only the curve's left end, on a
logarithmic axis, tells them apart. Per target: Pd against Fa, here in both protocols of training.metrics
at a few thresholds.

Published code takes thresholds evenly spaced in the probability (often ten). These networks' answers
are nearly all within 1e-3 of 0 or 1, so that such points fall on one spot; here thresholds are spaced
evenly in the logit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.metrics import Tally

EDGES = np.linspace(-30, 30, 1201)  # logits; a twentieth apart
PROBABILITIES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
LOGITS = tuple(float(np.log(p / (1 - p))) for p in PROBABILITIES)


def _histogram() -> NDArray[np.int64]:
    return np.zeros(len(EDGES) + 1, np.int64)


@dataclass
class Roc:
    """Histograms of the logits of target and background pixels, and a tally a threshold.

    Attributes:
        target: of target pixels, ``[edges + 1]``.
        background: of background pixels, ``[edges + 1]``.
        tallies: one for each of ``PROBABILITIES``.
    """

    target: NDArray[np.int64] = field(default_factory=_histogram)
    background: NDArray[np.int64] = field(default_factory=_histogram)
    tallies: list[Tally] = field(default_factory=lambda: [Tally() for _ in LOGITS])

    def add(self, scores: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Count one frame: its logits and its truth, both ``[height, width]``."""
        bins = np.searchsorted(EDGES, scores.ravel())  # bin i is above EDGES[i - 1] and at most EDGES[i]
        on_target = np.bincount(bins[mask.ravel()], minlength=len(self.target))
        self.target += on_target
        self.background += np.bincount(bins, minlength=len(self.target)) - on_target
        for logit, tally in zip(LOGITS, self.tallies, strict=True):
            tally.add(scores > logit, mask)

    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the false and the true positive rate above each of ``EDGES``, ``[edges]`` each, falling."""
        return _above(self.background), _above(self.target)

    def area(self) -> float:
        """Return the area under the curve; one half is chance."""
        false, true = (np.concatenate([[1.0], rates, [0.0]]) for rates in self.curve())
        return float(((true[1:] + true[:-1]) / 2 * -np.diff(false)).sum())

    def rows(self) -> list[dict[str, float]]:
        """Return a row of figures for each of ``PROBABILITIES``, shares as shares of 1."""
        rows = []
        keys = ("iou", "precision", "recall", "pd", "fa", "pd_centroid", "fa_centroid")
        for threshold, tally in zip(PROBABILITIES, self.tallies, strict=True):
            figures = tally.report()
            rows.append({"threshold": threshold, **{key: figures[key] for key in keys}})
        return rows


def _above(histogram: NDArray[np.int64]) -> NDArray[np.float64]:
    total = int(histogram.sum())
    rates: NDArray[np.float64] = histogram[::-1].cumsum()[::-1][1:] / max(total, 1)
    return rates
