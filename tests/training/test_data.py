"""Data sets are read or refused by name before training starts, and crops are what they are said to be."""

import shutil

import av
import cv2
import numpy as np
import pytest

from training.data import Augmentation, DataError, Sample, Scene, make_batch, part_of, read_parts, read_split
from training.labelled_video import clip_names
from training.recipe import DataRecipe
from training.sets import read_video

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
    (
        "an inverted mask",
        lambda f: write(f / "masks/f20.png", 255 - cv2.imread(str(f / "masks/f20.png"), cv2.IMREAD_GRAYSCALE)),
        r"f20.png: more than half of it is target; a mask is 255 on targets",
    ),
]


@pytest.mark.parametrize(("why", "spoil", "said"), BREAKS, ids=[c[0] for c in BREAKS])
def test_a_set_that_cannot_be_used_is_refused(why, spoil, said, copy):
    """Whatever is wrong, the error is one line that names the file."""
    spoil(copy)
    with pytest.raises(DataError, match=said) as caught:
        read_split(copy, "test")
    assert "\n" not in str(caught.value)


def published(folder, shape, split="train"):
    """Write three frames and masks in a published shape; return the names and pixels."""
    images, masks, listing, suffix = shape
    rng = np.random.default_rng(0)
    frames = {f"XDU{index}": rng.integers(0, 256, (12, 16), np.uint8) for index in (0, 2, 10)}
    for kind in (images, masks):
        (folder / kind).mkdir(parents=True)
    for name, frame in frames.items():
        write(folder / images / f"{name}.png", frame)
        write(folder / masks / f"{name}{suffix}.png", np.where(frame > 200, 255, 0).astype(np.uint8))
    if listing:
        (folder / listing).parent.mkdir(exist_ok=True)
        (folder / listing).write_text("\n".join(frames))
    return frames


SHAPES = [
    ("IRSTD-1k as its authors pack it", ("IRSTD1k_Img", "IRSTD1k_Label", "trainval.txt", ""), "train"),
    ("IRSTD-1k, its list asked for by its own name", ("IRSTD1k_Img", "IRSTD1k_Label", "trainval.txt", ""), "trainval"),
    ("IRSTD-1k, its test split", ("IRSTD1k_Img", "IRSTD1k_Label", "test.txt", ""), "test"),
    ("SIRST-Aug, which has no lists", ("trainval/images", "trainval/masks", "", ""), "train"),
    ("SIRST-Aug, its test split", ("test/images", "test/masks", "", ""), "test"),
    ("NUDT-SIRST with its lists in a folder", ("images", "masks", "50_50/train.txt", ""), "train"),
    ("NUDT-SIRST with lists that name the set", ("images", "masks", "img_idx/test_NUDT-SIRST.txt", ""), "test"),
    ("NUAA-SIRST, whose masks are called otherwise", ("images", "masks", "idx_427/trainval.txt", "_pixels0"), "train"),
]


@pytest.mark.parametrize(("why", "shape", "split"), SHAPES, ids=[c[0] for c in SHAPES])
def test_published_shapes_are_read(why, shape, split, tmp_path):
    """The data sets of this field are read as they are distributed, whatever their folders are called."""
    frames = published(tmp_path, shape)
    samples = read_split(tmp_path, split)
    assert [s.name for s in samples] == sorted(frames) if not shape[2] else list(frames)
    for sample in samples:
        assert np.array_equal(sample.frame, frames[sample.name])
        assert np.array_equal(sample.mask, sample.frame > 200)


@pytest.mark.parametrize("suffix", [".jpeg", ".JPG", ".PNG"])
def test_a_suffix_may_be_in_capitals(suffix, copy):
    """What cameras and other systems call their files is read as well, from a list or a folder."""
    for path in (copy / "images").iterdir():
        path.rename(path.with_suffix(suffix))  # OpenCV goes by the content
    assert len(read_split(copy, "test")) == 4


