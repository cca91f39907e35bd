"""Scores of tracks: what each counts, and that TrackEval counts the same."""

from __future__ import annotations

import numpy as np
import pytest

from stream.score_tracks import Points, score_tracks
from stream.synthetic import SCENARIOS, make_sequence
from stream.track_bench import run_ours


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        # Perfect tracks score 1 everywhere.
        ([{1: 0, 2: 50}] * 3, [{7: 0, 8: 50}] * 3, {"mota": 1.0, "idf1": 1.0, "hota": 1.0, "switches": 0}),
        # No tracks: everything is missed.
        ([{1: 0}] * 4, [{}] * 4, {"mota": 0.0, "idf1": 0.0, "missed": 4, "false": 0}),
        # Tracks of nothing: everything is false.
        ([{}] * 4, [{7: 0}] * 4, {"missed": 0, "false": 4, "idf1": 0.0}),
        # One switch in four frames: MOTA loses a frame's worth, IDF1 half.
        ([{1: 0}] * 4, [{7: 0}] * 2 + [{8: 0}] * 2, {"mota": 0.75, "idf1": 0.5, "switches": 1}),
        # Four pixels off is still right, a little more is not.
        ([{1: 0}], [{7: 4}], {"mota": 1.0, "missed": 0}),
        ([{1: 0}], [{7: 4.01}], {"mota": -1.0, "missed": 1, "false": 1}),
        # A track that is nearer does not take a target from the track that has it.
        ([{1: 0}] * 2, [{7: 0}, {7: 3, 8: 1}], {"switches": 0, "false": 1, "mota": 0.5}),
        # Lost and found again under the same id: a fragment, no switch.
        ([{1: 0, 2: 50}] * 3, [{7: 0, 8: 50}, {8: 50}, {7: 0, 8: 50}], {"switches": 0, "fragments": 1, "missed": 1}),
    ],
)
def test_scores(truth: list[dict[int, float]], found: list[dict[int, float]], expected: dict[str, float]) -> None:
    scores = score_tracks([_line(frame) for frame in truth], [_line(frame) for frame in found])
    for key, value in expected.items():
        assert getattr(scores, key) == pytest.approx(value), key


def test_scores_agree_with_trackeval() -> None:
    """Scenes of all kinds, tracked and scored by both."""
    pytest.importorskip("trackeval", reason="TrackEval is not installed (the compare extra)")
    from trackeval.metrics import CLEAR, HOTA, Identity

    for scenario in SCENARIOS[:7]:
        scene = make_sequence(scenario, 5)
        found = run_ours(scene, scenario)[0]
        data = _trackeval_data(scene.truth, found)
        scores = score_tracks(scene.truth, found)
        clear = CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
        identity = Identity({"PRINT_CONFIG": False}).eval_sequence(data)
        hota = HOTA().eval_sequence(data)
        assert scores.mota == pytest.approx(clear["MOTA"])
        assert (scores.missed, scores.false) == (clear["CLR_FN"], clear["CLR_FP"])
        assert (scores.switches, scores.fragments) == (clear["IDSW"], clear["Frag"])
        assert scores.idf1 == pytest.approx(identity["IDF1"])
        assert scores.hota == pytest.approx(hota["HOTA"].mean())
        assert scores.deta == pytest.approx(hota["DetA"].mean())
        assert scores.assa == pytest.approx(hota["AssA"].mean())


def _trackeval_data(truth: list[Points], found: list[Points]) -> dict[str, object]:
    def from_0(frames: list[Points]) -> tuple[list[np.ndarray], int]:
        keys = sorted({int(key) for frame in frames for key in frame.ids})
        return [np.array([keys.index(int(key)) for key in frame.ids], int) for frame in frames], len(keys)

    truth_ids, truths = from_0(truth)
    found_ids, founds = from_0(found)
    near = [
        np.maximum(0, 1 - np.linalg.norm(t.xy[:, None] - f.xy[None], axis=2) / 8.0)
        for t, f in zip(truth, found, strict=True)
    ]
    return {
        "gt_ids": truth_ids,
        "tracker_ids": found_ids,
        "similarity_scores": near,
        "num_gt_ids": truths,
        "num_tracker_ids": founds,
        "num_gt_dets": sum(map(len, truth_ids)),
        "num_tracker_dets": sum(map(len, found_ids)),
        "num_timesteps": len(truth),
    }


def _line(frame: dict[int, float]) -> Points:
    return Points(np.array(list(frame), np.int64), np.array([(x, 0.0) for x in frame.values()]).reshape(-1, 2))
