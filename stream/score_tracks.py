"""Tracks against exact truth: CLEAR MOT, IDF1 and HOTA for points.

The definitions are TrackEval's, with a similarity of points in place of a similarity of boxes:
``1 - distance / (2 reach)``, so that CLEAR's and IDF1's similarity of 0.5 is a distance of ``reach``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

ALPHAS = np.arange(0.05, 0.99, 0.05)
MATCHED = 0.5
EPS = float(np.finfo(np.float64).eps)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Points:
    """The points of one frame.

    Attributes:
        ids: int64 ``[n]``, distinct.
        xy: float64 ``[n, 2]``, pixels.
    """

    ids: Ints
    xy: Floats


@dataclass(frozen=True)
class TrackScores:
    """What tracks are worth against the truth, for one sequence.

    Attributes:
        mota: 1 - (missed + false + switches) / truths (Bernardin and Stiefelhagen 2008).
        idf1: F1 of the best one-to-one assignment of tracks to targets (Ristani et al. 2016).
        hota: geometric mean of deta and assa, averaged over 19 similarities (Luiten et al. 2021).
        deta: detection accuracy, averaged alike.
        assa: association accuracy, averaged alike.
        missed: truths without a track.
        false: tracks without a truth, counted frame by frame.
        switches: identity switches.
        fragments: times a target was found again after it had been lost.
        truths: true points over all frames.
    """

    mota: float
    idf1: float
    hota: float
    deta: float
    assa: float
    missed: int
    false: int
    switches: int
    fragments: int
    truths: int


@dataclass(frozen=True, eq=False)
class _Frame:
    truth: Ints  # [n], indices from 0
    found: Ints  # [m], indices from 0
    similarity: Floats  # [n, m]


def score_tracks(truth: Sequence[Points], found: Sequence[Points], reach: float = 4.0) -> TrackScores:
    """Score the tracks of a sequence.

    Args:
        truth: the true points, a frame each.
        found: the tracks' points, a frame each.
        reach: the distance up to which a track is right, pixels.

    Raises:
        ValueError: if the two differ in length.
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} frames of truth and {len(found)} of tracks; as many are expected")
    truth_ids = _index_of(truth)
    found_ids = _index_of(found)
    frames = [_pair(t, f, truth_ids, found_ids, reach) for t, f in zip(truth, found, strict=True)]
    n, m = len(truth_ids), len(found_ids)
    truths = sum(len(frame.truth) for frame in frames)
    missed, false, switches, fragments = _clear(frames, n)
    hota, deta, assa = _hota(frames, n, m)
    return TrackScores(
        mota=1 - (missed + false + switches) / max(1, truths),
        idf1=_idf1(frames, n, m),
        hota=hota,
        deta=deta,
        assa=assa,
        missed=missed,
        false=false,
        switches=switches,
        fragments=fragments,
        truths=truths,
    )


def _index_of(frames: Sequence[Points]) -> dict[int, int]:
    seen = np.unique(np.concatenate([frame.ids for frame in frames])) if frames else np.empty(0, np.int64)
    return {int(key): index for index, key in enumerate(seen)}


def _pair(truth: Points, found: Points, truth_ids: dict[int, int], found_ids: dict[int, int], reach: float) -> _Frame:
    distance = np.linalg.norm(truth.xy.reshape(-1, 1, 2) - found.xy.reshape(1, -1, 2), axis=2)
    return _Frame(
        truth=np.array([truth_ids[int(key)] for key in truth.ids], np.int64),
        found=np.array([found_ids[int(key)] for key in found.ids], np.int64),
        similarity=np.maximum(0.0, 1 - distance / (2 * reach)),
    )


def _clear(frames: Sequence[_Frame], n: int) -> tuple[int, int, int, int]:
    missed = false = switches = 0
    last_ever = np.full(n, -1)
    last_frame = np.full(n, -1)
    spells = np.zeros(n, np.int64)
    for frame in frames:
        if not len(frame.truth) or not len(frame.found):
            missed += len(frame.truth)
            false += len(frame.found)
            continue
        kept = last_frame[frame.truth][:, None] == frame.found[None, :]
        worth = np.where(frame.similarity >= MATCHED - EPS, 1000.0 * kept + frame.similarity, 0.0)
        rows, cols = linear_sum_assignment(worth, maximize=True)
        good = worth[rows, cols] > EPS
        targets, tracks = frame.truth[rows[good]], frame.found[cols[good]]
        before = last_ever[targets]
        switches += int(np.sum((before >= 0) & (before != tracks)))
        spells[targets] += last_frame[targets] < 0
        last_ever[targets] = tracks
        last_frame[:] = -1
        last_frame[targets] = tracks
        missed += len(frame.truth) - len(targets)
        false += len(frame.found) - len(targets)
    return missed, false, switches, int(np.sum(np.maximum(spells - 1, 0)))


def _idf1(frames: Sequence[_Frame], n: int, m: int) -> float:
    together = np.zeros((n, m))
    for frame in frames:
        together[np.ix_(frame.truth, frame.found)] += frame.similarity >= MATCHED
    rows, cols = linear_sum_assignment(together, maximize=True)
    points = sum(len(frame.truth) + len(frame.found) for frame in frames)
    return float(2 * together[rows, cols].sum() / max(1, points))


def _hota(frames: Sequence[_Frame], n: int, m: int) -> tuple[float, float, float]:
    potential = np.zeros((n, m))
    truth_count, found_count = np.zeros((n, 1)), np.zeros((1, m))
    for frame in frames:
        s = frame.similarity
        union = s.sum(0)[None, :] + s.sum(1)[:, None] - s
        potential[np.ix_(frame.truth, frame.found)] += np.divide(s, union, out=np.zeros_like(s), where=union > EPS)
        truth_count[frame.truth] += 1
        found_count[0, frame.found] += 1
    aligned = potential / np.maximum(EPS, truth_count + found_count - potential)
    hits = np.zeros(len(ALPHAS))
    matches = np.zeros((len(ALPHAS), n, m))
    for frame in frames:
        rows, cols = linear_sum_assignment(aligned[np.ix_(frame.truth, frame.found)] * frame.similarity, maximize=True)
        for a, alpha in enumerate(ALPHAS):
            good = frame.similarity[rows, cols] >= alpha - EPS
            hits[a] += good.sum()
            matches[a, frame.truth[rows[good]], frame.found[cols[good]]] += 1
    agreed = matches / np.maximum(1, truth_count + found_count - matches)
    assa = (matches * agreed).sum((1, 2)) / np.maximum(1, hits)
    deta = hits / np.maximum(1, truth_count.sum() + found_count.sum() - hits)
    return float(np.sqrt(deta * assa).mean()), float(deta.mean()), float(assa.mean())
