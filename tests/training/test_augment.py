"""Crops are varied as the recipe says: noise of the strength named, honest masks, targets laid where they are seen."""

import numpy as np
import pytest

from training.augment import Augmentation, resample, side_before, vary
from training.data import make_batch
from training.paste import cut_targets, paste_target
from training.recipe import AugmentRecipe
from training.sample import Sample

EVERYTHING = Augmentation(
    gain=1.2,
    bias=0.05,
    noise=5,
    noise_share=1,
    poisson=5,
    stripes=3,
    salt_pepper=0.005,
    agc=1,
    scale=2,
    paste=1,
    away=0.5,
)


def varied(level, side=256, seed=0, **how):
    frame = np.full((side, side), level, np.uint8)
    return vary(frame, np.random.default_rng(seed), Augmentation(noise_share=1, **how))


def dotted(name="dot", side=64, at=(30, 20), level=60, peak=200):
    """A frame with one 3x3 target on even ground with a little grain."""
    frame = np.random.default_rng(1).integers(level - 1, level + 2, (side, side)).astype(np.uint8)
    mask = np.zeros((side, side), bool)
    mask[at[0] : at[0] + 3, at[1] : at[1] + 3] = True
    frame[mask] = peak
    return Sample(name, frame, mask)


def test_a_recipe_says_all_that_can_be_varied():
    """The recipe's keys and their defaults are the augmentation's."""
    assert Augmentation(**AugmentRecipe().model_dump()) == Augmentation()
    assert set(AugmentRecipe.model_fields) == set(Augmentation.__dataclass_fields__)


def test_by_default_nothing_is_varied():
    """Without a key that says so, a frame is what it was, and no chance is drawn."""
    frame = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rng = np.random.default_rng(0)
    assert np.array_equal(vary(frame, rng, Augmentation()), frame / np.float32(255))
    assert side_before(64, rng, Augmentation()) == 64
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("key", ["noise", "poisson", "stripes"])
def test_noise_is_as_strong_as_said_at_the_most(key):
    """The strength is uniform from 0 to the one named, so the mean over many crops is about half of it."""
    deviations = [255 * varied(128, 64, seed, **{key: 10}).std() for seed in range(60)]
    most = 10 * np.sqrt(128 / 255) if key == "poisson" else 10
    assert max(deviations) < 1.35 * most
    assert np.mean(deviations) == pytest.approx(most / 2, rel=0.25)


def test_shot_noise_grows_with_the_level():
    """Black has none; four times the level has twice the deviation."""
    black, dark, bright = (varied(level, poisson=8).std() for level in (0, 50, 200))
    assert black == 0
    assert bright / dark == pytest.approx(2, rel=0.05)


def test_stripes_run_along_columns_or_rows():
    """Within a stripe every pixel has the same offset."""
    ways = set()
    for seed in range(20):
        frame = varied(100, 32, seed, stripes=10)
        ways.add((bool(np.ptp(frame, axis=0).max() < 1e-6), bool(np.ptp(frame, axis=1).max() < 1e-6)))
    assert ways == {(True, False), (False, True)}


def test_salt_and_pepper_is_black_and_white():
    """At most the share named is replaced, about half of it by white."""
    frame = varied(128, salt_pepper=0.1)
    changed = frame != np.float32(128 / 255)
    assert 0 < changed.mean() < 0.1
    assert set(np.unique(frame[changed])) == {0, 1}


def test_noise_comes_and_stays_away():
    """With a share of 0 no crop has any."""
    how = Augmentation(noise=20, poisson=20, stripes=20, salt_pepper=0.5, noise_share=0)
    frame = np.full((16, 16), 9, np.uint8)
    assert np.ptp(vary(frame, np.random.default_rng(0), how)) == 0


def test_gain_control_keeps_what_is_brighter_brighter():
    """Gamma and stretch never turn levels around, nor turn more than a few pixels white; local equalisation differs."""
    ramp = np.repeat(np.arange(40, 168, dtype=np.uint8)[None], 128, 0)
    kept, changed = 0, 0
    for seed in range(60):
        frame = vary(ramp, np.random.default_rng(seed), Augmentation(agc=1))
        kept += bool((np.diff(frame, axis=1) >= 0).all())
        changed += not np.array_equal(frame, ramp / np.float32(255))
        assert (frame == 1).mean() < 0.05
    assert kept >= 30
    assert changed >= 55


SCALED = [
    ("a block of 4x4 is one of 2x2 at half the size", (8, 8, 4, 4), 16, 4),
    ("a block of 4x4 is one of 8x8 at twice the size", (8, 8, 4, 4), 64, 64),
    ("a single pixel does not vanish", (9, 9, 1, 1), 16, 1),
    ("nor does one between four pixels", (9, 9, 2, 2), 16, 4),
    ("nothing stays nothing", (0, 0, 0, 0), 16, 0),
]


