"""Scenes are drawn from a generator alone, with masks that are exact, on every kind of background."""

import cv2
import numpy as np
import pytest

from training import scenes
from training.recipe import Background, DataRecipe
from training.scenes import BACKGROUNDS, Scene

EVERY = tuple(DataRecipe(set="scene").backgrounds)


def draw(seed, kinds=EVERY, side=256):
    return Scene(kinds).draw(np.random.default_rng(seed), side)


def test_the_recipes_kinds_are_those_that_are_drawn():
    """Overlays come on top of the others."""
    assert {*BACKGROUNDS, "overlays"} == set(Background.__args__) == set(EVERY)


@pytest.mark.parametrize("kind", EVERY)
def test_a_scene_is_the_generators(kind):
    """The same seed gives the same frame, another seed another; neither is empty nor white."""
    for seed in range(5):
        frame, mask = draw(seed, (kind,))
        assert (frame.dtype, frame.shape, mask.dtype, mask.shape) == (np.uint8, (256, 256), np.bool_, (256, 256))
        again = draw(seed, (kind,))
        assert np.array_equal(frame, again[0])
        assert np.array_equal(mask, again[1])
        assert frame.std() > 0.3
    assert not np.array_equal(frame, draw(99, (kind,))[0])


def test_masks_mark_what_exceeds_half_of_its_peak(monkeypatch):
    """The same scene without its targets differs where they are: in the mask by at least about half of the most."""
    monkeypatch.setattr(scenes, "TARGET_FREE", 0.0)
    monkeypatch.setattr(scenes, "_expose", lambda rng, image, noise: None)
    before = []
    add = scenes._add_target

    def remember(rng, image, mask, noise):
        before.append(image.copy())
        add(rng, image, mask, noise)

    monkeypatch.setattr(scenes, "_add_target", remember)
    found = 0
    for seed in range(30):
        before.clear()
        frame, mask = draw(seed, tuple(BACKGROUNDS))
        rise = frame.astype(np.float32) - np.clip(before[0], 0, 255)
        count, labels = cv2.connectedComponents(cv2.dilate(mask.view(np.uint8), np.ones((5, 5), np.uint8)))
        for index in range(1, count):
            around = labels == index
            peak = rise[around].max()
            assert rise[around & mask].min() >= 0.5 * peak - 1.5
            assert rise[around & ~mask].max() <= 0.5 * peak + 1.5
            found += 1
    assert found > 30


def test_targets_have_the_sizes_of_real_ones():
    """Half of the areas lie between those of NUDT-SIRST's and NUAA-SIRST's 5th and 95th percentiles, or near."""
    areas = []
    for seed in range(60):
        mask = draw(seed, side=256)[1]
        areas += cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA].tolist()
    assert len(areas) > 60
    assert 8 < np.median(areas) < 40
    assert max(areas) < 160


def test_some_scenes_have_no_target():
    """Target-free frames teach what is none."""
    free = np.mean([not draw(seed, side=128)[1].any() for seed in range(100)])
    assert 0.2 < free < 0.6


@pytest.mark.parametrize("side", [8, 17, 64, 700])
def test_any_side_is_drawn(side):
    """Crops that are resampled ask for odd sides, small and larger than a texture."""
    for seed in range(20):
        assert draw(seed, side=side)[0].shape == (side, side)
