"""Pictures are drawn, of the right size and with what they should show in them."""

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the train extra is not installed: pip install 'irstream[train]'")

from training.data import Sample
from training.measure import Judged, worst_of
from training.metrics import Tally
from training.pictures import draw_gallery, draw_noise, draw_roc, draw_stages, stages_of
from training.roc import Roc


def judged(name, found, mask):
    tally = Tally()
    tally.add(found, mask)
    return Judged(name, Sample(name, np.where(mask, 200, 50).astype(np.uint8), mask), found, tally)


MASK = np.zeros((60, 90), bool)
MASK[20:23, 40:43] = True
EMPTY = np.zeros_like(MASK)
SHIFTED = np.roll(MASK, 1, 1)


def has(path, colour):
    """Tell whether a picture has pixels of about an RGB colour."""
    image = cv2.imread(str(path))[..., ::-1] / 255
    return bool((np.abs(image - colour).max(2) < 0.02).any())


def test_gallery_shows_hits_misses_and_false_pixels(tmp_path):
    """A shifted find has all three colours, and one that is all missed has no red."""
    for name, found, red in [("shifted", SHIFTED, True), ("missed", EMPTY, False)]:
        path = tmp_path / f"{name}.png"
        draw_gallery(path, [judged(name, found, MASK)])
        assert has(path, (0.95, 0.2, 0.2)) == red
        assert has(path, (0.25, 0.8, 0.3)) == red
        assert has(path, (1.0, 0.8, 0.1))


def test_the_worst_come_first():
    """By IoU, then by wrong pixels; what is without fault is left out, a false alarm on an empty frame is not."""
    frames = [judged("right", MASK, MASK), judged("shifted", SHIFTED, MASK), judged("missed", EMPTY, MASK)]
    frames += [judged("nothing", EMPTY, EMPTY), judged("alarm", MASK | np.roll(MASK, 9, 0), EMPTY)]
    assert [each.label for each in worst_of(frames)] == ["alarm", "missed", "shifted"]


@pytest.mark.parametrize("mask", [MASK, EMPTY], ids=["a target", "no target"])
def test_stages(mask, tmp_path, make_network):
    """A column a stage and one for the frame; the same network answers as in use."""
    network = make_network(stages=2)
    sample = Sample("f", np.where(mask, 200, 50).astype(np.uint8), mask)
    found = stages_of(network, sample.frame)
    assert [stage.keys() for stage in found] == [set("BTND")] * 2
    assert {image.shape for stage in found for image in stage.values()} == {mask.shape}
    draw_stages(tmp_path / "s.png", "net", [(sample, found), (sample, found)])
    height, width, _ = cv2.imread(str(tmp_path / "s.png")).shape
    assert height > 1.5 * width


def test_stages_without_f_and_m(tmp_path, make_network):
    """N and D, which such a network does not make, are left out."""
    sample = Sample("f", np.full(MASK.shape, 50, np.uint8), MASK)
    found = stages_of(make_network(stages=2, rebuild=False), sample.frame)
    assert all((stage["N"], stage["D"]) == (None, None) for stage in found)
    draw_stages(tmp_path / "s.png", "net", [(sample, found)])


POINT = {"fa": 1e-5, "recall": 0.9, "fa_centroid": 1e-6, "pd_centroid": 0.8}  # at the network's own threshold


def test_noise_and_roc(tmp_path):
    """Curves of two networks; a panel a kind of noise."""
    levels = [("gaussian", 5), ("gaussian", 10), ("poisson", 100), ("salt-pepper", 0.01)]
    noise = [{"kind": kind, "level": level, "iou": 0.4} for kind, level in levels]
    results = [{"model": name, "data": "d", "iou": 0.8, "noise": noise, **POINT} for name in "ab"]
    draw_noise(tmp_path / "noise.png", results)
    roc = Roc()
    roc.add(np.where(MASK, 3, -3).astype(np.float32), MASK)
    draw_roc(tmp_path / "roc.png", [(result, roc) for result in results])
    for name in ("noise", "roc"):
        assert cv2.imread(str(tmp_path / f"{name}.png")).std() > 10


def test_many_curves_keep_their_room(tmp_path):
    """A legend of 21 lines makes the picture higher, not the curves lower."""
    roc = Roc()
    roc.add(np.where(MASK, 3, -3).astype(np.float32), MASK)
    heights = []
    for curves in (1, 21):
        draw_roc(tmp_path / "roc.png", [({"model": f"m{index}", "data": "d", **POINT}, roc) for index in range(curves)])
        dark = (cv2.imread(str(tmp_path / "roc.png"), cv2.IMREAD_GRAYSCALE) < 30).sum(0)
        heights.append(dark.max())  # of the left axis, which is a black line
    assert heights[1] > 0.9 * heights[0] > 270
