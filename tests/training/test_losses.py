"""The parts of the loss on tensors whose values are worked out by hand."""

import math

import pytest
import torch

from training.losses import fidelity_loss, pixel_loss, soft_iou_loss

SURE = 40.0  # sigmoid(40) is 1 to float32


def image(*pixels):
    return torch.tensor(pixels).reshape(1, 1, 1, -1)


IOU = [
    ("everything right", image(SURE, SURE, -SURE, -SURE), image(1.0, 1, 0, 0), 1 - 3 / 3),
    ("one of two found", image(SURE, -SURE, -SURE, -SURE), image(1.0, 1, 0, 0), 1 - 2 / 3),
    ("one right and one false", image(SURE, -SURE, SURE, -SURE), image(1.0, 1, 0, 0), 1 - 2 / 4),
    ("nothing there and nothing found", image(-SURE, -SURE), image(0.0, 0), 0.0),
    ("nothing there and all found", image(SURE, SURE, SURE), image(0.0, 0, 0), 1 - 1 / 4),
    ("undecided", image(0.0, 0.0), image(1.0, 0), 1 - 1.5 / 2.5),
]


@pytest.mark.parametrize(("why", "logits", "masks", "want"), IOU, ids=[c[0] for c in IOU])
def test_soft_iou(why, logits, masks, want):
    """1 - (overlap + 1) / (union + 1)."""
    assert soft_iou_loss(logits, masks).item() == pytest.approx(want, abs=1e-6)


def test_soft_iou_is_a_mean_over_images():
    """A large target in one image does not drown a small one in another."""
    logits = torch.stack([image(SURE, SURE)[0], image(-SURE, -SURE)[0]])
    masks = torch.stack([image(1.0, 1)[0], image(1.0, 0)[0]])
    assert soft_iou_loss(logits, masks).item() == pytest.approx((0 + (1 - 1 / 2)) / 2)


def test_cross_entropy_does_not_tire():
    """A confident false target costs its whole logit, however many there are."""
    logits, masks = torch.full((1, 1, 8, 8), 20.0), torch.zeros(1, 1, 8, 8)
    assert pixel_loss(logits, masks).item() == pytest.approx(20.0)
    assert pixel_loss(-logits, masks).item() == pytest.approx(0.0, abs=1e-6)
    assert pixel_loss(0 * logits, masks).item() == pytest.approx(math.log(2))


def test_fidelity_is_the_mean_squared_error():
    """D^K against D."""
    assert fidelity_loss(image(0.5, 0.0), image(0.0, 0.0)).item() == pytest.approx(0.125)
