"""Detection: what becomes one, where it is, what it is worth, and that no map breaks it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from stream.detect import DetectConfig, Detections, FalseAlarms, detect, no_detections

H, W = 40, 60
FLAT = np.full((H, W), 100, np.uint8)
EVERYWHERE = DetectConfig(border=0)


def target_map(*pixels: tuple[int, int, int]) -> np.ndarray:
    """Return a map of (x, y, level) pixels."""
    levels = np.zeros((H, W), np.uint8)
    for x, y, level in pixels:
        levels[y, x] = level
    return levels


def bump(x: float, y: float, sigma: float = 1.2, peak: float = 1.0, shape: tuple[int, int] = (H, W)) -> np.ndarray:
    """Return the probabilities of a Gaussian target."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def as_map(probability: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(probability, 0, 1)).astype(np.uint8)


def places(found: Detections) -> list[tuple[float, float]]:
    return sorted(zip(np.round(found.x, 3).tolist(), np.round(found.y, 3).tolist(), strict=True))


@pytest.mark.parametrize(
    ("levels", "config", "expected"),
    [
        # An empty map has no detections.
        (target_map(), EVERYWHERE, []),
        # A single bright pixel is a detection at that pixel.
        (target_map((20, 10, 255)), EVERYWHERE, [(20.0, 10.0)]),
        # A pixel at the high threshold counts, one level below does not.
        (target_map((20, 10, 128)), EVERYWHERE, [(20.0, 10.0)]),
        (target_map((20, 10, 127)), EVERYWHERE, []),
        # A dim pixel joins a bright neighbour and pulls the centre by its share.
        (target_map((20, 10, 200), (21, 10, 100)), EVERYWHERE, [(20.333, 10.0)]),
        # A pixel at the low threshold does not join, one level above does.
        (target_map((20, 10, 200), (21, 10, 51)), EVERYWHERE, [(20.0, 10.0)]),
        (target_map((20, 10, 200), (21, 10, 52)), EVERYWHERE, [(20.206, 10.0)]),
        # Pixels that touch at a corner are one detection.
        (target_map((20, 10, 200), (21, 11, 200)), EVERYWHERE, [(20.5, 10.5)]),
        # Pixels a gap apart are two.
        (target_map((20, 10, 200), (22, 10, 200)), EVERYWHERE, [(20.0, 10.0), (22.0, 10.0)]),
        # The border band takes what has its centre in it, and nothing further in.
        (target_map((3, 20, 255), (5, 25, 255)), DetectConfig(border=4), [(5.0, 25.0)]),
        (target_map((W - 4, 20, 255), (W - 5, 25, 255)), DetectConfig(border=4), [(W - 5.0, 25.0)]),
        # A corner of the frame is fine without a border band.
        (target_map((0, 0, 255), (W - 1, H - 1, 255)), EVERYWHERE, [(0.0, 0.0), (W - 1.0, H - 1.0)]),
        # Too small and too large are left out.
        (target_map((20, 10, 200), (30, 10, 200), (31, 10, 200)), DetectConfig(border=0, min_area=2), [(30.5, 10.0)]),
        (target_map((20, 10, 200), (30, 10, 200), (31, 10, 200)), DetectConfig(border=0, max_area=1), [(20.0, 10.0)]),
        # The configured threshold goes before the model's.
        (target_map((20, 10, 200)), DetectConfig(border=0, high=0.9), []),
        (target_map((20, 10, 100)), DetectConfig(border=0, high=0.3), [(20.0, 10.0)]),
    ],
)
def test_what_is_detected(levels: np.ndarray, config: DetectConfig, expected: list[tuple[float, float]]) -> None:
    assert places(detect(levels, FLAT, config)) == expected


def test_the_models_threshold_is_used() -> None:
    levels = target_map((20, 10, 200))
    assert len(detect(levels, FLAT, EVERYWHERE, threshold=0.7)) == 1
    assert len(detect(levels, FLAT, EVERYWHERE, threshold=0.9)) == 0


@settings(max_examples=50, deadline=None)
@given(st.floats(10, 50), st.floats(10, 30), st.floats(0.9, 2.5))
def test_centres_are_sub_pixel(x: float, y: float, sigma: float) -> None:
    """The centre of a blurred point is found to a fifth of a pixel, wherever between pixels it lies."""
    found = detect(as_map(bump(x, y, sigma)), FLAT, EVERYWHERE)
    assert len(found) == 1
    assert found.x[0] == pytest.approx(x, abs=0.2)
    assert found.y[0] == pytest.approx(y, abs=0.2)


