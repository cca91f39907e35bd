import numpy as np
import pytest

from stream.sources import BEHIND_NS
from stream.sources.base import EndOfSource
from stream.sources.scene import SceneConfig, SceneSource


def scene(**fields):
    return SceneSource(SceneConfig(**{"live": False, **fields}))


@pytest.mark.parametrize("bits", [8, 16])
def test_the_same_seed_gives_the_same_frames_and_truth(bits):
    one, other = scene(seed=3, bits=bits), scene(seed=3, bits=bits)
    for _ in range(40):
        a, b = one.read(1.0), other.read(1.0)
        np.testing.assert_array_equal(a.pixels, b.pixels)
        assert a.truth == b.truth
        np.testing.assert_array_equal(one.mask(), other.mask())


def test_another_seed_gives_another_scene():
    assert np.any(scene(seed=1).read(1.0).pixels != scene(seed=2).read(1.0).pixels)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (320, 256), (641, 513)])
def test_every_size_and_seed_gives_frames_of_that_size(width, height):
    for seed in range(8):
        source = scene(seed=seed, width=width, height=height)
        frame = source.read(1.0)
        assert frame.pixels.shape == source.mask().shape == (height, width)
        assert frame.pixels.dtype == np.uint8


def test_16_bits_are_the_same_scene_finer():
    eight, sixteen = scene(seed=5).read(1.0), scene(seed=5, bits=16).read(1.0)
    assert sixteen.pixels.dtype == np.uint16
    assert sixteen.truth == eight.truth
    assert np.abs(sixteen.pixels / 257 - eight.pixels).max() <= 0.51
    assert len(np.unique(sixteen.pixels % 257)) > 200  # not 8 bits multiplied


def test_truth_is_where_the_bright_spots_are():
    """The frames of a scene less those of the same scene without targets leave spots around the true places."""
    compared = 0
    for seed in range(4):
        source, empty = scene(seed=seed, bits=16, targets=3), scene(seed=seed, bits=16, targets=0)
        for index in range(45):
            frame, behind = source.read(1.0), empty.read(1.0)
            if index % 15:
                continue
            assert behind.truth == ()
            added = frame.pixels.astype(float) - behind.pixels
            for point in frame.truth:
                x, y = round(point.x), round(point.y)
                if not (8 < x < 311 and 8 < y < 247):
                    continue
                others = [p for p in frame.truth if p.id != point.id]
                if any(np.hypot(p.x - point.x, p.y - point.y) < 20 for p in others):
                    continue
                spot = added[y - 6 : y + 7, x - 6 : x + 7].clip(0)
                rows, columns = np.mgrid[y - 6 : y + 7, x - 6 : x + 7]
                if frame.pixels[y - 6 : y + 7, x - 6 : x + 7].max() == 65535 or spot.sum() == 0:
                    continue  # white has no centre
                compared += 1
                assert np.sum(spot * columns) / spot.sum() == pytest.approx(point.x, abs=0.3)
                assert np.sum(spot * rows) / spot.sum() == pytest.approx(point.y, abs=0.3)
    assert compared > 10


def test_the_mask_has_one_small_piece_for_each_true_target():
    for seed in range(10):
        source = scene(seed=seed)
        for _ in range(20):
            frame = source.read(1.0)
        mask = source.mask()
        for point in frame.truth:
            x, y = round(point.x), round(point.y)
            assert mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()
        assert mask.sum() <= 40 * max(len(frame.truth), 1)


def test_targets_move_smoothly_are_born_and_die():
    source, places, ids = scene(seed=2), {}, set()
    for _ in range(600):
        for point in source.read(1.0).truth:
            if point.id in places:
                x, y = places[point.id]
                assert np.hypot(point.x - x, point.y - y) < 61 / 30
            places[point.id] = point.x, point.y
            ids.add(point.id)
    assert len(ids) > 4


def test_a_scene_ends_after_its_frames():
    source = scene(frames=3)
    assert [source.read(1.0).camera_ns for _ in range(3)] == [0, 33_333_333, 66_666_667]
    with pytest.raises(EndOfSource):
        source.read(1.0)


def test_a_closed_scene_has_ended():
    source = scene()
    source.close()
    source.close()
    with pytest.raises(EndOfSource):
        source.read(1.0)


def test_live_frames_are_captured_when_due_and_a_timeout_loses_none(clock):
    source, unpaced, start = scene(live=True, fps=10), scene(fps=10), clock.ns
    frames, nones = [], 0
    while len(frames) < 3:
        frame = source.read(0.03)
        nones += frame is None
        frames += [frame] if frame else []
    assert nones == 6
    for index, frame in enumerate(frames):
        assert frame.captured_ns == start + index * 100_000_000
        np.testing.assert_array_equal(frame.pixels, unpaced.read(1.0).pixels)


def test_after_a_standstill_the_frame_is_the_present_one_and_the_lost_are_counted(clock):
    source, unpaced = scene(live=True, fps=10), scene(fps=10)
    source.read(1.0)
    clock.ns += 3_000_000_000
    frame = source.read(1.0)
    assert clock.ns - frame.captured_ns <= BEHIND_NS
    assert frame.lost == 29
    for _ in range(31):
        right = unpaced.read(1.0)
    np.testing.assert_array_equal(frame.pixels, right.pixels)
    assert frame.truth == right.truth


def test_a_loop_gives_its_frames_over_and_over():
    """Frame n of a loop of three is frame n modulo 3 of the scene, with its truth; numbers and times go on."""
    source, scene_itself = scene(seed=3, loop=3, frames=7), scene(seed=3)
    first = [scene_itself.read(1.0) for _ in range(3)]
    for index in range(7):
        frame = source.read(1.0)
        np.testing.assert_array_equal(frame.pixels, first[index % 3].pixels)
        assert frame.truth == first[index % 3].truth
        assert frame.camera_ns == round(index * 1e9 / 30)
    with pytest.raises(EndOfSource):
        source.read(1.0)
