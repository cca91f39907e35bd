"""Masks out of loose boxes: only where the frame leaves no doubt."""

import numpy as np
import pytest

from training.box_masks import mask_in_box

BOX = (20.0, 16.0, 12.0, 10.0)


def sky(noise=2.0, level=60.0):
    return np.random.default_rng(3).normal(level, noise, (48, 64))


def spot(frame, y=21, x=26, peak=80.0, sigma=1.2):
    rows, columns = np.indices(frame.shape)
    lit = frame + peak * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def test_a_bright_spot_is_its_pixels_above_half_of_its_peak():
    mask = mask_in_box(spot(sky()), BOX)
    rows, columns = np.nonzero(mask)
    assert (rows.mean(), columns.mean()) == pytest.approx((21, 26), abs=0.5)
    assert 5 <= mask.sum() <= 15


def test_what_touches_the_box_from_outside_is_not_taken_along():
    """A bright edge below the box raises the ring's spread, and no mask leaves the box."""
    frame = sky()
    frame[28:] = 200
    mask = mask_in_box(spot(frame), BOX)
    assert mask is None or not mask[28:].any()


DOUBTS = [
    ("nothing there", sky().astype(np.uint8)),
    ("too faint", spot(sky(), peak=8)),
    ("lost in noise", spot(sky(noise=15), peak=40, sigma=0.7)),
    ("dark on bright", spot(sky(level=180), peak=-90)),
    ("as large as the box", spot(sky(), sigma=9)),
]


@pytest.mark.parametrize(("why", "frame"), DOUBTS, ids=[c[0] for c in DOUBTS])
def test_where_there_is_doubt_there_is_no_mask(why, frame):
    assert mask_in_box(frame, BOX) is None


def test_a_box_at_the_edge_and_one_outside():
    frame = spot(sky(), y=1, x=2)
    assert mask_in_box(frame, (0, 0, 6, 5)).any()
    assert mask_in_box(frame, (62.5, 47.0, 10, 10)) is None
    assert mask_in_box(frame, (200, 200, 10, 10)) is None