@pytest.mark.parametrize(
    ("levels", "split", "expected"),
    [
        # Two points five pixels apart run into each other and are told apart by their peaks.
        (as_map(bump(20, 10) + bump(25, 10)), True, [(20, 10), (25, 10)]),
        # The same without splitting is one detection between them.
        (as_map(bump(20, 10) + bump(25, 10)), False, [(22.5, 10)]),
        # Three in a row.
        (as_map(bump(20, 10) + bump(25, 10) + bump(30, 10)), True, [(20, 10), (25, 10), (30, 10)]),
        # A saturated disc has a flat top and stays one.
        (as_map(3 * bump(20, 10, 3.0)), True, [(20, 10)]),
        # A bar without a valley stays one.
        (as_map(np.maximum(bump(20, 10), bump(22, 10))), True, [(21, 10)]),
    ],
)
def test_touching_targets(levels: np.ndarray, split: bool, expected: list[tuple[float, float]]) -> None:
    found = places(detect(levels, FLAT, DetectConfig(border=0, split_peaks=split)))
    assert len(found) == len(expected)
    for got, right in zip(found, expected, strict=True):
        assert got == pytest.approx(right, abs=0.5)


def test_a_dim_second_peak_is_no_target() -> None:
    """Hysteresis holds for the parts of a split too: a peak under the high threshold goes."""
    found = detect(as_map(bump(20, 10) + bump(26, 10, peak=0.4)), FLAT, EVERYWHERE)
    assert places(found)[0] == pytest.approx((20, 10), abs=0.7)
    assert len(found) == 1


def test_area_and_peak() -> None:
    found = detect(target_map((20, 10, 255), (21, 10, 102), (20, 11, 153)), FLAT, EVERYWHERE)
    assert (found.area[0], found.peak[0]) == (3, 1.0)
    assert found.score[0] <= (255 + 102 + 153) / (3 * 255)
    assert (found.width, found.height, found.left_out) == (W, H, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("sign", [1, -1])
def test_signal_to_clutter(dtype: type, sign: int) -> None:
    """A target 40 grey levels off a surround with a spread of 5 has a ratio of 8, bright or dark, 8 or 16 bit."""
    rng = np.random.default_rng(0)
    scale = 1 if dtype == np.uint8 else 200
    ratios = []
    for _ in range(30):
        frame = rng.normal(120 * scale, 5 * scale, (H, W))
        frame[19:22, 29:32] = 120 * scale + sign * 40 * scale
        levels = np.zeros((H, W), np.uint8)
        levels[19:22, 29:32] = 255
        ratios.append(detect(levels, frame.astype(dtype), EVERYWHERE).scr[0])
    assert np.mean(ratios) == pytest.approx(8, rel=0.05)


def test_a_neighbour_does_not_hide_a_target() -> None:
    """Other targets' pixels are no part of a target's surround."""
    rng = np.random.default_rng(0)
    frame = rng.normal(100, 2, (H, W))
    levels = np.zeros((H, W), np.uint8)
    for x in (28, 34):
        levels[19:22, x - 1 : x + 2], frame[19:22, x - 1 : x + 2] = 255, 150
    assert detect(levels, frame.astype(np.uint8), EVERYWHERE).scr.min() > 15


def test_ratio_is_finite_without_spread_or_surround() -> None:
    """A flat surround counts with the spread of rounding alone; a map lit all over leaves no surround."""
    frame = FLAT.copy()
    frame[20, 30] = 110
    assert detect(target_map((30, 20, 255)), frame, EVERYWHERE).scr[0] == pytest.approx(10 * 12**0.5)
    lit = np.full((H, W), 255, np.uint8)
    found = detect(lit, FLAT, DetectConfig(border=0, max_area=H * W))
    assert (len(found), found.scr[0], found.score[0]) == (1, 0.0, 0.0)


def test_a_flood_is_bounded_and_counted() -> None:
    """Every second pixel of every second row is lit: the strongest are kept, the rest counted."""
    levels = np.zeros((512, 640), np.uint8)
    levels[::2, ::2] = 200
    levels[100, 100] = levels[300, 500] = 255
    found = detect(levels, np.zeros((512, 640), np.uint16), DetectConfig(border=0))
    assert len(found) == 256
    assert found.left_out == 256 * 320 - 256
    assert {(100.0, 100.0), (500.0, 300.0)} <= set(places(found))


def test_taking_some() -> None:
    found = detect(target_map((20, 10, 200), (30, 12, 255)), FLAT, EVERYWHERE)
    assert places(found.take(found.peak == 1)) == [(30.0, 12.0)]
    assert len(no_detections(W, H)) == 0


@settings(max_examples=150, deadline=None)
@given(
    levels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24))),
    deep=st.booleans(),
    border=st.integers(0, 3),
    limit=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_no_map_breaks_it(levels: np.ndarray, deep: bool, border: int, limit: int, seed: int) -> None:
    """Whatever the map and the frame: finite numbers, inside the frame, within bounds, the same twice."""
    kind = np.uint16 if deep else np.uint8
    frame = np.random.default_rng(seed).integers(0, np.iinfo(kind).max, levels.shape, kind, endpoint=True)
    config = DetectConfig(border=border, max_detections=limit)
    found, again = detect(levels, frame, config), detect(levels, frame, config)
    assert len(found) <= limit
    height, width = levels.shape
    for name in ("x", "y", "area", "peak", "score", "scr"):
        column = getattr(found, name)
        assert column.dtype == np.float64
        assert column.shape == (len(found),)
        assert np.isfinite(column).all()
        assert (column == getattr(again, name)).all()
    assert ((found.x >= border - 0.5) & (found.x <= width - 0.5 - border)).all()
    assert ((found.y >= border - 0.5) & (found.y <= height - 0.5 - border)).all()
    assert ((found.peak >= 0.5) & (found.peak <= 1)).all()
    assert ((found.score >= 0) & (found.score <= 1)).all()
    assert (found.area >= 1).all()


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.uint8, (16, 16)))
def test_without_splits_it_is_hysteresis(levels: np.ndarray) -> None:
    """Areas and peaks are those of scipy's components that hold a pixel at the threshold."""
    from scipy import ndimage

    found = detect(levels, levels, DetectConfig(border=0, split_peaks=False))
    labels, count = ndimage.label(levels > 51, np.ones((3, 3)))
    parts = [levels[labels == key] for key in range(1, count + 1)]
    right = sorted((len(part), part.max() / 255) for part in parts if part.max() >= 128)
    assert sorted(zip(found.area.tolist(), found.peak.tolist(), strict=True)) == right