UNPUBLISHED = [
    ("a mask that is missing", lambda f: (f / "test/masks/XDU2.png").unlink(), r"test/masks/XDU2.png: no such image"),
    (
        "a split without images",
        lambda f: [p.unlink() for p in (f / "test/images").iterdir()],
        r"images: no images in it",
    ),
]


@pytest.mark.parametrize(("why", "spoil", "said"), UNPUBLISHED, ids=[c[0] for c in UNPUBLISHED])
def test_folders_without_lists_are_checked_as_well(why, spoil, said, tmp_path):
    """Every image has to have its mask."""
    published(tmp_path, ("test/images", "test/masks", "", ""))
    spoil(tmp_path)
    with pytest.raises(DataError, match=said):
        read_split(tmp_path, "test")


def test_the_real_sets_are_complete(data):
    """The lists of the sets at hand name as many frames as were published, each with its mask."""
    for name, split, count in (("nuaa-sirst", "train", 213), ("sirst-v2-train", "train", 173)):
        samples = read_split(data / name, split)
        assert len(samples) == count
    assert sum(not s.mask.any() for s in samples) > 100


CLIP = "frame,x,y,w,h\n0,10.5,8,4,3\n2,30,20,4,3\n2,1,1,2,2\n4,0,0,4,3\n"


