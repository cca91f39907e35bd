"""The motion of a whole scene, from its frames."""

import cv2
import numpy as np
import pytest

from stream.motion import SceneMotion


def view(dx=0.0, dy=0.0, dtype=np.uint8, size=(320, 256), seed=4):
    """Part of a textured scene, seen from a camera that has turned: the scene moves by (dx, dy)."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(0, 1, (400, 480)).astype(np.float32), (0, 0), 3)
    scene = 120 + 40 * texture / texture.std()
    move = np.array([[1, 0, dx - 80], [0, 1, dy - 70]], np.float32)
    seen = cv2.warpAffine(scene, move, size, flags=cv2.INTER_CUBIC)
    scale = 257 if dtype == np.uint16 else 1
    return np.clip(scale * seen, 0, np.iinfo(dtype).max).astype(dtype)


MOVES = [
    ("still", 0, 0),
    ("right", 6, 0),
    ("up", 0, -9),
    ("both, in part of a pixel", -4.5, 3.25),
    ("a fast pan", 30, 0),
]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("move", "dx", "dy"), MOVES, ids=[c[0] for c in MOVES])
def test_a_pan_is_found_to_a_third_of_a_pixel(move, dx, dy, dtype):
    motion = SceneMotion()
    assert motion.update(view(dtype=dtype)) == (0, 0)
    assert motion.update(view(dx, dy, dtype)) == pytest.approx((dx, dy), abs=0.35)


def test_frames_that_have_nothing_in_common_move_nothing():
    motion = SceneMotion()
    motion.update(view())
    assert motion.update(view(seed=9)) == (0, 0)


def test_a_blank_frame_and_another_size_begin_anew():
    motion = SceneMotion()
    motion.update(view())
    assert motion.update(np.zeros((256, 320), np.uint8)) == (0, 0)
    assert motion.update(view(size=(200, 160))) == (0, 0)
    assert motion.update(view(3, 0, size=(200, 160))) == pytest.approx((3, 0), abs=0.35)