def test_false_alarms_are_held() -> None:
    """Twenty false scores a frame come down to two, a stronger target stays, and quiet lets the threshold fall."""
    rng = np.random.default_rng(0)
    alarms = FalseAlarms(2.0)
    kept_false, kept_target = [], []
    for _ in range(300):
        scores = np.append(rng.uniform(0, 0.6, rng.poisson(20)), 0.8)
        kept = alarms.keep(_scored(scores))
        alarms.learn(kept.score == 0.8)
        kept_false.append((kept.score < 0.8).sum())
        kept_target.append((kept.score == 0.8).sum())
    assert np.mean(kept_false[50:]) == pytest.approx(2, abs=0.6)
    assert np.mean(kept_target) == 1
    for _ in range(300):
        alarms.learn(np.zeros(len(alarms.keep(_scored(np.empty(0)))), np.bool_))
    assert alarms.threshold == 0


def test_false_alarms_of_streams_are_their_own() -> None:
    """A flood in one stream costs another nothing."""
    flooded, quiet = FalseAlarms(1.0), FalseAlarms(1.0)
    for _ in range(100):
        flooded.learn(np.zeros(len(flooded.keep(_scored(np.linspace(0, 1, 50)))), np.bool_))
        quiet.learn(np.zeros(len(quiet.keep(_scored(np.array([0.3])))), np.bool_))
    assert flooded.threshold > 0.9
    assert quiet.threshold == 0


def _scored(score: np.ndarray) -> Detections:
    ones = np.ones(len(score))
    return Detections(x=ones, y=ones, area=ones, peak=ones, score=score, scr=ones, width=W, height=H)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"low": 0.6, "high": 0.5}, "at most high"),
        ({"min_area": 10, "max_area": 9}, "at most max_area"),
        ({"high": 1.0}, "high"),
        ({"hihg": 0.5}, "hihg"),
    ],
)
def test_bad_settings_are_named(given_: dict[str, float], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DetectConfig(**given_)
