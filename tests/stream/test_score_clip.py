"""Scores of a clip, each case a short story of one target and what was said of it."""

from pathlib import Path

import numpy as np
import pytest

from stream.labels import Box, Clip
from stream.score_clip import ClipScore, FrameResult, TrackPoint, precision_recall, score_clip

FRAMES = 10
BOX = Box(10, 10, 4, 4)  # its centre is at 11.5, 11.5
CLIP = Clip("clip", Path("clip.mp4"), {frame: [BOX] for frame in range(FRAMES)})
RIGHT, WRONG = (11.5, 11.5), (40.0, 40.0)


def said(*tracks_by_frame, detections=()):
    """Frames with the given tracks, ``{id: place}`` each, and the same detections in all."""
    found = np.array(detections, np.float64).reshape(-1, 3)
    return [
        FrameResult(seq, found, [TrackPoint(key, *place) for key, place in tracks.items()])
        for seq, tracks in enumerate(tracks_by_frame)
    ]


STORIES = [
    ("always tracked", [{1: RIGHT}] * 10, {"tracked": 10, "false_tracks": 0, "switches": 0, "waits": [0.0]}),
    ("found after three frames", [{}] * 3 + [{1: RIGHT}] * 7, {"tracked": 7, "waits": [0.3], "fragments": 0}),
    ("lost for a while under its id", [{1: RIGHT}] * 4 + [{}] * 2 + [{1: RIGHT}] * 4, {"fragments": 1, "switches": 0}),
    ("lost, then under another id", [{1: RIGHT}] * 4 + [{}] * 2 + [{2: RIGHT}] * 4, {"fragments": 1, "switches": 1}),
    ("handed over at once", [{1: RIGHT}] * 5 + [{2: RIGHT}] * 5, {"fragments": 0, "switches": 1, "false_tracks": 0}),
    ("two tracks on one target: the first keeps it", [{1: RIGHT, 2: (12, 11.5)}] * 10, {"switches": 0, "tracks": 2}),
    ("a track elsewhere is false", [{1: RIGHT, 2: WRONG}] * 10, {"tracked": 10, "false_tracks": 1}),
    ("one that wanders off for less than half is not", [{1: RIGHT}] * 6 + [{1: WRONG}] * 4, {"false_tracks": 0}),
    ("one that comes by for less than half is", [{1: RIGHT}] * 4 + [{1: WRONG}] * 6, {"false_tracks": 1}),
    ("never tracked", [{}] * 10, {"tracked": 0, "never": 1, "waits": []}),
]


@pytest.mark.parametrize(("story", "tracks", "want"), STORIES, ids=[c[0] for c in STORIES])
def test_tracks(story, tracks, want):
    score = score_clip(CLIP, said(*tracks), fps=10.0)
    assert {key: getattr(score, key) for key in want} == want


def test_detections_are_right_in_the_grown_box_and_false_elsewhere():
    score = score_clip(CLIP, said(*[{}] * 10, detections=[(16.4, 11, 0.9), (16.6, 11, 0.5), (50, 50, 0.7)]), fps=10.0)
    report = score.report()
    assert (report["detection_recall"], report["false_components_per_frame"]) == (1.0, 2.0)


def test_false_tracks_count_by_the_minute_and_errors_by_the_tracked_frame():
    report = score_clip(CLIP, said(*[{1: (13.5, 11.5), 2: WRONG}] * 10), fps=10.0).report()
    assert report["false_tracks_per_minute"] == 60.0
    assert report["centre_error_px"] == 2.0


def test_scores_of_clips_add_up():
    total = ClipScore()
    for tracks in ([{1: RIGHT}] * 10, [{}] * 10):
        total.merge(score_clip(CLIP, said(*tracks), fps=10.0))
    report = total.report()
    assert (report["frames"], report["track_recall"], report["never_tracked"]) == (20, 0.5, 1)


def test_precision_against_recall_falls_as_scores_do():
    score = ClipScore(labelled=3, scores=[(0.2, False), (0.9, True), (0.5, False), (0.4, True)], best=[0.4, 0.9])
    curve = precision_recall(score)
    assert curve[:, 0].tolist() == [0.9, 0.5, 0.4, 0.2]
    np.testing.assert_allclose(curve[:, 1], [1, 1 / 2, 2 / 3, 2 / 4])
    np.testing.assert_allclose(curve[:, 2], [1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert precision_recall(ClipScore()).shape == (0, 3)


def test_two_detections_in_one_box_recall_it_once():
    frames = said(*[{}] * 10, detections=[(11, 11, 0.9), (12, 12, 0.8)])[:5]
    score = score_clip(Clip("clip", Path("clip.mp4"), CLIP.boxes), frames + said(*[{}] * 10)[5:], fps=10.0)
    assert score.report()["detection_recall"] == precision_recall(score)[-1, 2] == 0.5


def test_a_target_is_known_by_its_place_not_by_its_row():
    """Two targets, one of whose labels is missing in a frame: perfect tracks switch nothing."""
    other = Box(100, 100, 4, 4)
    boxes = {frame: [BOX, other] if frame != 4 else [other] for frame in range(FRAMES)}
    score = score_clip(Clip("two", Path("two.mp4"), boxes), said(*[{1: RIGHT, 2: other.centre}] * 10), fps=10.0)
    assert (score.tracked, score.switches) == (19, 0)