@pytest.fixture
def clips(tmp_path):
    """A folder of one labelled clip: six frames, whose level is 40 times their number."""
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "clips.csv").write_text("clip,class\nsky,drone\n")
    (folder / "sky.csv").write_text(CLIP)
    with av.open(str(folder / "sky.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30, width=64, height=48, pix_fmt="yuv420p")
        for index in range(6):
            image = np.full((48, 64), 40 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="gray").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return folder


def test_labelled_clips_are_background(clips):
    """Every n-th frame that has a box, as bright as it was; the boxes, grown by four pixels, are unknown."""
    samples = read_video(clips, None, 2)
    assert [s.name for s in samples] == ["sky/000000", "sky/000002", "sky/000004"]
    assert [s.boxes for s in samples] == [
        ((6, 4, 19, 15),),
        ((26, 16, 38, 27), (0, 0, 7, 7)),
        ((0, 0, 8, 7),),
    ]
    for index, sample in enumerate(samples):
        assert not sample.mask.any()
        assert sample.frame.mean() == pytest.approx(80 * index, abs=4)
        assert (~sample.known).sum() == sum(
            (right - left) * (bottom - top) for left, top, right, bottom in sample.boxes
        )
    assert [s.name for s in read_video(clips, ["sky"], 4)] == ["sky/000000", "sky/000004"]


def test_the_free_parts_touch_no_box(clips):
    """Together they hold all that lies beside a single box."""
    for sample in read_video(clips, None, 2):
        free = np.zeros(sample.frame.shape, bool)
        for left, top, right, bottom in sample.free:
            free[top:bottom, left:right] = True
        assert not (free & ~sample.known).any()
        if len(sample.boxes) == 1:
            assert np.array_equal(free, sample.known)


@pytest.mark.parametrize("size", [16, 24, 40, 64])
def test_crops_of_clips_touch_no_box(size):
    """Even where only a mirrored part of the frame fills the crop."""
    frame = np.zeros((48, 64), np.uint8)
    frame[20:30, 30:40] = 255
    sample = Sample("box", frame, np.zeros(frame.shape, bool), ((30, 20, 40, 30),))
    frames, masks = make_batch([sample], np.random.default_rng(0), 100, size, 1.0, PLAIN)
    assert frames.max() == masks.max() == 0


BROKEN_CLIPS = [
    ("no CSV", lambda f: (f / "sky.csv").unlink(), r"sky.csv: not a readable CSV"),
    ("a CSV of other columns", lambda f: (f / "sky.csv").write_text("a,b\n1,2\n"), r"sky.csv: no column 'frame'"),
    ("a box that is no number", lambda f: (f / "sky.csv").write_text(CLIP + "5,a,1,1,1\n"), r"sky.csv: line 6 is not"),
    ("a row cut short", lambda f: (f / "sky.csv").write_text(CLIP + "5,1\n"), r"sky.csv: line 6 is not"),
    ("a box beyond the video", lambda f: (f / "sky.csv").write_text(CLIP + "8,1,1,1,1\n"), r"sky.mp4: 6 frames"),
    ("no video", lambda f: (f / "sky.mp4").unlink(), r"sky.mp4: no such file"),
    ("a video that is none", lambda f: (f / "sky.mp4").write_text("x"), r"sky.mp4: not a video"),
    ("an empty video", lambda f: (f / "sky.mp4").write_bytes(b""), r"sky.mp4: not a video"),
    ("half a video", lambda f: truncate(f / "sky.mp4"), r"sky.mp4: no(t a)? video"),
    (
        "a box over all of a frame",
        lambda f: (f / "sky.csv").write_text(f"{CLIP.splitlines()[0]}\n1,2,2,60,44\n"),
        r"frame sky/000001: its boxes, grown by 4 px, leave nothing",
    ),
    ("no list of names", lambda f: (f / "clips.csv").write_text("name\nsky\n"), r"clips.csv: no column 'clip'"),
]


@pytest.mark.parametrize(("why", "spoil", "said"), BROKEN_CLIPS, ids=[c[0] for c in BROKEN_CLIPS])
def test_clips_that_cannot_be_used_are_refused(why, spoil, said, clips):
    """Whatever is wrong, the error is one line that names the file."""
    spoil(clips)
    with pytest.raises(DataError, match=said) as caught:
        read_video(clips, None, 1)
    assert "\n" not in str(caught.value)


def test_a_recipe_names_clips_that_are_there(clips, tiny_set):
    """A clip that is not, or clips of a set that has none, are errors before training."""
    with pytest.raises(DataError, match=r"clips.csv: no clip 'sea' in it"):
        read_video(clips, ["sea"], 1)
    with pytest.raises(DataError, match=r"dots: a recipe names clips of it"):
        read_parts([DataRecipe(set="dots", clips=["sky"])], tiny_set.parent, 10)
    with pytest.raises(DataError, match=r"clips: set_aside: frames of video cannot be set aside"):
        read_parts([DataRecipe(set="clips", set_aside=3)], clips.parent, 10)


def test_a_recipe_mixes_kinds_of_sets(clips, tiny_set, tmp_path):
    """Images, clips and scenes make one list, each as often as weighed; only images are held out."""
    shutil.copytree(tiny_set, tmp_path / "dots")
    parts = [
        DataRecipe(set="dots", repeat=2),
        DataRecipe(set="clips", every=2, repeat=3),
        DataRecipe(set="scene", frames=7, backgrounds=["sea"]),
    ]
    train, held_out = read_parts(parts, tmp_path, 10)
    assert sum(isinstance(s, Scene) for s in train) == 7
    assert sum(isinstance(s, Sample) and bool(s.boxes) for s in train) == 9
    images = sum(isinstance(s, Sample) and not s.boxes for s in train)
    assert images == 2 * (20 - len(held_out))
    assert held_out
    assert not any(s.boxes for s in held_out)
    frames, masks = make_batch(train, np.random.default_rng(0), 40, 32, 0.5, Augmentation(paste=0.5, scale=2))
    assert frames.shape == masks.shape == (40, 1, 32, 32)


def test_half_of_the_real_clips_are_read(data):
    """The clips are 40, their frames 320x256, and every one has a box with room beside it."""
    names = sorted(clip_names(data / "ir-video"))
    assert len(names) == 40
    for sample in read_video(data / "ir-video", names[:4:2], 100):
        assert sample.frame.shape == (256, 320)
        assert len(sample.boxes) == 1
        assert sample.free


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
