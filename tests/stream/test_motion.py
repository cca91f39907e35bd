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


def test_a_scene_that_stands_still_does_not_drift():
    """Ten seconds under sensor noise: the steps add up to nothing, so that what stands in the scene stands."""
    rng, motion, scene = np.random.default_rng(1), SceneMotion(), view().astype(np.float32)
    noisy = (np.clip(scene + rng.normal(0, 2, scene.shape), 0, 255).astype(np.uint8) for _ in range(300))
    steps = np.array([motion.update(frame) for frame in noisy])
    assert np.abs(steps.cumsum(0)).max() < 0.2


def test_a_pan_adds_up_over_key_frames():
    """Until nothing of the first frame is in sight any more, and back."""
    motion = SceneMotion()
    shifts = [*np.arange(0, 78, 3.0), *np.arange(78, -78, -3.0)]
    steps = np.array([motion.update(view(dx)) for dx in shifts])
    assert np.abs(steps[:, 0].cumsum() - shifts).max() < 0.7
    assert np.abs(steps[:, 1].cumsum()).max() < 0.7


def test_targets_in_an_empty_sky_are_no_scene():
    """Three of them fly one way: without a scene to be seen, nothing says that the camera turned the other way."""
    motion, steps = SceneMotion(), []
    for k in range(20):
        frame = np.full((256, 320), 90, np.uint8)
        for x, y in ((60, 60), (150, 120), (200, 200)):
            frame[y - 1 : y + 2, x + 2 * k - 1 : x + 2 * k + 2] = 220
        steps.append(motion.update(frame))
    assert set(steps) == {(0.0, 0.0)}


def test_a_target_does_not_move_the_scene():
    motion, scene, steps = SceneMotion(), view(), []
    for k in range(20):
        frame = scene.copy()
        frame[100:104, 40 + 4 * k : 44 + 4 * k] = 255
        steps.append(motion.update(frame))
    assert np.abs(np.cumsum(steps, axis=0)).max() < 0.2


def test_a_frame_that_is_overwritten_is_not_missed():
    """Frames come in memory that the next one takes: a pan is found all the same."""
    motion, memory, steps = SceneMotion(), np.zeros((256, 320), np.uint8), []
    for k in range(6):
        memory[:] = view(4 * k)
        steps.append(motion.update(memory))
    assert sum(dx for dx, _ in steps) == pytest.approx(20, abs=0.5)
