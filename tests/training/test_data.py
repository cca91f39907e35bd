"""Data sets are read or refused by name before training starts, and crops are what they are said to be."""

import shutil

import cv2
import numpy as np
import pytest

from training.data import Augmentation, DataError, Sample, make_batch, part_of, read_split

PLAIN = Augmentation()


def test_a_split_is_read(tiny_set):
    """Frames are 8-bit gray, masks boolean, and the order that of the list."""
    samples = read_split(tiny_set, "test")
    assert [sample.name for sample in samples] == ["f20", "f21", "f22", "f23"]
    for sample in samples:
        assert (sample.frame.dtype, sample.mask.dtype) == (np.uint8, np.bool_)
        assert sample.frame.shape == sample.mask.shape == (40, 48)
        assert sample.mask.sum() == (0 if sample.name == "f20" else 9)


@pytest.fixture
def copy(tiny_set, tmp_path):
    """A copy of the data set, to break."""
    return shutil.copytree(tiny_set, tmp_path / "copy")


def write(path, pixels):
    assert cv2.imwrite(str(path), pixels)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SQUARE, ONES = np.zeros((40, 40), np.uint8), np.eye(40, 48, dtype=np.uint8)
BREAKS = [
    ("no list", lambda f: (f / "test.txt").unlink(), r"test.txt: no such file; a data set is a folder with images/"),
    ("an empty list", lambda f: (f / "test.txt").write_text("\n"), r"test.txt: names no frame"),
    ("a list that is no text", lambda f: (f / "test.txt").write_bytes(b"\xff\xfe\x00\x81"), r"test.txt: not readable"),
    ("a missing frame", lambda f: (f / "images/f21.png").unlink(), r"images/f21.png: no such image"),
    ("a missing mask", lambda f: (f / "masks/f21.png").unlink(), r"masks/f21.png: no such image"),
    ("a file that is no image", lambda f: (f / "images/f22.png").write_text("x"), r"images/f22.png: not a readable"),
    ("an empty file", lambda f: (f / "masks/f22.png").write_bytes(b""), r"masks/f22.png: not a readable image"),
    ("half a file", lambda f: truncate(f / "images/f23.png"), r"images/f23.png: not a readable image"),
    (
        "a mask of another size",
        lambda f: write(f / "masks/f20.png", SQUARE),
        r"f20.png: mask of 40x40 for a frame of 48x40",
    ),
    (
        "16-bit pixels",
        lambda f: write(f / "images/f20.png", SQUARE.astype(np.uint16)),
        r"f20.png: uint16 pixels; 8-bit gray",
    ),
    (
        "a mask of 0 and 1",
        lambda f: write(f / "masks/f20.png", ONES),
        r"f20.png: its brightest pixel is 1; a mask is 0 and 255",
    ),
]


@pytest.mark.parametrize(("why", "spoil", "said"), BREAKS, ids=[c[0] for c in BREAKS])
def test_a_set_that_cannot_be_used_is_refused(why, spoil, said, copy):
    """Whatever is wrong, the error is one line that names the file."""
    spoil(copy)
    with pytest.raises(DataError, match=said) as caught:
        read_split(copy, "test")
    assert "\n" not in str(caught.value)


def test_gray_saved_as_colour_is_gray(copy):
    """Colour files of gray pixels, common in these sets, are read as what they are."""
    gray = cv2.imread(str(copy / "images/f20.png"), cv2.IMREAD_UNCHANGED)
    write(copy / "images/f20.png", cv2.merge([gray, gray, gray]))
    assert np.array_equal(read_split(copy, "test")[0].frame, gray)


def test_other_suffixes_are_found(copy):
    """An image need not be a PNG."""
    (copy / "images/f20.png").unlink()
    write(copy / "images/f20.bmp", np.full((40, 48), 7, np.uint8))
    assert (read_split(copy, "test")[0].frame == 7).all()


def test_a_frames_part_never_changes():
    """The held-out tenth is the same on every machine and for ever."""
    assert [part_of(name, 10) for name in ("000001", "Misc_1", "f00")] == [8, 3, 3]
    parts = [part_of(f"{index:06}", 10) for index in range(5000)]
    assert all(400 < parts.count(part) < 600 for part in range(10))


def ramp(height, width):
    """A frame whose every pixel is another value, so that a crop tells where it is from."""
    frame = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    return Sample("ramp", frame, frame == frame[height // 2, width // 2])


def test_frame_and_mask_turn_together():
    """Whatever flip or transposition a crop had, its mask marks the same pixels."""
    sample = ramp(12, 16)
    frames, masks = make_batch([sample], np.random.default_rng(0), 64, 8, 1.0, PLAIN)
    assert frames.shape == masks.shape == (64, 1, 8, 8)
    assert (frames.dtype, masks.dtype) == (np.float32, np.float32)
    value = sample.frame[6, 8] / np.float32(255)
    assert np.array_equal(masks > 0, np.isclose(frames, value, atol=1e-4))
    turned = {tuple(np.sign(np.gradient(frame[0])[axis][4, 4]) for axis in (0, 1)) for frame in frames}
    assert len(turned) == 4


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_crops_are_laid_over_targets_as_often_as_asked(share):
    """With a share of 1 every crop of a frame with a target has it; with 0 it is left to chance."""
    mask = np.zeros((200, 200), bool)
    mask[150, 20] = True
    sample = Sample("one", np.zeros((200, 200), np.uint8), mask)
    _, masks = make_batch([sample], np.random.default_rng(0), 100, 20, share, PLAIN)
    assert (masks.sum((1, 2, 3)) > 0).mean() == pytest.approx(share, abs=0.1)


def test_a_small_frame_is_mirrored():
    """A crop larger than the frame holds nothing but the frame."""
    sample = Sample("small", np.array([[10, 20], [30, 40]], np.uint8), np.zeros((2, 2), bool))
    frames, _ = make_batch([sample], np.random.default_rng(0), 4, 8, 0.0, PLAIN)
    assert set(np.round(np.unique(frames) * 255)) == {10, 20, 30, 40}


def test_chance_is_the_generators():
    """The same generator makes the same batch, variation included."""
    sample, augment = ramp(40, 40), Augmentation(gain=1.3, bias=0.1, noise=5)
    one, two, other = (make_batch([sample], np.random.default_rng(seed), 4, 16, 0.5, augment) for seed in (1, 1, 2))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0])


def test_variation_stays_in_range():
    """Strong gain, bias and noise leave frames in [0, 1] and masks alone."""
    augment = Augmentation(gain=4, bias=1, noise=200, noise_share=1)
    frames, masks = make_batch([ramp(40, 40)], np.random.default_rng(0), 16, 16, 1.0, augment)
    assert frames.min() >= 0
    assert frames.max() <= 1
    assert set(np.unique(masks)) <= {0, 1}
