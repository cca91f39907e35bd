import cv2
import numpy as np
import pytest

from stream.sources.base import EndOfSource, SourceError
from stream.sources.images import ImagesSource

RNG = np.random.default_rng(0)
GRAY8 = RNG.integers(0, 256, (40, 50), dtype=np.uint8)
GRAY16 = RNG.integers(0, 65536, (40, 50), dtype=np.uint16)


def put(folder, name, pixels):
    assert cv2.imwrite(str(folder / name), pixels)
    return folder / name


def drain(source):
    frames = []
    try:
        while True:
            frames.append(source.read(1.0))
    except EndOfSource:
        return frames


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_8_bit_images_are_exact(tmp_path, suffix):
    put(tmp_path, f"a.{suffix}", GRAY8)
    source = ImagesSource(tmp_path, 30, live=False)
    assert (source.info.width, source.info.height, source.info.bits, source.info.fps) == (50, 40, 8, 30)
    np.testing.assert_array_equal(source.read(1.0).pixels, GRAY8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_images_are_exact(tmp_path, suffix):
    put(tmp_path, f"a.{suffix}", GRAY16)
    source = ImagesSource(tmp_path, 30, live=False)
    assert source.info.bits == 16
    np.testing.assert_array_equal(source.read(1.0).pixels, GRAY16)


def test_colour_of_equal_channels_is_that_gray(tmp_path):
    put(tmp_path, "a.png", np.dstack([GRAY8] * 3))
    np.testing.assert_array_equal(ImagesSource(tmp_path, 30, live=False).read(1.0).pixels, GRAY8)


def test_images_come_in_natural_order_and_other_files_are_passed_over(tmp_path):
    for number in (10, 9, 1, 100, 2):
        put(tmp_path, f"f{number}.png", np.full((40, 50), number, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "sub.png").mkdir()
    frames = drain(ImagesSource(tmp_path, 20, live=False))
    assert [frame.pixels[0, 0] for frame in frames] == [1, 2, 9, 10, 100]
    assert [frame.camera_ns for frame in frames] == [index * 50_000_000 for index in range(5)]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        # Not an image at all.
        (lambda d: (d / "b.png").write_bytes(b"hello"), "not an image"),
        # No bytes.
        (lambda d: (d / "b.png").write_bytes(b""), "not an image"),
        # A PNG that is cut off.
        (lambda d: cut(put(d, "b.png", GRAY8)), "cut off"),
        # A JPEG that is cut off, which decoders fill with gray.
        (lambda d: cut(put(d, "b.jpg", GRAY8)), "cut off"),
        # A TIFF that is cut off.
        (lambda d: cut(put(d, "b.tif", GRAY8)), "cut off"),
        # Another size.
        (lambda d: put(d, "b.png", GRAY8[:20]), "50x20 of 8 bit after images of 50x40"),
        # Another depth.
        (lambda d: put(d, "b.png", GRAY16), "16 bit after images of 50x40 of 8 bit"),
        # 16-bit colour.
        (lambda d: put(d, "b.png", np.dstack([GRAY16] * 3)), "16-bit colour"),
        # Floating-point pixels.
        (lambda d: put(d, "b.tif", GRAY8.astype(np.float32)), "float32"),
        # A stack of images in one file.
        (lambda d: cv2.imwritemulti(str(d / "b.tif"), [GRAY8, GRAY8]), "2 pages"),
    ],
)
def test_a_bad_image_is_named_after_the_good_ones_before_it(tmp_path, spoil, says):
    put(tmp_path, "a.png", GRAY8)
    spoil(tmp_path)
    source = ImagesSource(tmp_path, 30, live=False)
    assert source.read(1.0) is not None
    with pytest.raises(SourceError, match=says) as caught:
        source.read(1.0)
    assert str(tmp_path / "b.") in str(caught.value)
    assert "\n" not in str(caught.value)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(SourceError, match="no image in it"):
        ImagesSource(tmp_path, 30, live=False)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no such file or directory"):
        ImagesSource(tmp_path / "none", 30, live=False)


def test_live_images_are_due_at_the_folders_rate_and_a_timeout_loses_none(tmp_path, clock):
    start = clock.ns
    for index in range(3):
        put(tmp_path, f"{index}.png", np.full((40, 50), index, np.uint8))
    source = ImagesSource(tmp_path, 10, live=True)
    frames, nones = [], 0
    while len(frames) < 3:
        frame = source.read(0.03)
        nones += frame is None
        frames += [frame] if frame else []
    assert nones == 6
    assert [frame.pixels[0, 0] for frame in frames] == [0, 1, 2]
    assert [frame.captured_ns for frame in frames] == [start + index * 100_000_000 for index in range(3)]
    with pytest.raises(EndOfSource):
        source.read(0.03)