@pytest.mark.parametrize(("why", "block", "size", "area"), SCALED, ids=[c[0] for c in SCALED])
def test_masks_stay_honest_when_crops_are_resampled(why, block, size, area):
    """A pixel is target where targets cover half of it, and no target is lost."""
    top, left, high, wide = block
    mask = np.zeros((32, 32), bool)
    mask[top : top + high, left : left + wide] = True
    frame, scaled = resample(np.where(mask, 200, 50).astype(np.uint8), mask, size)
    assert frame.shape == scaled.shape == (size, size)
    assert scaled.dtype == np.bool_
    assert scaled.sum() == area
    if area:
        assert frame[scaled].min() > 50


def test_a_cutout_is_the_target_without_its_background():
    """Its excess is the target's brightness over what surrounds it, and nothing at its edge."""
    (cutout,) = cut_targets(*(dotted().frame, dotted().mask))
    assert cutout.mask.sum() == 9
    assert cutout.excess[cutout.mask] == pytest.approx(140, abs=2)
    edge = np.concatenate([cutout.excess[0], cutout.excess[-1], cutout.excess[:, 0], cutout.excess[:, -1]])
    assert np.abs(edge).max() < 0.5


UNCUT = [
    ("a target at the frame's edge, whose surroundings are not known", dotted(at=(0, 20))),
    ("a target that hardly differs from them", dotted(peak=66)),
    ("one that is darker", dotted(peak=10)),
]


@pytest.mark.parametrize(("why", "sample"), UNCUT, ids=[c[0] for c in UNCUT])
def test_what_is_no_clear_target_is_not_cut(why, sample):
    """Pasted, it would be a label that nobody can see."""
    assert cut_targets(sample.frame, sample.mask) == ()


def test_a_pasted_target_is_what_its_mask_says():
    """The frame is brighter where the mask is new, and unchanged a few pixels away; what was given is left alone."""
    cutout = dotted().targets[0]
    ground = np.full((64, 64), 90, np.uint8)
    empty = np.zeros((64, 64), bool)
    for seed in range(20):
        frame, mask = paste_target(ground, empty, cutout, np.random.default_rng(seed))
        assert mask.sum() == 9
        assert (frame[mask] > 90 + 0.55 * 140).all()
        assert (frame != 90).sum() <= 81
    assert (ground == 90).all()
    assert not empty.any()


UNPASTED = [
    ("on white ground, where it cannot be brighter", np.full((64, 64), 250, np.uint8), False),
    ("where everything is target", np.full((64, 64), 90, np.uint8), True),
    ("in a frame too small for it", np.full((6, 6), 90, np.uint8), False),
]


@pytest.mark.parametrize(("why", "ground", "taken"), UNPASTED, ids=[c[0] for c in UNPASTED])
def test_a_target_is_not_pasted_where_it_is_not_seen(why, ground, taken):
    """The frame stays as it is."""
    full = np.full(ground.shape, taken)
    frame, mask = paste_target(ground, full, dotted().targets[0], np.random.default_rng(0))
    assert frame is ground
    assert mask is full


def test_targets_are_pasted_into_frames_without_any():
    """With a share of 1, crops of target-free frames have targets from others; with 0 they have none."""
    samples = [
        dotted(),
        *(Sample(f"sky{i}", np.full((64, 64), 80, np.uint8), np.zeros((64, 64), bool)) for i in range(3)),
    ]
    for share, least, most in ((1.0, 0.9, 1.0), (0.0, 0.0, 0.4)):
        masks = make_batch(samples, np.random.default_rng(0), 100, 64, 0.0, Augmentation(paste=share))[1]
        assert least <= (masks.sum((1, 2, 3)) > 0).mean() <= most


def test_crops_beside_targets_have_none():
    """With `away` every crop is target-free where the frame has room."""
    masks = make_batch([dotted()], np.random.default_rng(0), 50, 20, 0.0, Augmentation(away=1))[1]
    assert masks.sum() == 0


def test_everything_at_once_stays_in_range_and_is_the_generators():
    """Frames are in [0, 1], masks 0 or 1, and the same generator makes the same batch."""
    samples = [dotted(f"{i}", at=(20 + i, 30)) for i in range(5)]
    one, two = (make_batch(samples, np.random.default_rng(3), 16, 48, 0.5, EVERYTHING) for _ in range(2))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert one[0].min() >= 0
    assert one[0].max() <= 1
    assert set(np.unique(one[1])) == {0, 1}
